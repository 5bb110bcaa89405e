//! Stack barriers.
//!
//! ## What they are for
//!
//! The collector scans a stack while the program goes on, and must look again, with
//! the world stopped, at whatever changed since. A barrier is a return address that
//! the scan has replaced by the trampoline's. A frame that returns into it moves the
//! goroutine's *position* past that barrier, so at the end everything above the lowest
//! barrier that was not hit is known to be as it was, and need not be looked at.
//!
//! ## Book-keeping
//!
//! A list of (slot, return address), lowest slot first, and the position: entries
//! before it were hit or unwound. The list lies at the top of the stack's own
//! allocation. Barriers are spaced exponentially, the first 1 KiB above SP, so a
//! handful serves any stack; or, for debugging, one lies in every frame, for which
//! half of the stack is reserved.
//!
//! ## Correctness
//!
//! A stack write after the scan is one of three. Below the lowest un-hit barrier: it is
//! looked at again. Above it, through a pointer that a higher frame passed down: the
//! write barrier shades what is written. Above it, by the runtime's own bulk move: the
//! move first unwinds every barrier below its destination.
//!
//! ## Who else must know
//!
//! * A walk that meets the trampoline in a slot takes the return address from the
//!   entry, in order. A walk that starts in the trampoline acts as if it had finished.
//! * A recovery abandons frames, so it unwinds their barriers.
//! * A callback's frame keeps a saved PC in its return slot: no barrier goes there.
//! * A goroutine that ends without returning has its barriers removed.
//! * A stack that moves takes its list along, and the slots in it.
//! * A frame that replaces its caller's PC replaces it in the entry, where it has one.
//! * A cycle may leave its barriers to the sweep, which removes those of the goroutines
//!   that are stopped. The rest stay, and do no harm, until the next cycle begins.
//!
//! ## Synchronisation
//!
//! Installing happens while the goroutine is at a safepoint, everything else while it
//! cannot reach one, so these never meet. The profiling signal comes at any instant:
//! whoever changes list, slots or position holds the goroutine's stack lock, and the
//! handler only tries it. One exception: the trampoline moves the position without
//! the lock, and a walk that starts there knows.

use crate::arch;
use crate::function::Function;
use crate::g::G;
use crate::lock::Operation;
use crate::m::M;
use crate::throw::{Reason, throw, walk_failed};
use crate::traceback::{Frame, WalkError};
use crate::word::{Word, peek, poke};

/// Distance from SP to the first barrier; each further one is twice as far.
pub const FIRST_BARRIER: usize = 1024;

/// One barrier: the return slot it lies over and the address that was there.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    /// The slot's address.
    pub slot: usize,
    /// The return address that it held.
    pub pc: usize,
}

/// A goroutine's list of barriers.
#[derive(Debug)]
#[repr(C)]
pub struct Barriers {
    /// The first entry's address.
    pub(crate) base: Word,
    /// Number of entries.
    pub(crate) len: Word,
    /// Index of the first entry that was neither hit nor unwound.
    pub(crate) position: Word,
    /// Number of entries there is room for.
    pub(crate) capacity: Word,
}

impl Barriers {
    pub(crate) const fn new() -> Self {
        Barriers { base: Word::new(0), len: Word::new(0), position: Word::new(0), capacity: Word::new(0) }
    }

    /// Number of entries.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// True where there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the first entry that was neither hit nor unwound.
    #[inline(always)]
    pub fn position(&self) -> usize {
        self.position.get()
    }

    /// Number of entries that were neither hit nor unwound.
    #[inline]
    pub fn pending(&self) -> usize {
        self.len().saturating_sub(self.position())
    }

    /// The address of entry `index`.
    #[inline(always)]
    fn address(&self, index: usize) -> usize {
        self.base.get() + index * size_of::<Entry>()
    }

    /// Entry `index`, if the list is that long.
    #[inline(always)]
    pub fn entry(&self, index: usize) -> Option<Entry> {
        if index >= self.len() {
            return None;
        }
        let at = self.address(index);
        // SAFETY: the list lies in the goroutine's stack allocation. A walk that was let
        // in during a copy by a defect may see an old one: the loads say so by faulting.
        unsafe { Some(Entry { slot: arch::load_or(at, 0), pc: arch::load_or(at + 8, 0) }) }
    }

