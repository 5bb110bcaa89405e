//! System calls that a stopped thread is made to make.
//!
//! The thread gets the registers of the call, with every signal blocked and `orig_rax` -1 (the
//! kernel must not think that it was in a call of its own), runs a `syscall` instruction of the
//! program's (the vDSO has one), and gets its registers and its mask back. System-call stops bound
//! it: they are no signals, so the program's SIGTRAP is not involved.
//!
//! It is never done to a thread that was stopped in a system call which is to be made again: the
//! kernel would have forgotten how.

use std::io;

use super::error::{During, Error, Result};
use super::maps;
use super::ptrace::{self, EVENT_STOP, Go, SyscallStop};
use super::registers::Registers;
use super::signals::{self, Action};
use super::space::PAGE;
use super::thread::{Stashed, Stop, Unwritten};
use super::tracer::Tracer;

/// The other stops that a thread has made during an injected call. They are made again after it.
#[derive(Debug, Default)]
struct Meanwhile {
    /// Signals: SIGSTOP, which cannot be blocked, or a SIGSYS that was sent. They are sent when the call is over, because the kernel
    /// takes a pending signal before the thread runs an instruction.
    signals: Vec<i32>,
    /// An interruption that was asked for, or the stop of the whole process.
    stopped: bool,
}

impl Tracer {
    /// The action of the held thread's process for a signal. The thread is made to ask the kernel.
    ///
    /// # Errors
    ///
    /// If the thread is not held at an instruction of the program's (but, say, in a system call).
    pub fn action(&mut self, tid: i32, signal: i32) -> Result<Action> {
        self.held(tid)?;
        self.action_of(tid, signal)
    }

    pub(super) fn action_of(&mut self, tid: i32, signal: i32) -> Result<Action> {
        let page = self.page(tid)?;
        let result = self.call(tid, libc::SYS_rt_sigaction, [signal as u64, 0, page, 8, 0, 0])?;
        check(result).during("asking for a signal's action", tid)?;
        let memory = &self.space_of(tid)?.memory;
        let [handler, flags, restorer, mask] =
            [memory.word(page)?, memory.word(page + 8)?, memory.word(page + 16)?, memory.word(page + 24)?];
        Ok(Action { handler, flags, restorer, mask })
    }

    pub(super) fn set_action(&mut self, tid: i32, signal: i32, action: &Action) -> Result<()> {
        let page = self.page(tid)?;
        let words = [action.handler, action.flags, action.restorer, action.mask];
        self.space_of(tid)?.memory.write(page, &words.map(u64::to_le_bytes).concat(), Some(tid))?;
        let result = self.call(tid, libc::SYS_rt_sigaction, [signal as u64, page, 0, 8, 0, 0])?;
        check(result).during("setting a signal's action", tid).map(|_| ())
    }

