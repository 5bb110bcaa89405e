//! Stack barriers: they bound how much of a stack the collector must scan twice.
//!
//! The protocol is the one that Go's runtime used from version 1.5 on (`runtime/mstkbar.go`).
//!
//! ## Purpose
//!
//! The collector scans a stack while the program runs. At mark termination, with the world
//! stopped, it must look again at whatever has changed since; without more information that is
//! the whole stack. A barrier is a return address that the scan has replaced by the trampoline's.
//! A frame that returns into it moves the goroutine's *position* past that barrier. So everything
//! above the lowest barrier that was not hit is known to be as it was scanned, and mark
//! termination scans only up to there.
//!
//! ## Spacing
//!
//! The first barrier lies over the first frame that ends more than
//! [`FIRST_BARRIER`] bytes above the SP of the scan; for each
//! further one that distance doubles. This guarantees two things:
//!
//! * *Few barriers.* Their number is the logarithm of the stack's size, so one constant for each
//!   size, reserved with the stack, is room for all of them.
//! * *At most twice the work.* If the goroutine has returned through the barrier for distance `d`,
//!   it has popped at least `d` bytes of frames, and the next barrier lies over the first frame that
//!   ends beyond `2d`. So mark termination scans at most twice the bytes that the goroutine itself
//!   has popped, and one frame. If it has hit no barrier, the scan covers 1 KiB and one frame.
//!
//! For debugging, `every_frame` puts one into every frame. It finds most mistakes, since every
//! return and every step of a walk then meets a barrier.
//!
//! ## Book-keeping
//!
//! A list of (slot, return address), lowest slot first, and the position: entries before it were
//! hit or unwound. A position is enough because frames return in the order of their slots.
//!
//! The list is carved from the top of the stack's own allocation, for three reasons. Code that
//! changes barriers must not allocate: it runs under a lock that a signal handler tries, and with
//! the world stopped. The room needed follows from the stack's size, so it is there whenever the
//! stack is. And the list's life is the stack's: a stack that moves gets a new list of the right
//! size along with its new memory, and a freed stack frees its list.
//!
//! ## Functions
//!
//! | function | does | in Go |
//! |---|---|---|
//! | `install` | lays one barrier, during a scan | `gcInstallStackBarrier` |
//! | `remove_all` | lifts all that were not hit, empties the list | `gcRemoveStackBarriers` |
//! | `restore` | lifts one; throws where the slot does not hold the trampoline | `gcRemoveStackBarrier` |
//! | `unwind` | lifts those below an address and moves the position past them | `gcUnwindBarriers` |
//! | `next_pc`, `set_next_pc` | the return address of a frame that has a barrier over it | `nextBarrierPC`, `setNextBarrierPC` |
//! | `trampoline` in `arch` | counts a barrier as hit and goes on to the caller | `stackBarrier` |
//! | [`lock`](super::lock::lock), [`try_lock`](super::lock::try_lock) | keep walks and changes apart | `gcLockStackBarriers`, `gcTryLockStackBarriers` |
//! | [`max_entries`] | room for the list | `gcMaxStackBarriers` |
//!
//! ## Correctness
//!
//! Every write to a stack after its scan falls under one of three cases:
//!
//! 1. It lies below the lowest barrier that was not hit: mark termination scans it again.
//! 2. It lies above, and goes through a pointer that a higher frame passed down: the write barrier
//!    shades the written object.
//! 3. It lies above, and is the runtime's own bulk move, which has no write barrier for each word:
//!    the move first unwinds every barrier below its destination, which makes it case 1.
//!
//! ## Other code that must know of barriers
//!
//! * A walk that meets the trampoline in a slot takes the return address from the next entry. A
//!   walk that starts in the trampoline acts as if the trampoline had finished.
//! * A recovery abandons frames, so it unwinds the barriers in them.
//! * A callback's frame keeps a saved PC in its return slot, and no frame returns there: no barrier
//!   is laid over it.
//! * A goroutine that ends without returning has its barriers removed.
//! * A stack that moves takes the entries along and adjusts their slots.
//! * A frame that replaces its caller's PC replaces it in the entry, if one lies over the slot.
//! * A cycle may leave its barriers to the sweep, which removes those of stopped goroutines. The
//!   others stay until the next cycle begins, and do no harm.
//!
//! ## Synchronisation
//!
//! The collector lays and removes barriers while it owns the goroutine, which stays at a safepoint
//! meanwhile. The goroutine's own thread hits them, unwinds them and removes them at exit between
//! two safepoints. So these never meet. The profiling signal, however, comes at any instant, and
//! its walk reads list, slots and position together. Whoever changes one of them holds the
//! goroutine's stack lock ([`super::lock`]); the handler only tries it.
//!
//! Without the lock, a walk sees half of an installation. G1 is in a system call, so it counts as
//! stopped, while its thread still takes signals:
//!
//! 1. M1: G1 enters a system call.
//! 2. M2: the collector scans G1. `install` writes entry 0 and counts it; the slot still holds the
//!    return address.
//! 3. M1: SIGPROF. The walk notes one entry and position 0.
//! 4. M1: the walk reads the slot, finds an ordinary return address and goes past it.
//! 5. M2: `install` writes the trampoline into the slot.
//! 6. M1: the walk reaches the outermost frame with entry 0 left over. List and stack disagree.
//!
//! Had the walk noted the list before step 2 and read the slot after step 5, it would have met a
//! trampoline without an entry. With the lock, M1 fails to take it at step 3 and skips the
//! traceback, for a reason that is true: M2 holds the lock for an installation. In the other
//! order, M2 spins at step 2 until the walk of M1 is over.
//!
//! The handler must not wait for the lock, since it may have interrupted the holder:
//!
//! 1. M1: G1 recovers from a panic. M1 takes G1's lock and unwinds barriers.
//! 2. M1: SIGPROF, on the same thread. The handler fails to take the lock.
//! 3. M1: if the handler waited, step 1 would never go on, and the lock would never be free.
//!
//! One exception: the trampoline moves the position without the lock. It is a handful of
//! instructions on the goroutine's own thread with a single store, and a walk that starts in there
//! acts as if they had all run, before the store and after.

