//! The tracer's record of a thread.

use std::ops::Range;

use super::debug_registers::DebugRegisters;
use super::event::Event;
use super::pin::Mask;
use super::registers::Registers;
use super::signals::{Origin, SI_TKILL};

/// Whether a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The thread runs, or waits in the kernel.
    Running,
    /// The thread is stopped, and an event told so.
    Held,
    /// The thread is stopped with its whole process, by SIGSTOP or its like.
    Listening,
}

/// The kind of a thread's stop: what may be done in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// A signal is to be delivered, a trap included: any signal can be delivered in its place.
    Signal,
    /// At a handler's first instruction.
    Entry,
    /// Interrupted, new, or stopped with its process.
    Interruption,
    /// In the middle of a system call.
    Syscall,
    /// At the exit of a system call that the tracer had the thread make.
    Called,
}

/// The registers of a stopped thread that were changed, and that the kernel is to be told of. A PC alone
/// takes a third of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unwritten {
    /// None.
    #[default]
    Nothing,
    /// The PC.
    Pc,
    /// Any.
    All,
}

/// An instruction with a breakpoint that a thread will pass once more, which is no new visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passing {
    pub(super) address: u64,
    pub(super) sp: u64,
}

/// A signal that is on its way into its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sending {
    pub(super) signal: i32,
    pub(super) pc: u64,
    pub(super) sp: u64,
    /// The system call that the signal interrupts is made again.
    pub(super) restarts: bool,
    /// The program's own signal: the tracer looks at the frame alone, and tells nobody.
    pub(super) own: bool,
}

impl Sending {
    /// The event of a signal for which no handler ran.
    pub(super) fn not_handled(self, tid: i32) -> Option<Event> {
        (!self.own).then_some(Event::NotHandled { tid, signal: self.signal })
    }
}

/// A signal that was sent because it could not be delivered in place of the thread's stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resent {
    pub(super) signal: i32,
    pub(super) origin: Option<Origin>,
    pub(super) at: Option<u64>,
}

/// The record of a signal that held the thread, and that the kernel reports again without it.
#[derive(Clone, Copy)]
pub(super) struct Stashed {
    pub(super) info: libc::siginfo_t,
    /// The caller is told of the signal again.
    pub(super) reported: bool,
}

/// How the return of a delivered signal's handler is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnBy {
    /// By a debug register of the thread. It changes no code, and stops this thread alone. A
    /// hypervisor makes it dear: seven times a bare stop was measured.
    #[default]
    DebugRegister,
    /// By a breakpoint at the restorer, which stays from the first delivery on and is passed out of
    /// line. It costs what any breakpoint does. Unwinders that know a signal's frame by the
    /// restorer's bytes see `int3` there, and every handler's return stops.
    Breakpoint,
}

/// A delivered signal whose handler runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The signal.
    pub signal: i32,
    /// The instruction that the signal interrupted: the thread was about to run it.
    pub pc: u64,
    /// SP there.
    pub sp: u64,
    /// Where the thread goes on after the handler, unless the handler changes it: `pc`, or the
    /// system call that is made again.
    pub resumes_at: u64,
    /// The handler's first instruction.
    pub handler: u64,
    /// The signal frame: SP at that instruction. The word there is the restorer's address.
    pub frame: u64,
    /// The address to which the handler returns.
    pub restorer: u64,
    /// The alternate signal stack, if the handler runs on it.
    pub stack: Option<Range<u64>>,
}

impl Delivery {
    /// Returns whether a thread whose SP is `sp` has left the handler by a long jump.
    ///
    /// On the interrupted stack SP is then above the frame. From an alternate stack it is back
    /// where the signal came: within a mebibyte of the interrupted SP.
    pub(super) fn was_left(&self, sp: u64) -> bool {
        const NEAR: u64 = 1 << 20;
        match &self.stack {
            None => sp > self.frame + 8,
            Some(stack) => !stack.contains(&sp) && stack.end != sp && sp.abs_diff(self.sp) < NEAR,
        }
    }
}