    /// Places an empty list at the top of a stack.
    pub(crate) fn place(&self, base: usize, capacity: usize) {
        self.base.set(base);
        self.capacity.set(capacity);
    }

    pub(crate) fn clear(&self) {
        self.position.set(0);
        self.len.set(0);
    }

    /// Adds an entry behind the core's back, to see whether its checks notice.
    ///
    /// # Safety
    /// The goroutine has a stack and is stopped, and nobody relies on it any more.
    pub unsafe fn forge(&self, slot: usize, pc: usize) {
        let index = self.len();
        assert!(index < self.capacity.get(), "no room to forge an entry");
        // SAFETY: within the room for entries as just checked; no longer relied on (caller).
        unsafe {
            poke(self.address(index), slot);
            poke(self.address(index) + 8, pc);
        }
        self.len.set(index + 1);
    }

    /// Pretends that there is room for this many entries only.
    ///
    /// # Safety
    /// As for [`Barriers::forge`].
    pub unsafe fn limit(&self, capacity: usize) {
        assert!(capacity <= self.capacity.get(), "there is no such room");
        self.capacity.set(capacity);
    }

    /// Overwrites the return address of entry `index`, to see whether an oracle notices.
    ///
    /// # Safety
    /// The goroutine is stopped and nobody relies on its stack any more.
    pub unsafe fn corrupt(&self, index: usize, pc: usize) {
        assert!(index < self.len(), "no entry to corrupt");
        // SAFETY: within the list as just checked; no longer relied on (caller).
        unsafe { poke(self.address(index) + 8, pc) };
    }
}

/// How many entries a stack of `size` bytes needs room for.
pub fn max_entries(size: usize, every_frame: bool) -> usize {
    if every_frame {
        return size / 2 / size_of::<Entry>();
    }
    let mut n = 1;
    let mut offset = FIRST_BARRIER;
    while offset < size {
        n += 1;
        offset *= 2;
    }
    n
}

/// Bytes reserved for the list at the top of a stack of `size` bytes.
pub fn reserved(size: usize, every_frame: bool) -> usize {
    max_entries(size, every_frame) * size_of::<Entry>()
}

/// Replaces `frame`'s return address. False where the frame has none, or is never returned
/// from: a callback's slot holds a saved PC, and what lies over it would be carried off.
///
/// The caller is the scan: it holds the stack lock, and the goroutine is stopped.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn install(g: &'static G, frame: &Frame) -> bool {
    let Some(slot) = frame.slot else { return false };
    if frame.row.function() == Some(Function::Callback) && !crate::planted!(BarrierInCallbackFrame) {
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

/// Puts entry `index`'s return address back. The caller has seen to the lock.
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

/// Removes every barrier from `g`'s stack and empties its list.
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

/// True where the next barrier to be hit lies below `sp`.
pub(crate) fn next_lies_below(g: &G, sp: usize) -> bool {
    g.barriers.entry(g.barriers.position()).is_some_and(|entry| entry.slot < sp)
}

/// True while barriers are unwound from frames that will still return.
fn frames_live_on(g: &G) -> bool {
    g.lock.owner().is_some_and(|owner| owner.operation == Operation::Bulk)
}

/// The return address under the barrier over `slot`, which must be the next one to be hit.
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

/// Unwinds the barriers whose slots lie below `sp`: their frames are about to be
/// abandoned, or a write above them goes unseen. The caller holds the lock.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_spacing_needs_few_entries() {
        assert_eq!(max_entries(2048, false), 2);
        assert_eq!(max_entries(8192, false), 4);
        assert_eq!(max_entries(64 * 1024, false), 7);
    }

    #[test]
    fn every_frame_takes_half_of_the_stack() {
        assert_eq!(reserved(4096, true), 2048);
        // The smallest frame takes more than an entry, so the list cannot overflow.
        assert!(max_entries(4096, true) >= 2048 / (16 + 32));
    }
}
