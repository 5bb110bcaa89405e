//! Signals delivered exactly at a boundary, and what becomes of their handlers.
//!
//! A stop at a breakpoint is the delivery of a SIGTRAP. The tracer replaces that signal with the one
//! that is wanted, with a record of its own, and the kernel delivers it there and then: no second
//! stop, and nothing of the program runs in between. The thread continues by a single step, which
//! with a signal ends at the handler's first instruction.
//!
//! There SP is the signal's frame. The frame says where the handler will return to (the restorer),
//! which is put into a debug register of the thread, and where the thread goes on.

use std::collections::BTreeSet;

use super::breakpoints::Lifetime;
use super::debug_registers::DebugRegisters;
use super::error::{During, Error, Result};
use super::event::Event;
use super::ptrace;
use super::signals::{self, Origin, has_signal};
use super::thread::{Delivery, Resent, ReturnBy, Sending, Stashed, State, Stop, Thread};
use super::tracer::Tracer;

/// The fate of a signal that was to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The thread goes on with it: [`Event::HandlerEntered`] follows, or [`Event::NotHandled`].
    Delivered,
    /// The thread blocks the signal. It is still held, and has not received it.
    Blocked,
    /// The thread is gone; its exit follows.
    Gone,
}

/// The part of the kernel's signal frame that is read, in bytes: restorer, flags, link, the alternate
/// stack (address, flags, size), and the registers up to RIP.
const FRAME: usize = 184;

impl Tracer {
    /// Lets a held thread go on with a signal, which it receives before it runs another instruction.
    /// The signal says that it comes from `origin`; without one it keeps the record that it has
    /// (where the thread is held for that very signal).
    ///
    /// The caller sees to it that the signal has a handler ([`Tracer::signal_sets`]): without one
    /// it may end the process. A signal of the program's own for which the thread is held is sent
    /// again: it arrives, with its own record, at the handler's first instruction.
    ///
    /// # Errors
    ///
    /// If the thread is not held, or its stop is not for a breakpoint, a signal, a step or a
    /// handler's return. [`Tracer::send`] reaches a thread anywhere.
    pub fn deliver(&mut self, tid: i32, signal: i32, origin: Option<Origin>) -> Result<Sent> {
        let thread = self.held(tid)?;
        let (pid, pc, own) = (thread.pid, thread.regs.pc(), thread.signal);
        if !matches!(thread.stop, Stop::Signal | Stop::Called) {
            return Err(Error::NoBoundary { tid });
        }
        let read = || if thread.mask_is_current { Ok(thread.mask) } else { ptrace::signal_mask(tid) };
        let mask = match read() {
            Err(error) if ptrace::is_gone(&error) => return Ok(Sent::Gone),
            other => other.during("reading the signal mask", tid)?,
        };
        if has_signal(mask, signal) {
            return Ok(Sent::Blocked);
        }
        if own != 0 && own != signal {
            self.send_again(tid, own)?;
        }
        if self.held(tid)?.stop == Stop::Called {
            // The stop is no signal's any more. One that is sent arrives before the next instruction.
            self.tgkill(tid, signal)?;
            let thread = self.held_mut(tid)?;
            thread.resent = Some(Resent { signal, origin, at: thread.at.take() });
            return self.go(tid, 0).map(|()| Sent::Delivered);
        }
        if let Some(origin) = origin {
            let record = signals::record(signal, origin, pid);
            ptrace::unless_gone(ptrace::set_signal_info(tid, &record)).during("changing a signal", tid)?;
        }
        let laid = self.space(pid)?.breakpoints.is_laid(pc);
        let thread = self.held_mut(tid)?;
        let sp = thread.regs.sp();
        if thread.at.take() == Some(pc) && laid {
            thread.will_pass(pc, sp);
        }
        let restarts = thread.regs.restarts_syscall();
        if restarts {
            // The frame tells whether the call is made again.
            thread.passes(pc.wrapping_sub(2), sp);
        }
        thread.sending = Some(Sending { signal, pc, sp, restarts, own: false });
        self.go(tid, signal).map(|()| Sent::Delivered)
    }

    /// Sends the program's own signal for which a thread is held once more, and keeps its record: the
    /// kernel's new one has the tracer for a sender, and no fault's address, timer or value.
    fn send_again(&mut self, tid: i32, signal: i32) -> Result<()> {
        // After an injected call the record has been kept already.
        if self.held(tid)?.stop == Stop::Signal {
            let info = ptrace::signal_info(tid).during("reading a signal", tid)?;
            self.held_mut(tid)?.stashed.push(Stashed { info, reported: true });
        }
        self.tgkill(tid, signal)
    }

    /// Sends a signal to a thread, wherever it is: [`Event::Signal`] follows unless the thread blocks
    /// the signal. Its sender is the tracer's own process.
    ///
    /// # Errors
    ///
    /// If there is no such signal.
    pub fn send(&mut self, tid: i32, signal: i32) -> Result<()> {
        self.tgkill(tid, signal)
    }

    pub(super) fn tgkill(&self, tid: i32, signal: i32) -> Result<()> {
        let pid = self.process_of(tid).unwrap_or(tid);
        // SAFETY: The call sends a signal to a thread of the traced program.
        let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
        let result = if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
        ptrace::unless_gone(result).during("sending a signal", tid)
    }