use super::lock_word::Operation;
use crate::arch;
use crate::sched::g::G;
use crate::sched::m::M;
use crate::sync::word::{peek, poke};
use crate::unwind::func_id::FuncId;
use crate::unwind::reason::Reason;
use crate::unwind::throw::{throw, walk_failed};
use crate::unwind::traceback::Frame;
use crate::unwind::walk_error::WalkError;

pub use super::barrier_list::{Barriers, Entry, FIRST_BARRIER, max_entries, reserved};

/// Lays a barrier over `frame`'s return address.
///
/// Returns false if the frame has no return address, or if no frame returns through it: a
/// callback's slot holds a saved PC, and a barrier over it would be carried off.
///
/// The caller is the scan, which holds the stack lock; the goroutine is stopped.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn install(g: &'static G, frame: &Frame) -> bool {
    let Some(slot) = frame.slot else { return false };
    if frame.row.function() == Some(FuncId::Callback) && !crate::planted!(BarrierInCallbackFrame) {
        return false;
    }
    let barriers = &g.barriers;
    let index = barriers.len();
    if index == barriers.capacity.get() {
        throw(Some(g), Reason::BarrierOverflow { capacity: index, slot });
    }
    let at = barriers.address(index);
    // SAFETY: `index` is within the capacity carved from the stack, and `slot` is a return
    // slot of a frame on it; the goroutine is stopped and its stack cannot move meanwhile.
    unsafe {
        poke(at, slot);
        poke(at + 8, peek(slot));
        barriers.len.set(index + 1);
        crate::point!(InstallEntry, g, index);
        poke(slot, arch::trampoline_address());
    }
    crate::point!(InstallSlot, g, index);
    true
}

/// Puts entry `index`'s return address back into its slot. The caller has seen to the lock.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn restore(g: &'static G, index: usize) {
    let Some(Entry { slot, pc }) = g.barriers.entry(index) else { return };
    // SAFETY: an entry's slot lies on the goroutine's stack; a list that a defect has left
    // behind may name one that does not, and then the load gives a value that is refused.
    let found = unsafe { arch::load_or(slot, 0) };
    if found != arch::trampoline_address() {
        throw(Some(g), Reason::BarrierLost { slot, found, entry: index });
    }
    // SAFETY: it was just read and holds the trampoline, so it is a slot of this stack.
    unsafe { poke(slot, pc) };
}

/// Removes every barrier from `g`'s stack and empties the list.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn remove_all(m: &'static M, g: &'static G, operation: Operation) {
    let guard = crate::lock_unless!(RemoveUnlocked, m, g, operation);
    crate::point!(RemoveBegin, g, g.barriers.pending());
    for index in g.barriers.position()..g.barriers.len() {
        restore(g, index);
        crate::point!(RemoveSlot, g, index);
    }
    g.barriers.clear();
    crate::point!(RemoveDone, g);
    drop(guard);
}

/// Returns whether the next barrier to be hit lies below `sp`.
pub(crate) fn next_lies_below(g: &G, sp: usize) -> bool {
    g.barriers.entry(g.barriers.position()).is_some_and(|entry| entry.slot < sp)
}

/// Returns whether the frames whose barriers are being unwound will still return.
fn frames_live_on(g: &G) -> bool {
    g.lock.owner().is_some_and(|owner| owner.operation == Operation::Bulk)
}

/// Returns the return address under the barrier over `slot`, which must be the next one to be hit.
pub(crate) fn next_pc(g: &'static G, slot: usize) -> usize {
    match g.barriers.entry(g.barriers.position()) {
        Some(entry) if entry.slot == slot => entry.pc,
        _ => walk_failed(g, WalkError::MissedBarrier { slot }),
    }
}

/// Replaces the return address under the next barrier to be hit. The caller holds the lock.
pub(crate) fn set_next_pc(g: &'static G, pc: usize) {
    let index = g.barriers.position();
    if g.barriers.entry(index).is_some() {
        // SAFETY: within the list as just checked; the goroutine is this machine's and off its
        // stack, so neither list nor position change.
        unsafe { poke(g.barriers.address(index) + 8, pc) };
    }
}

/// Unwinds the barriers whose slots lie below `sp`, because their frames are about to be
/// abandoned, or because a write above them would go unseen. The caller holds the lock.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn unwind(g: &'static G, sp: usize) {
    crate::point!(UnwindBegin, g, g.barriers.pending());
    loop {
        let index = g.barriers.position();
        match g.barriers.entry(index) {
            Some(entry) if entry.slot < sp => {
                if !crate::planted!(UnwindLeavesTrampolines, frames_live_on(g)) {
                    restore(g, index);
                }
                crate::point!(UnwindSlot, g, index);
                g.barriers.position.set(index + 1);
                crate::point!(UnwindMoved, g, index);
            }
            _ => break,
        }
    }
}
