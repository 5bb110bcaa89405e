//! The meaning of a stop: from a status of `wait4` to an event, or to a thread that goes on unseen.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::breakpoints::{Lifetime, Trapped};
use super::debug_registers::DebugRegisters;
use super::error::{During, Result};
use super::event::Event;
use super::ptrace::{self, EVENT_STOP, SyscallStop};
use super::signals::{SI_KERNEL, SI_TKILL, SignalInfo, TRAP_HWBKPT, TRAP_SYSCALL, TRAP_TRACE};
use super::space::Moved;
use super::thread::{Delivery, ReturnBy, Stashed, Stop, Unwritten};
use super::tracer::Tracer;

/// `si_code` of the stop that a single step with a signal makes at the handler's first instruction.
const TRAP_ENTRY: i32 = libc::SIGTRAP;

impl Tracer {
    /// Handles a status. A thread that is killed while its stop is looked at is no error.
    pub(super) fn handle(&mut self, tid: i32, status: i32) -> Result<()> {
        let handled = self.understand(tid, status);
        self.unless_killed(tid, handled)
    }

    /// `Ok` if the thread is gone by now: its exit follows.
    pub(super) fn unless_killed(&self, tid: i32, result: Result<()>) -> Result<()> {
        match result {
            Err(_) if ptrace::signal_mask(tid).is_err_and(|error| ptrace::is_gone(&error)) => Ok(()),
            other => other,
        }
    }

    fn understand(&mut self, tid: i32, status: i32) -> Result<()> {
        if !libc::WIFSTOPPED(status) {
            self.ended(tid, status);
            return Ok(());
        }
        let (event, signal) = (status >> 16, libc::WSTOPSIG(status));
        if event == libc::PTRACE_EVENT_EXEC && self.processes.contains_key(&tid) {
            return self.executed(tid);
        }
        if !self.threads.contains_key(&tid) {
            return self.was_born(tid);
        }
        match (event, signal) {
            (libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK, _) => {
                if self.stopped(tid, Stop::Syscall)? { self.gave_birth(tid, event) } else { Ok(()) }
            }
            (EVENT_STOP, _) => self.interruption(tid, signal),
            (0, signal) if signal == libc::SIGTRAP | 0x80 => self.syscall(tid),
            (0, libc::SIGTRAP) => self.trap(tid),
            (0, _) => self.signal(tid),
            _ => {
                if self.stopped(tid, Stop::Syscall)? {
                    self.proceed(tid, 0)
                } else {
                    Ok(())
                }
            }
        }
    }

    pub(super) fn ended(&mut self, tid: i32, status: i32) {
        self.expected.remove(&tid);
        self.early.remove(&tid);
        let thread = self.threads.remove(&tid);
        if let Some(process) = self.processes.remove(&tid) {
            self.threads.retain(|_, thread| thread.pid != tid);
            self.leave_space(process.space);
            self.events.push_back(Event::ProcessExited { pid: tid, status: ExitStatus::from_raw(status) });
            if self.processes.is_empty() && self.let_go.is_empty() {
                // The group is empty: its number may soon be another's.
                self.guard = None;
            }
        } else if let Some(thread) = thread {
            self.events.push_back(Event::ThreadExited { tid, pid: thread.pid });
        }
    }

    /// Notes a stop, and takes the thread out of the scratch area. Returns whether it is still there.
    fn stopped(&mut self, tid: i32, stop: Stop) -> Result<bool> {
        Ok(self.hold(tid, stop)? && self.normalise(tid).map(|_| true)?)
    }

    /// Gives a thread that stopped in the scratch area the registers of the original.
    pub(super) fn normalise(&mut self, tid: i32) -> Result<Moved> {
        let Some(thread) = self.threads.get(&tid) else { return Ok(Moved::No) };
        let mut regs = thread.regs;
        let moved = self.space_of(tid)?.original(&mut regs);
        if moved != Moved::No
            && let Some(thread) = self.threads.get_mut(&tid)
        {
            (thread.regs, thread.unwritten) = (regs, Unwritten::All);
            if let Moved::Before(address) = moved {
                thread.at = Some(address);
            }
        }
        Ok(moved)
    }

