//! Replacing a caller's PC: a frame that changes where it returns to.
//!
//! A call has two places where it may come back to, as if the caller went on in one of two ways. A
//! frame may replace its return address by the other one. If a barrier lies over that address, both
//! reading and replacing go to the barrier's entry, since the slot holds the trampoline. The
//! innermost frame returns first, so the entry is the next one.
//!
//! A single word changes, and the goroutine's own thread changes it. So a walk at any instant would
//! find one address or the other, and both are right meanwhile. The word is changed under the stack
//! lock all the same, so that no reader need rely on that argument.

use crate::arch;
use crate::sched::g::G;
use crate::sched::m::M;
use crate::stack::barrier;
use crate::stack::lock_word::Operation;
use crate::sync::word::{peek, poke};
use crate::unwind::functab::{self, Table};

/// Returns the PC to which the frame with this return slot returns.
fn caller_pc(g: &'static G, slot: usize) -> usize {
    // SAFETY: the return slot of a live frame of the calling machine's own goroutine.
    match unsafe { peek(slot) } {
        pc if pc == arch::trampoline_address() => barrier::next_pc(g, slot),
        pc => pc,
    }
}

/// Returns the other place where the call that comes back to `pc` may come back to.
fn other_place(pc: usize) -> Option<usize> {
    let info = functab::info(Table::get().row(pc).function()?);
    let [first, second] = [info.after_call, info.after_call_other];
    let other = if pc == first { second } else { first };
    (first != second && (pc == first || pc == second)).then_some(other)
}

impl M {
    /// The innermost frame replaces its caller's PC by the other place where its call may come
    /// back to. Returns false if there is none.
    pub fn set_caller_pc(&'static self) -> bool {
        let Some(g) = self.current() else { return false };
        let _running = self.leave_safepoint();
        let slot = g.sched.bp.get() + 8;
        if slot >= g.stack.top.get() {
            return false;
        }
        let Some(pc) = other_place(caller_pc(g, slot)) else { return false };
        let guard = crate::lock_unless!(SetNextBarrierUnlocked, self, g, Operation::SetPc);
        crate::point!(SetPcBegin, g);
        // SAFETY: the return slot of a live frame of this machine's own goroutine.
        unsafe {
            if peek(slot) == arch::trampoline_address() {
                barrier::set_next_pc(g, pc);
            } else {
                poke(slot, pc);
            }
        }
        crate::point!(SetPcDone, g);
        drop(guard);
        true
    }
}
