//! Running a goroutine: the loop of a machine, from the switch onto the stack to the exit reason,
//! and the end of a goroutine.

use super::g::{G, status};
use super::m::M;
use super::stop_world::RunningGuard;
use crate::arch::{self, exit_reason};
use crate::stack::barrier;
use crate::stack::copystack::copystack;
use crate::stack::lock_word::Operation;
use crate::stack::memory::MAX_STACK;
use crate::unwind::func_id::FuncId;
use crate::unwind::functab;
use crate::unwind::reason::Reason;
use crate::unwind::throw::throw;

/// The place where a goroutine is after it has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunResult {
    /// Its innermost frame asks for the next operation.
    NextOp,
    /// It is in a system call.
    InSyscall,
    /// Its callback has returned: it is in a foreign call.
    InForeign,
    /// It has let the machine go at a prologue, as it was asked to. The machine that takes it next
    /// goes on from there with [`M::proceed`].
    Preempted,
    /// It has ended, and the machine has no goroutine.
    Exited,
}

impl M {
    /// Has the innermost frame call `function`.
    ///
    /// # Panics
    /// If `function` is neither one that a schedule's `call` can name nor the system call's stub:
    /// others are reached in their own way, or do not run on goroutine stacks.
    pub fn call(&'static self, function: FuncId) -> RunResult {
        assert!(
            function.is_callable() || function == FuncId::Syscall,
            "a frame cannot call {function}: it is no kind of frame, no leaf and not the system call's stub"
        );
        self.enter(function)
    }

    /// Has the innermost frame call `function`, which is of the goroutine side and has a caller.
    pub(super) fn enter(&'static self, function: FuncId) -> RunResult {
        let Some(g) = self.current() else { return RunResult::Exited };
        let running = self.leave_safepoint();
        self.resume(g, functab::info(function).start, running)
    }

    /// Has the innermost frame return. If that is the outermost one, the goroutine ends.
    pub fn ret(&'static self) -> RunResult {
        let Some(g) = self.current() else { return RunResult::Exited };
        let running = self.leave_safepoint();
        self.resume(g, 0, running)
    }

    /// Goes on with a goroutine that was [`RunResult::Preempted`], from that prologue.
    pub fn proceed(&'static self) -> RunResult {
        let Some(g) = self.current() else { return RunResult::Exited };
        let running = self.leave_safepoint();
        self.resume(g, 0, running)
    }

    /// Runs `g` from its saved state until it leaves its stack for a reason that its driver must
    /// decide on. `answer` is what its ask returns: an address to call, or zero.
    pub(crate) fn resume(&'static self, g: &'static G, answer: usize, running: RunningGuard) -> RunResult {
        let (mut answer, mut running) = (answer, running);
        loop {
            let position = g.barriers.position();
            // SAFETY: this machine runs `g`, which is at a safepoint with its registers saved.
            let reason = unsafe { arch::switch_in(g, answer) } as u32;
            // For the canary: if the position has moved, the trampoline's check has run.
            let _ = g.barriers.position() != position && crate::planted!(OrderCheckInverted);
            match reason {
                exit_reason::NEXT_OP => return RunResult::NextOp,
                exit_reason::MORESTACK => {
                    if self.more_stack(g) {
                        return RunResult::Preempted;
                    }
                }
                exit_reason::GOEXIT0 => {
                    self.exit(g);
                    return RunResult::Exited;
                }
                exit_reason::SYSCALL_ENTER => {
                    self.enter_syscall(g);
                    return RunResult::InSyscall;
                }
                exit_reason::FOREIGN_ENTER => running = self.run_foreign(g, running),
                exit_reason::FOREIGN_EXIT => self.exit_foreign(g),
                exit_reason::CALLBACK_EXIT => {
                    self.exit_callback(g);
                    return RunResult::InForeign;
                }
                // `SYSCALL_EXIT` comes back to `make_syscalls`, which sent the stub into the kernel.
                _ => unreachable!("the assembly knows eight exit reasons"),
            }
            answer = 0;
        }
    }

    /// Acts on `MORESTACK`: a preemption request, or too little room. Returns whether the goroutine
    /// was dropped.
    fn more_stack(&'static self, g: &'static G) -> bool {
        debug_assert!(self.holds_no_lock(), "a prologue runs under a stack lock");
        if g.preempt_requested() {
            return self.handle_preempt(g);
        }
        let size = g.stack.size() * 2;
        if size > MAX_STACK {
            throw(Some(g), Reason::StackOverflow { address: g.sched.sp.get(), pc: g.sched.pc.get() });
        }
        copystack(self, g, size);
        false
    }

    /// Ends the current goroutine where it stands. Its `G` and its stack can be used again. A
    /// goroutine in a foreign call is left as it is, since foreign code is to return to it.
    pub fn end(&'static self) -> RunResult {
        if self.foreign_calls() != 0 {
            return RunResult::InForeign;
        }
        if let Some(g) = self.current() {
            let _running = self.leave_safepoint();
            if g.syscall.sp.get() != 0 {
                g.sched.copy_from(&g.syscall);
                self.exit_syscall(g);
            }
            self.exit(g);
        }
        RunResult::Exited
    }

    /// Clears the stack state of a goroutine that ends, and drops it.
    fn exit(&'static self, g: &'static G) {
        crate::point!(ExitBegin, g);
        if !crate::planted!(ExitKeepsBarriers, !g.barriers.is_empty()) {
            barrier::remove_all(self, g, Operation::Exit);
        }
        // SAFETY: this machine still runs `g`.
        unsafe { g.unwinding() }.clear();
        crate::point!(ExitCleared, g);
        self.drop_g(g, status::DEAD);
    }
}