    fn is_followed(&self, tid: i32) -> bool {
        let process = self.process_of(tid).and_then(|pid| self.processes.get(&pid));
        process.is_some_and(|process| process.followed)
    }

    fn interruption(&mut self, tid: i32, signal: i32) -> Result<()> {
        if !self.stopped(tid, Stop::Interruption)? {
            return Ok(());
        }
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let was_stopped = thread.group_stop;
        thread.group_stop = signal != libc::SIGTRAP;
        if std::mem::take(&mut thread.interrupting) {
            self.events.push_back(Event::Interrupted { tid });
            return Ok(());
        }
        if thread.group_stop && !was_stopped {
            self.events.push_back(Event::GroupStopped { tid, signal });
        }
        self.proceed(tid, 0)
    }

    fn syscall(&mut self, tid: i32) -> Result<()> {
        if !self.stopped(tid, Stop::Syscall)? {
            return Ok(());
        }
        let stop = match ptrace::syscall_stop(tid) {
            Err(error) if ptrace::is_gone(&error) => return Ok(()),
            other => other.during("reading a system call", tid)?,
        };
        let wanted = self.is_followed(tid) && self.threads.get(&tid).is_some_and(|thread| thread.syscalls);
        match stop {
            SyscallStop::Entry { number, args } if wanted => {
                self.events.push_back(Event::SyscallEntered { tid, number, args });
            }
            SyscallStop::Exit { result } if wanted => {
                self.events.push_back(Event::SyscallReturned { tid, result });
            }
            _ => return self.proceed(tid, 0),
        }
        Ok(())
    }

    fn signal(&mut self, tid: i32) -> Result<()> {
        if !self.hold(tid, Stop::Signal)? {
            return Ok(());
        }
        let mut info = match ptrace::signal_info(tid) {
            Err(error) if ptrace::is_gone(&error) => return Ok(()),
            other => other.during("reading a signal", tid)?,
        };
        let pc = self.held(tid)?.regs.pc();
        let moved = self.normalise(tid)?;
        if let Moved::Before(address) = moved
            && SignalInfo::from_raw(&info).address == pc
        {
            // A fault of the instruction in its slot is the original's.
            // SAFETY: A fault's record has the address as its first word after the head of 16 bytes.
            unsafe { (&raw mut info).cast::<u64>().add(2).write(address) };
            ptrace::unless_gone(ptrace::set_signal_info(tid, &info)).during("changing a signal", tid)?;
        }
        self.arrived(tid, info)
    }

    /// A signal of the program's own arrives, or one that was sent in place of a delivery.
    fn arrived(&mut self, tid: i32, mut info: libc::siginfo_t) -> Result<()> {
        let thread = self.held_mut(tid)?;
        thread.signal = info.si_signo;
        let resent = thread.resent.take_if(|resent| resent.signal == info.si_signo);
        let stashed = thread.unstash(&info);
        if let Some(stashed) = stashed {
            info = stashed.info;
            ptrace::unless_gone(ptrace::set_signal_info(tid, &info)).during("changing a signal", tid)?;
        }
        if let Some(resent) = resent {
            self.held_mut(tid)?.at = resent.at;
            return self.deliver(tid, resent.signal, resent.origin).map(|_| ());
        }
        if stashed.is_some_and(|stashed| !stashed.reported) {
            return self.proceed(tid, info.si_signo);
        }
        self.report_signal(tid, info)
    }

    fn report_signal(&mut self, tid: i32, info: libc::siginfo_t) -> Result<()> {
        let thread = self.held_mut(tid)?;
        thread.signal = info.si_signo;
        let unhandled = thread.sending.take().and_then(|sending| sending.not_handled(tid));
        self.events.extend(unhandled);
        self.note_left(tid);
        if self.is_followed(tid) {
            self.events.push_back(Event::Signal { tid, info: SignalInfo::from_raw(&info) });
            return Ok(());
        }
        self.proceed(tid, info.si_signo)
    }

