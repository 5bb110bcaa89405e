//! Moving a goroutine's stack: growing it at a prologue, shrinking it by the collector.
//!
//! The used part is copied, and then every pointer into it is adjusted: the barrier list and its
//! slots, the bounds, the saved registers, in each frame the saved frame pointer and the slots that
//! hold up-pointers, the defers and panics, and the transition points of the foreign calls that the
//! goroutine was called back from.
//!
//! In between, list, bounds and registers belong to two stacks, so all of it happens under the
//! stack lock. The old stack is poisoned before the lock is given back: from then on no thread has
//! a reason to read there.

use crate::sched::g::G;
use crate::sched::m::M;
use crate::stack::barrier_list;
use crate::stack::lock_word::Operation;
use crate::stack::memory::{POISON, STACK_RESERVE, Stack};
use crate::sync::word::{peek, poke};
use crate::unwind::reason::Reason;
use crate::unwind::throw::{throw, walk_failed};
use crate::unwind::traceback::{Start, Unwinder};

/// Moves `g`'s stack to one of `size` bytes.
///
/// The caller owns `g`, which is at a safepoint with its registers in `sched`. The used part fits.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn copystack(m: &'static M, g: &'static G, size: usize) {
    crate::point!(CopyBegin, g, size);
    let guard = crate::lock_unless!(CopystackUnlocked, m, g, Operation::Copystack);
    let runtime = m.runtime;
    let new = match runtime.pool.take(size) {
        Ok(stack) => stack,
        Err(error) => panic!("no memory for a stack of {size} bytes: {error}"),
    };
    let (old_lo, old_top, old_size) = (g.stack.lo.get(), g.stack.top.get(), g.stack.size());
    let every_frame = runtime.every_frame();
    let new_top = new.hi() - barrier_list::reserved(size, every_frame);
    let delta = new_top.wrapping_sub(old_top);
    let sp = g.sched.sp.get();
    let used = old_top - sp;

    // SAFETY: both ranges lie in their stacks: the used part fits, or `size` would have
    // been refused; entries that were hit are left behind, the rest fits the new list.
    unsafe {
        core::ptr::copy_nonoverlapping(sp as *const u8, (new_top - used) as *mut u8, used);
    }
    crate::point!(CopyCopied, g, used);

    adjust_barriers(g, new_top, size, delta, every_frame);
    crate::point!(CopyBarriers, g);

    // SAFETY: the caller owns `g`, so the memory cell is its to change.
    let old = unsafe { (*g.memory.get()).replace(new) };
    // SAFETY: as above; just set.
    if let Some(stack) = unsafe { (*g.memory.get()).as_ref() } {
        g.stack.set(stack, every_frame);
    }
    // A preemption request that comes meanwhile has raised the guard, which then stays.
    g.guard.replace(old_lo + STACK_RESERVE, g.stack.guard());
    crate::point!(CopyBounds, g);

    let inside = |address: usize| old_lo <= address && address < old_lo + old_size;
    if inside(g.sched.bp.get()) {
        g.sched.bp.set(g.sched.bp.get().wrapping_add(delta));
    }
    g.sched.sp.set(sp.wrapping_add(delta));
    crate::point!(CopySwitched, g);

    adjust_frames(g, &inside, delta);
    // SAFETY: the caller owns `g`.
    unsafe { g.unwinding() }.adjust(delta);
    g.transitions.adjust(delta);
    crate::point!(CopyAdjusted, g);

    if let Some(old) = old {
        retire(m, old, sp);
    }
    crate::point!(CopyPoisoned, g);
    drop(guard);
}

/// Carries the entries that were not hit over to the new list, with adjusted slots.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn adjust_barriers(g: &'static G, base: usize, size: usize, delta: usize, every_frame: bool) {
    let barriers = &g.barriers;
    let mut kept = 0;
    for index in barriers.position()..barriers.len() {
        let Some(entry) = barriers.entry(index) else { break };
        // SAFETY: the new list has room for every entry that frames of this size can have.
        unsafe {
            poke(base + kept * 16, entry.slot.wrapping_add(delta));
            poke(base + kept * 16 + 8, entry.pc);
        }
        kept += 1;
    }
    barriers.place(base, barrier_list::max_entries(size, every_frame));
    barriers.position.set(0);
    barriers.len.set(kept);
}

/// Adjusts the pointers in the copied frames that point into their own stack.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn adjust_frames(g: &'static G, inside: &dyn Fn(usize) -> bool, delta: usize) {
    let start = Start { pc: g.sched.pc.get(), sp: g.sched.sp.get() };
    let mut walk = Unwinder::begin(g, start).unwrap_or_else(|error| walk_failed(g, error));
    while let Some(frame) = walk.step().unwrap_or_else(|error| walk_failed(g, error)) {
        let saved_bp = match frame.slot {
            Some(slot) if frame.row.delta() >= 8 => slot - 8,
            Some(_) => continue,
            // The outermost frame, once it has begun.
            None if frame.row.has_pointers() => g.stack.top.get() - 8,
            None => continue,
        };
        // SAFETY: within the frame, which was copied to the new stack as it was.
        unsafe {
            adjust_word(saved_bp, inside, delta);
            if frame.row.has_pointers() {
                for slot in 1..=4 {
                    adjust_word(saved_bp - 8 * slot, inside, delta);
                }
            }
        }
        crate::point!(CopyFrame, g, g.stack.top.get() - frame.sp);
    }
}

/// Adjusts one word if it points into the old stack.
///
/// # Safety
/// `at` is a word of the new stack.
#[inline(always)]
unsafe fn adjust_word(at: usize, inside: &dyn Fn(usize) -> bool, delta: usize) {
    // SAFETY: a word of the new stack (caller), which no other thread touches under the lock.
    unsafe {
        let value = peek(at);
        if value == POISON {
            throw(None, Reason::Fault { address: value, pc: 0 });
        }
        if inside(value) {
            poke(at, value.wrapping_add(delta));
        }
    }
}

/// Poisons the used part of an old stack, the barrier list included, and retires the stack.
fn retire(m: &'static M, old: Stack, sp: usize) {
    // SAFETY: the goroutine has left it; its frames were copied.
    unsafe { old.poison(sp) };
    m.runtime.pool.retire(old, m.runtime.unreadable());
}