    /// Chooses how the returns of handlers are seen, for signals that are delivered from now on. Debug registers
    /// also take over the handlers in which a thread is held now, and restorers get their own bytes back: so a
    /// caller may choose them at a handler's entry, before the handler runs.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a debug register, or to change code.
    pub fn see_returns(&mut self, by: ReturnBy) -> Result<()> {
        self.return_by = by;
        if by == ReturnBy::Breakpoint {
            return Ok(());
        }
        let is_open = |thread: &&Thread| !thread.deliveries.is_empty();
        let (held, running): (Vec<&Thread>, Vec<&Thread>) =
            self.threads.values().filter(is_open).partition(|thread| thread.state == State::Held);
        let held: Vec<i32> = held.into_iter().map(|thread| thread.tid).collect();
        let kept: BTreeSet<u64> =
            running.into_iter().flat_map(|thread| &thread.deliveries).map(|open| open.restorer).collect();
        for tid in held {
            self.watch_by_register(tid)?;
        }
        for pid in self.processes() {
            let stopped = self.stopped_in(pid);
            let space = self.space_mut(pid)?;
            let lifted: Vec<u64> = space.returns.difference(&kept).copied().collect();
            space.breakpoints.lift(&space.memory, &lifted, stopped)?;
            space.returns.retain(|restorer| kept.contains(restorer));
        }
        Ok(())
    }

    /// Has the innermost restorers of a held thread's handlers in its debug registers.
    fn watch_by_register(&mut self, tid: i32) -> Result<()> {
        let Thread { debug, deliveries, .. } = self.held_mut(tid)?;
        let set = |debug: &mut DebugRegisters| {
            deliveries.iter().rev().try_for_each(|delivery| debug.set(tid, delivery.restorer).map(|_| ()))
        };
        let innermost = deliveries.last().map_or(Ok(true), |delivery| debug.set(tid, delivery.restorer));
        let watched = match innermost {
            // All four are taken by restorers, some of handlers that have long returned.
            Ok(false) => debug.clear(tid).and_then(|()| set(debug)),
            Ok(true) => set(debug),
            Err(error) => Err(error),
        };
        ptrace::unless_gone(watched).during("setting a debug register", tid)
    }

    /// Lays a breakpoint at a restorer unless there is one.
    pub(super) fn watch_restorer(&mut self, tid: i32, restorer: u64) -> Result<()> {
        let pid = self.process_of(tid).unwrap_or(tid);
        let space = self.space_mut(pid)?;
        if !space.breakpoints.is_laid(restorer) {
            space.check(&[restorer])?;
            space.breakpoints.lay(&space.memory, &[restorer], Lifetime::Stays, Some(tid))?;
            space.relaid(&[restorer]);
            space.returns.insert(restorer);
        }
        Ok(())
    }

    /// The restorers of this address space to which a handler is to return.
    pub(super) fn open_restorers(&self, pid: i32) -> BTreeSet<u64> {
        let threads = self.threads.values().filter(|thread| thread.pid == pid);
        threads.flat_map(|thread| &thread.deliveries).map(|delivery| delivery.restorer).collect()
    }

    /// The deliveries whose handlers run in a thread, the innermost last.
    pub fn deliveries(&self, tid: i32) -> &[Delivery] {
        self.threads.get(&tid).map_or(&[], |thread| &thread.deliveries)
    }

    /// A thread is at the first instruction of its handler for the signal that was delivered.
    pub(super) fn entered(&mut self, tid: i32) -> Result<()> {
        let thread = self.held_mut(tid)?;
        let Some(sending) = thread.sending.take() else { return Ok(()) };
        thread.stop = Stop::Entry;
        let stepping = std::mem::take(&mut thread.stepping);
        let (pid, frame, handler) = (thread.pid, thread.regs.sp(), thread.regs.pc());
        let mut bytes = [0; FRAME];
        let space = self.space(pid)?;
        space.memory.read(frame, &mut bytes)?;
        let word = |offset: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[offset..offset + 8]);
            u64::from_le_bytes(word)
        };
        let (restorer, resumes_at) = (word(0), word(176));
        let stack = word(24)..word(24).saturating_add(word(40));
        let stack = (stack.contains(&frame) && !stack.contains(&sending.sp)).then_some(stack);
        // After EINTR the thread goes on behind the call, where it has not been yet.
        let again = sending.restarts && resumes_at != sending.pc && space.breakpoints.is_laid(resumes_at);
        if sending.own {
            let thread = self.held_mut(tid)?;
            if again {
                thread.will_pass(resumes_at, word(168));
            }
            if stepping {
                self.events.push_back(Event::Stepped { tid });
                return Ok(());
            }
            return self.proceed(tid, 0);
        }
        let delivery = Delivery {
            signal: sending.signal,
            pc: sending.pc,
            sp: sending.sp,
            resumes_at,
            handler,
            frame,
            restorer,
            stack,
        };
        let by = self.return_by;
        let thread = self.held_mut(tid)?;
        if again {
            thread.will_pass(resumes_at, word(168));
        }
        thread.deliveries.push(delivery.clone());
        if by == ReturnBy::Breakpoint {
            self.watch_restorer(tid, restorer)?;
            self.events.push_back(Event::HandlerEntered { tid, delivery });
            return Ok(());
        }
        self.watch_by_register(tid)?;
        self.events.push_back(Event::HandlerEntered { tid, delivery });
        Ok(())
    }
}