    fn trap(&mut self, tid: i32) -> Result<()> {
        if !self.hold(tid, Stop::Signal)? {
            return Ok(());
        }
        let before = self.held(tid)?.regs.pc().wrapping_sub(1);
        if self.space_of(tid)?.returns.contains(&before) {
            // No other way leads into the middle of the restorer's first instruction.
            return self.breakpoint(tid, before);
        }
        let info = match ptrace::signal_info(tid) {
            Err(error) if ptrace::is_gone(&error) => return Ok(()),
            other => other.during("reading a trap", tid)?,
        };
        let thread = self.held_mut(tid)?;
        let own = |stashed: &Stashed| stashed.info.si_signo == libc::SIGTRAP && !stashed.reported;
        if info.si_code == SI_TKILL || thread.stashed.iter().any(own) {
            // Sent, or reported before the thread was made to make a system call.
            self.normalise(tid)?;
            return self.arrived(tid, info);
        }
        let pc = thread.regs.pc();
        match info.si_code {
            SI_KERNEL => self.breakpoint(tid, pc.wrapping_sub(1)),
            TRAP_HWBKPT if thread.debug.has(pc) => self.at_restorer(tid),
            TRAP_ENTRY if thread.sending.is_some() => self.entered(tid),
            TRAP_TRACE | TRAP_SYSCALL | TRAP_ENTRY if thread.stepping || thread.sending.is_some() => {
                self.stepped(tid)
            }
            _ => {
                self.normalise(tid)?;
                self.report_signal(tid, info)
            }
        }
    }

    /// An `int3` at `address` was run.
    fn breakpoint(&mut self, tid: i32, address: u64) -> Result<()> {
        let space = self.space_of(tid)?;
        let trapped = space.breakpoints.trapped(&space.memory, address);
        if trapped == Trapped::Foreign {
            self.held_mut(tid)?.stepping = false;
            let info = match ptrace::signal_info(tid) {
                Err(error) if ptrace::is_gone(&error) => return Ok(()),
                other => other.during("reading a trap", tid)?,
            };
            self.report_signal(tid, info)?;
            let process = self.process_of(tid).and_then(|pid| self.processes.get(&pid));
            if self.is_held(tid) && process.is_some_and(|process| process.trap_action.is_none()) {
                self.look_up_trap_action(tid)?;
            }
            return Ok(());
        }
        let thread = self.held_mut(tid)?;
        thread.set_pc(address);
        // A step that met a breakpoint has not been made.
        thread.stepping = false;
        let sp = thread.regs.sp();
        let unhandled = thread.sending.take().and_then(|sending| sending.not_handled(tid));
        let ours = self.space_of(tid)?.returns.contains(&address);
        if !ours || self.keeps_trap_action(tid) {
            self.mend_trap(tid)?;
        }
        self.events.extend(unhandled);
        let Trapped::Here(lifetime) = trapped else { return self.proceed(tid, 0) };
        let followed = self.is_followed(tid);
        let thread = self.held_mut(tid)?;
        let returns = |delivery: &Delivery| delivery.restorer == address && delivery.frame + 8 == sp;
        if let Some(index) = thread.deliveries.iter().rposition(returns) {
            // A caller's own breakpoint is met again, and reported then.
            thread.at = ours.then_some(address);
            self.returned(tid, index);
            return Ok(());
        }
        thread.at = Some(address);
        if ours {
            self.note_left(tid);
            return self.proceed(tid, 0);
        }
        // A handler that was left does not come back: this is a visit.
        self.note_left(tid);
        if !followed || self.held_mut(tid)?.passes(address, sp) {
            return self.proceed(tid, 0);
        }
        if lifetime == Lifetime::OneShot {
            let pid = self.held(tid)?.pid;
            let space = self.space_mut(pid)?;
            space.breakpoints.lift_hit(&space.memory, address, tid)?;
            if self.return_by == ReturnBy::Breakpoint && self.open_restorers(pid).contains(&address) {
                self.watch_restorer(tid, address)?;
            }
        }
        self.events.push_back(Event::Breakpoint { tid, address, lifetime });
        Ok(())
    }

