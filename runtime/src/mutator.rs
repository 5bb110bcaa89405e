//! What a goroutine's innermost frame does with its memory: allocate, load, store, write
//! through a pointer into a higher frame, move in bulk onto one.
//!
//! All of it runs on the machine's own stack while the frame asks, and finds frames by
//! the frame-pointer chain, which is the program's and not the unwinder's. Whoever leaves
//! the safepoint may wait for the world first, and the stack may move meanwhile: so frames
//! are looked for only then.

use crate::barrier;
use crate::core::Phase;
use crate::g::G;
use crate::heap::MAILBOX;
use crate::lock::Operation;
use crate::m::M;
use crate::stack::POISON;
use crate::throw::{Reason, throw};
use crate::word::{peek, poke};

/// Slots of a frame.
pub const SLOTS: usize = 4;

/// The frame pointer of the frame `up` levels above the innermost; none where that one has
/// no slots, as a foreign call's stub.
fn frame(g: &G, up: usize) -> Option<usize> {
    let mut bp = g.sched.bp.get();
    for _ in 0..up {
        if bp == 0 {
            return None;
        }
        // SAFETY: `bp` is the frame pointer of a live frame; it points to the caller's.
        bp = unsafe { peek(bp) };
    }
    // The entry's frame pointer points to the zero that ends the chain: it is a frame.
    (bp != 0 && !g.transitions.is_stub(bp)).then_some(bp)
}

/// The address of slot `slot` of the frame with frame pointer `bp`.
fn slot_address(bp: usize, slot: usize) -> usize {
    bp - 8 * (slot % SLOTS + 1)
}

/// A slot's value; a value that was poisoned with an old stack is a read of freed memory.
fn read(g: &'static G, address: usize) -> usize {
    // SAFETY: a slot of a live frame.
    let value = unsafe { peek(address) };
    if value == POISON {
        throw(Some(g), Reason::Fault { address: POISON, pc: 0 });
    }
    value
}

impl M {
    /// The current goroutine, and its innermost frame's frame pointer.
    fn innermost(&self) -> Option<(&'static G, usize)> {
        let g = self.current()?;
        Some((g, frame(g, 0)?))
    }

    /// The write barrier: shades what is about to be written while marking is on.
    fn write_barrier(&self, value: usize) {
        crate::triggered!(
            WriteBarriersLate,
            self.core.phase() == Phase::Mark
                && !self.core.write_barrier()
                && self.core.heap().index(value).is_some_and(|object| !self.core.heap().is_marked(object))
        );
        if self.core.write_barrier() && self.core.heap().index(value).is_some() {
            crate::point!(WriteBarrier, core::ptr::null(), 0);
            self.core.heap().shade(value);
        }
    }