    /// The page for the records of injected system calls in the thread's address space. The thread is
    /// made to map one if there is none. (The thread's own stack will not do: a coroutine's may end
    /// just below SP, and what lies there changes while other threads run.)
    fn page(&mut self, tid: i32) -> Result<u64> {
        let Some(thread) = self.threads.get(&tid) else { return Err(Error::NotHeld { tid }) };
        let (pid, pc) = (thread.pid, thread.regs.pc());
        if let Some(page) = self.space(pid)?.page {
            return Ok(page);
        }
        let mapped = self.map(tid, pc, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
        let page = mapped.during("mapping a page", tid)?;
        self.space_mut(pid)?.page = Some(page);
        Ok(page)
    }

    /// Has a stopped thread map private memory of `length` bytes within reach of `near`. Returns its
    /// address.
    ///
    /// # Errors
    ///
    /// The outer error if the thread cannot be made to call, the inner one if there is no room or the
    /// kernel refuses.
    pub(super) fn map(
        &mut self,
        tid: i32,
        near: u64,
        length: u64,
        protection: i32,
    ) -> Result<io::Result<u64>> {
        let place = maps::mappings(tid)
            .and_then(|mappings| maps::room(&mappings, near, length).ok_or_else(maps::no_room));
        let place = match place {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
        let args = [place, length, protection as u64, flags, u64::MAX, 0];
        let result = self.call(tid, libc::SYS_mmap, args)?;
        Ok(check(result).and_then(|at| match at as u64 {
            at if at == place => Ok(place),
            at => Err(io::Error::other(format!("the kernel mapped {at:#x} in place of {place:#x}"))),
        }))
    }

    /// Has a stopped thread make a system call. Returns its result.
    pub(super) fn call(&mut self, tid: i32, number: libc::c_long, args: [u64; 6]) -> Result<i64> {
        let Some(thread) = self.threads.get(&tid) else { return Err(Error::NotHeld { tid }) };
        if thread.stop == Stop::Syscall || thread.regs.restarts_syscall() {
            return Err(Error::NoBoundary { tid });
        }
        let (saved, stop, signal) = (thread.regs, thread.stop, thread.signal);
        let instruction = self.syscall_instruction(tid)?;
        let mut regs = saved;
        {
            let r = &mut regs.0;
            (r.rip, r.rax, r.orig_rax) = (instruction, number as u64, u64::MAX);
            [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args;
        }
        // The stop's own signal is lost with the stop: it is sent again when the thread goes on.
        let stashed = (stop == Stop::Signal && signal != 0).then(|| ptrace::signal_info(tid));
        let stashed = stashed.transpose().during("reading a signal", tid)?;
        let mask = ptrace::signal_mask(tid).during("reading the signal mask", tid)?;
        let mut meanwhile = Meanwhile::default();
        let result = self.make_call(tid, &regs, mask, &mut meanwhile);
        // In any case the thread is as before, and its registers are written when it goes on.
        let restored = ptrace::unless_gone(ptrace::set_signal_mask(tid, mask));
        if let Some(thread) = self.threads.get_mut(&tid) {
            (thread.stop, thread.unwritten) = (Stop::Called, Unwritten::All);
            thread.stashed.extend(stashed.map(|info| Stashed { info, reported: false }));
        }
        for signal in meanwhile.signals {
            self.tgkill(tid, signal)?;
        }
        // The next stop says whether the process is stopped by a signal.
        if meanwhile.stopped || self.threads.get(&tid).is_some_and(|thread| thread.group_stop) {
            ptrace::unless_gone(ptrace::interrupt(tid)).during("interrupting", tid)?;
        }
        restored.during("restoring the signal mask", tid)?;
        result
    }

    /// Makes the call with these registers, and every signal but SIGSYS blocked. (A filter that refuses
    /// the call forces SIGSYS on the thread. If that is blocked, the program's handler for it is gone.)
    fn make_call(&mut self, tid: i32, regs: &Registers, mask: u64, meanwhile: &mut Meanwhile) -> Result<i64> {
        let blocked = mask | !signals::bit(libc::SIGSYS);
        ptrace::set_signal_mask(tid, blocked).during("blocking signals", tid)?;
        ptrace::set_registers(tid, regs).during("writing registers", tid)?;
        self.until_syscall_stop(tid, meanwhile)?;
        self.until_syscall_stop(tid, meanwhile)?;
        let result = match ptrace::syscall_stop(tid).during("reading a result", tid)? {
            SyscallStop::Exit { result } => result,
            _ => return Err(io::Error::other("no exit stop")).during("making a system call", tid),
        };
        if result as u64 == regs.0.rax {
            // No call of ours returns its own number: a filter has refused it, and its signal comes next.
            self.until_syscall_stop(tid, meanwhile)?;
        }
        Ok(result)
    }

    /// Continues the thread to its next system-call stop. Other threads' statuses are kept. The
    /// thread's own other stops go to `meanwhile`.
    fn until_syscall_stop(&mut self, tid: i32, meanwhile: &mut Meanwhile) -> Result<()> {
        let mut again = true;
        loop {
            if again {
                ptrace::go(tid, Go::ToSyscall, 0).during("making a system call", tid)?;
                again = false;
            }
            match ptrace::wait(true) {
                Ok(Some((other, status))) if other != tid || !libc::WIFSTOPPED(status) => {
                    self.statuses.push_back((other, status));
                    if other == tid {
                        // The process was killed meanwhile.
                        return Err(io::Error::from_raw_os_error(libc::ESRCH))
                            .during("making a system call", tid);
                    }
                }
                Ok(Some((_, status))) => {
                    if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
                        return Ok(());
                    }
                    let signal = libc::WSTOPSIG(status);
                    match status >> 16 {
                        0 if signal == libc::SIGSTOP => meanwhile.signals.push(signal),
                        // A positive code is the kernel's: the call itself has made this signal.
                        0 if ptrace::signal_info(tid).is_ok_and(|info| info.si_code > 0) => {
                            return Err(io::Error::other(format!("refused with signal {signal}")))
                                .during("making a system call", tid);
                        }
                        0 => meanwhile.signals.push(signal),
                        EVENT_STOP => meanwhile.stopped = true,
                        _ => {}
                    }
                    again = true;
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).during("waiting", tid),
            }
        }
    }

    /// The address of a `syscall` instruction in the thread's address space, with no breakpoint on
    /// it.
    fn syscall_instruction(&mut self, tid: i32) -> Result<u64> {
        let pid = self.process_of(tid).unwrap_or(tid);
        let space = self.space(pid)?;
        if let Some(address) = space.syscall.filter(|&address| !space.breakpoints.is_laid(address)) {
            return Ok(address);
        }
        let mut mappings = maps::mappings(tid).during("reading the memory map", tid)?;
        mappings.retain(|mapping| mapping.permissions.contains('x') && mapping.path != "[vsyscall]");
        mappings.sort_by_key(|mapping| mapping.path != "[vdso]");
        for mapping in mappings {
            let mut bytes = vec![0; (mapping.range.end - mapping.range.start) as usize];
            let count = space.memory.read_some(mapping.range.start, &mut bytes);
            let found = bytes[..count].windows(2).position(|pair| pair == [0x0f, 0x05]);
            if let Some(offset) = found {
                let address = mapping.range.start + offset as u64;
                self.space_mut(pid)?.syscall = Some(address);
                return Ok(address);
            }
        }
        Err(io::Error::other("the program has no `syscall` instruction")).during("making a system call", tid)
    }
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result) }
}