    /// A handler, ours or another, returns to the restorer.
    fn at_restorer(&mut self, tid: i32) -> Result<()> {
        ptrace::unless_gone(DebugRegisters::acknowledge(tid)).during("clearing a debug register", tid)?;
        self.mend_trap(tid)?;
        let thread = self.held_mut(tid)?;
        thread.stepping = false;
        let sp = thread.regs.sp();
        let Some(index) = thread.deliveries.iter().rposition(|delivery| delivery.frame + 8 == sp) else {
            self.note_left(tid);
            let thread = self.held_mut(tid)?;
            if thread.deliveries.is_empty() {
                ptrace::unless_gone(thread.debug.clear(tid)).during("clearing a debug register", tid)?;
            }
            return self.proceed(tid, 0);
        };
        self.returned(tid, index);
        Ok(())
    }

    /// The handler of a thread's delivery with this index returns; those inside it were left.
    fn returned(&mut self, tid: i32, index: usize) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let left = thread.deliveries.split_off(index + 1);
        left.iter().for_each(|delivery| thread.forget_passing(delivery));
        let returned = thread.deliveries.pop();
        self.events.extend(left.into_iter().rev().map(|delivery| Event::HandlerLeft { tid, delivery }));
        self.events.extend(returned.map(|delivery| Event::HandlerReturned { tid, delivery }));
    }

    /// One instruction was run.
    fn stepped(&mut self, tid: i32) -> Result<()> {
        let moved = self.normalise(tid)?;
        self.mend_trap(tid)?;
        let thread = self.held_mut(tid)?;
        let stepping = thread.stepping;
        if let Some(sending) = thread.sending.take() {
            // The signal was dropped, and the step went into the program.
            self.events.extend(sending.not_handled(tid));
            if !stepping {
                return self.proceed(tid, 0);
            }
        }
        if matches!(moved, Moved::Before(_)) {
            // A repeated string instruction steps once an iteration.
            return self.proceed(tid, 0);
        }
        self.held_mut(tid)?.stepping = false;
        self.hide_trap_flag(tid)?;
        self.note_left(tid);
        self.events.push_back(Event::Stepped { tid });
        Ok(())
    }

    /// A step sets the trap flag, which `pushf` and `syscall` let the program see: takes it out of
    /// the word pushed, or out of R11.
    fn hide_trap_flag(&mut self, tid: i32) -> Result<()> {
        const TRAP_FLAG: u64 = 1 << 8;
        let thread = self.held(tid)?;
        let (pid, sp) = (thread.pid, thread.regs.sp());
        let Some(from) = thread.step_from else { return Ok(()) };
        let mut code = [0; 2];
        let space = self.space(pid)?;
        if space.read(from, &mut code).is_err() {
            return Ok(());
        }
        match code {
            [0x9c, _] | [0x66 | 0x40..=0x4f, 0x9c] => {
                let word = space.memory.word(sp)? & !TRAP_FLAG;
                space.memory.write(sp, &word.to_le_bytes(), Some(tid))?;
            }
            [0x0f, 0x05] => {
                let thread = self.held_mut(tid)?;
                thread.regs.0.r11 &= !TRAP_FLAG;
                thread.unwritten = Unwritten::All;
            }
            _ => {}
        }
        Ok(())
    }

    /// Reports the handlers that a stopped thread has left by a long jump.
    fn note_left(&mut self, tid: i32) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let sp = thread.regs.sp();
        while let Some(delivery) = thread.take_left(sp) {
            self.events.push_back(Event::HandlerLeft { tid, delivery });
        }
    }
}