pub(super) struct Thread {
    pub(super) tid: i32,
    pub(super) pid: i32,
    pub(super) state: State,
    pub(super) stop: Stop,
    /// The signal that the thread gets when it goes on; 0 for none.
    pub(super) signal: i32,
    /// Valid while the thread is stopped.
    pub(super) regs: Registers,
    /// How far the kernel's copy of the registers differs.
    pub(super) unwritten: Unwritten,
    /// The breakpoint at the PC, if it was reported: the thread passes it when it goes on.
    pub(super) at: Option<u64>,
    pub(super) passing: Vec<Passing>,
    pub(super) sending: Option<Sending>,
    pub(super) resent: Option<Resent>,
    /// Signals that have been reported and come once more, with their first record.
    pub(super) stashed: Vec<Stashed>,
    /// The blocked signals as they were left after the last trap.
    pub(super) mask: u64,
    /// They were read at the present stop.
    pub(super) mask_is_current: bool,
    /// The address of its record of restartable sequences, once there was one.
    pub(super) rseq: Option<u64>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) debug: DebugRegisters,
    /// Stops at system calls, too.
    pub(super) syscalls: bool,
    /// Goes on for one instruction.
    pub(super) stepping: bool,
    /// Where the last single step began.
    pub(super) step_from: Option<u64>,
    /// An interruption was asked for and has not come yet.
    pub(super) interrupting: bool,
    /// Its process is stopped by a signal.
    pub(super) group_stop: bool,
    /// Where it was allowed to run before it was pinned.
    pub(super) affinity: Option<Mask>,
}

impl Thread {
    pub(super) fn new(tid: i32, pid: i32) -> Thread {
        Thread {
            tid,
            pid,
            state: State::Running,
            stop: Stop::Interruption,
            signal: 0,
            // SAFETY: All-zero bytes are a valid record.
            regs: Registers(unsafe { std::mem::zeroed() }),
            unwritten: Unwritten::Nothing,
            at: None,
            passing: Vec::new(),
            sending: None,
            resent: None,
            stashed: Vec::new(),
            mask: 0,
            mask_is_current: false,
            rseq: None,
            deliveries: Vec::new(),
            debug: DebugRegisters::default(),
            syscalls: false,
            stepping: false,
            step_from: None,
            interrupting: false,
            group_stop: false,
            affinity: None,
        }
    }

    /// Moves the PC of the stopped thread.
    pub(super) fn set_pc(&mut self, pc: u64) {
        self.regs.0.rip = pc;
        self.unwritten = self.unwritten.max(Unwritten::Pc);
    }

    /// Takes the record of the signal that arrives with `info`, if one was kept.
    pub(super) fn unstash(&mut self, info: &libc::siginfo_t) -> Option<Stashed> {
        // A SIGTRAP may as well be a breakpoint's, which nobody sends.
        let sent = info.si_signo != libc::SIGTRAP || info.si_code == SI_TKILL;
        let found = self
            .stashed
            .iter()
            .position(|stashed| stashed.info.si_signo == info.si_signo && (sent || !stashed.reported));
        found.map(|index| self.stashed.remove(index))
    }

    /// Notes that the thread will come to the breakpoint at `address` again without that being a
    /// visit.
    pub(super) fn will_pass(&mut self, address: u64, sp: u64) {
        // Notes that no handler comes back to (the program's own, left by a long jump) go by age.
        const MOST: usize = 64;
        let passing = Passing { address, sp };
        if !self.passing.contains(&passing) {
            if self.passing.len() == MOST {
                self.passing.remove(0);
            }
            self.passing.push(passing);
        }
    }

    /// Takes the innermost delivery whose handler a thread with this SP has left by a long jump. The
    /// thread will not come back to where that signal came.
    pub(super) fn take_left(&mut self, sp: u64) -> Option<Delivery> {
        let delivery = self.deliveries.pop_if(|delivery| delivery.was_left(sp))?;
        self.forget_passing(&delivery);
        Some(delivery)
    }

    /// Forgets where a handler would have returned to.
    pub(super) fn forget_passing(&mut self, delivery: &Delivery) {
        let addresses = [delivery.pc, delivery.resumes_at];
        self.passing.retain(|passing| passing.sp != delivery.sp || !addresses.contains(&passing.address));
    }

    /// Returns whether the thread is on its way past the breakpoint at `address`, and forgets it.
    pub(super) fn passes(&mut self, address: u64, sp: u64) -> bool {
        let passing = Passing { address, sp };
        let found = self.passing.iter().position(|other| *other == passing);
        found.map(|index| self.passing.remove(index)).is_some()
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Thread { tid, pid, state, stop, regs, .. } = self;
        write!(f, "Thread {{ tid: {tid}, pid: {pid}, {state:?}, {stop:?}, {regs:?} }}")
    }
}