    /// Allocates an object into a slot, black unless no cycle is under way: it must survive
    /// the sweep that is to come. Its index; none where the heap is full.
    pub fn alloc(&'static self, slot: usize) -> Option<usize> {
        let _busy = self.busy();
        let (_, bp) = self.innermost()?;
        let object = self.core.heap().allocate(self.core.phase() != Phase::Off)?;
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, slot), object) };
        self.core.heap().index(object)
    }

    /// `dst = src.field`. False where `src` holds no object.
    pub fn load(&'static self, dst: usize, src: usize, field: usize) -> bool {
        let _busy = self.busy();
        let Some((g, bp)) = self.innermost() else { return false };
        let Some(value) = self.core.heap().field(read(g, slot_address(bp, src)), field) else { return false };
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, dst), value.get()) };
        true
    }

    /// `object.field = src`, with a write barrier. False where `object` holds none, or
    /// `src` an address of the stack, which no object may keep.
    pub fn store(&'static self, object: usize, field: usize, src: usize) -> bool {
        let _busy = self.busy();
        let Some((g, bp)) = self.innermost() else { return false };
        let value = read(g, slot_address(bp, src));
        if value != 0 && self.core.heap().index(value).is_none() {
            return false;
        }
        let Some(target) = self.core.heap().field(read(g, slot_address(bp, object)), field) else {
            return false;
        };
        self.write_barrier(value);
        target.set(value);
        true
    }

    /// `dst = src` within the frame.
    pub fn copy(&'static self, dst: usize, src: usize) -> bool {
        let _busy = self.busy();
        let Some((g, bp)) = self.innermost() else { return false };
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, dst), read(g, slot_address(bp, src))) };
        true
    }

    /// `slot = nil`.
    pub fn clear(&'static self, slot: usize) -> bool {
        let _busy = self.busy();
        let Some((_, bp)) = self.innermost() else { return false };
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, slot), 0) };
        true
    }

    /// Writes own slot `src` into slot `dst` of the frame `up` levels above, as through a
    /// pointer which that frame has passed down, with a write barrier. An address of the
    /// stack is not written: it might point down.
    pub fn write_up(&'static self, up: usize, dst: usize, src: usize) -> bool {
        let _busy = self.busy();
        let Some((g, bp)) = self.innermost() else { return false };
        let value = read(g, slot_address(bp, src));
        let Some(target) = frame(g, up).filter(|_| value == 0 || self.core.heap().index(value).is_some())
        else {
            return false;
        };
        self.write_barrier(value);
        // SAFETY: a slot of a live frame of this machine's own goroutine.
        unsafe { poke(slot_address(target, dst), value) };
        true
    }

    /// Keeps the address of slot `slot` of the frame `up` levels above in own slot `dst`.
    pub fn refer(&'static self, dst: usize, up: usize, slot: usize) -> bool {
        let _busy = self.busy();
        let Some((g, bp)) = self.innermost() else { return false };
        let Some(target) = frame(g, up) else { return false };
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, dst), slot_address(target, slot)) };
        true
    }

    /// Puts own slot `src` into the mailbox and clears it, with a write barrier.
    pub fn send(&'static self, place: usize, src: usize) -> bool {
        let _busy = self.busy();
        let Some((g, bp)) = self.innermost() else { return false };
        let value = read(g, slot_address(bp, src));
        if self.core.heap().index(value).is_none() {
            return false;
        }
        self.write_barrier(value);
        self.core.heap().mailbox[place % MAILBOX].set(value);
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, src), 0) };
        true
    }

    /// Moves the mailbox in bulk onto the slots of the frame `up` levels above, as a
    /// receive does: no write barrier for each word, so every barrier below the destination
    /// is unwound first, and mark termination will look there.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub fn bulk_move(&'static self, up: usize) -> bool {
        let _busy = self.busy();
        let Some((g, _)) = self.innermost() else { return false };
        let Some(target) = frame(g, up) else { return false };
        crate::point!(BulkBegin, g, up);
        crate::triggered!(
            WriteBarriersLate,
            self.core.phase() == Phase::Mark
                && !self.core.write_barrier()
                && barrier::next_lies_below(g, target)
        );
        if self.core.write_barrier()
            && !crate::planted!(BulkWriteSkipsUnwind, barrier::next_lies_below(g, target))
        {
            let guard = crate::lock_unless!(BulkUnwindUnlocked, self, g, Operation::Bulk);
            if crate::planted!(PreemptibleLock, g.scan_requested()) {
                self.poll(g);
            }
            barrier::unwind(g, target);
            drop(guard);
        }
        for (slot, word) in self.core.heap().mailbox.iter().enumerate() {
            // SAFETY: a slot of a live frame of this machine's own goroutine.
            unsafe { poke(slot_address(target, slot), word.get()) };
            word.set(0);
        }
        crate::point!(BulkDone, g, up);
        true
    }

    /// What slot `slot` of the frame `up` levels above holds, for a harness that compares.
    pub fn slot_value(&'static self, up: usize, slot: usize) -> Option<usize> {
        // SAFETY: a slot of a live frame.
        Some(unsafe { peek(slot_address(frame(self.current()?, up)?, slot)) })
    }
}
