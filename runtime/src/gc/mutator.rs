//! The mutator: what a goroutine's innermost frame does with its memory. It allocates, loads,
//! stores, writes through a pointer into a higher frame, and moves memory in bulk onto one.
//!
//! All of it runs on the machine's own stack while the frame asks. It finds frames by the
//! frame-pointer chain, which is the program's and not the unwinder's. A machine that leaves its
//! safepoint may wait for the world first, and the stack may move meanwhile. So frames are looked up
//! only after that.

use crate::gc::heap::MAILBOX;
use crate::gc::phase::Phase;
use crate::sched::g::G;
use crate::sched::m::M;
use crate::stack::barrier;
use crate::stack::lock_word::Operation;
use crate::stack::memory::POISON;
use crate::sync::word::{peek, poke};
use crate::unwind::reason::Reason;
use crate::unwind::throw::throw;

/// Number of slots of a frame.
pub const SLOTS: usize = 4;

/// Returns the frame pointer of the frame `up` levels above the innermost; none if that frame has no
/// slots, as a foreign call's stub.
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

/// Returns the address of slot `slot` of the frame with frame pointer `bp`.
fn slot_address(bp: usize, slot: usize) -> usize {
    bp - 8 * (slot % SLOTS + 1)
}

/// Reads a slot. Throws if it holds poison, since the slot then lies on a freed stack.
fn read(g: &'static G, address: usize) -> usize {
    // SAFETY: a slot of a live frame.
    let value = unsafe { peek(address) };
    if value == POISON {
        throw(Some(g), Reason::Fault { address: POISON, pc: 0 });
    }
    value
}

impl M {
    /// Returns the current goroutine, and the frame pointer of its innermost frame.
    fn innermost(&self) -> Option<(&'static G, usize)> {
        let g = self.current()?;
        Some((g, frame(g, 0)?))
    }

    /// The write barrier: shades the object that is about to be written, while marking is on.
    fn write_barrier(&self, value: usize) {
        crate::triggered!(
            WriteBarriersLate,
            self.runtime.phase() == Phase::Mark
                && !self.runtime.write_barrier()
                && self
                    .runtime
                    .heap()
                    .index(value)
                    .is_some_and(|object| !self.runtime.heap().is_marked(object))
        );
        if self.runtime.write_barrier() && self.runtime.heap().index(value).is_some() {
            crate::point!(WriteBarrier, core::ptr::null(), 0);
            self.runtime.heap().shade(value);
        }
    }

    /// Allocates an object into a slot. While a cycle is under way the object is black, since it must
    /// survive the sweep that is to come. Returns the index of the object; none if the heap is full.
    pub fn alloc(&'static self, slot: usize) -> Option<usize> {
        let _running = self.leave_safepoint();
        let (_, bp) = self.innermost()?;
        let object = self.runtime.heap().allocate(self.runtime.phase() != Phase::Off)?;
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, slot), object) };
        self.runtime.heap().index(object)
    }

    /// `dst = src.field`. Returns false if `src` holds no object.
    pub fn load(&'static self, dst: usize, src: usize, field: usize) -> bool {
        let _running = self.leave_safepoint();
        let Some((g, bp)) = self.innermost() else { return false };
        let Some(value) = self.runtime.heap().field(read(g, slot_address(bp, src)), field) else {
            return false;
        };
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, dst), value.get()) };
        true
    }

    /// `object.field = src`, with a write barrier. Returns false if `object` holds no object, or if
    /// `src` holds an address of the stack, which no object may keep.
    pub fn store(&'static self, object: usize, field: usize, src: usize) -> bool {
        let _running = self.leave_safepoint();
        let Some((g, bp)) = self.innermost() else { return false };
        let value = read(g, slot_address(bp, src));
        if value != 0 && self.runtime.heap().index(value).is_none() {
            return false;
        }
        let Some(target) = self.runtime.heap().field(read(g, slot_address(bp, object)), field) else {
            return false;
        };
        self.write_barrier(value);
        target.set(value);
        true
    }

    /// `dst = src` within the frame. Returns false if there is no frame with slots.
    pub fn copy(&'static self, dst: usize, src: usize) -> bool {
        let _running = self.leave_safepoint();
        let Some((g, bp)) = self.innermost() else { return false };
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, dst), read(g, slot_address(bp, src))) };
        true
    }

    /// `slot = nil`. Returns false if there is no frame with slots.
    pub fn clear(&'static self, slot: usize) -> bool {
        let _running = self.leave_safepoint();
        let Some((_, bp)) = self.innermost() else { return false };
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, slot), 0) };
        true
    }

    /// Writes own slot `src` into slot `dst` of the frame `up` levels above, as through a pointer which
    /// that frame has passed down, with a write barrier. Returns false if there is no such frame, or
    /// for an address of the stack, which might point down.
    pub fn write_up(&'static self, up: usize, dst: usize, src: usize) -> bool {
        let _running = self.leave_safepoint();
        let Some((g, bp)) = self.innermost() else { return false };
        let value = read(g, slot_address(bp, src));
        let Some(target) = frame(g, up).filter(|_| value == 0 || self.runtime.heap().index(value).is_some())
        else {
            return false;
        };
        self.write_barrier(value);
        // SAFETY: a slot of a live frame of this machine's own goroutine.
        unsafe { poke(slot_address(target, dst), value) };
        true
    }

    /// Keeps the address of slot `slot` of the frame `up` levels above in own slot `dst`. Returns
    /// false if there is no such frame.
    pub fn refer(&'static self, dst: usize, up: usize, slot: usize) -> bool {
        let _running = self.leave_safepoint();
        let Some((g, bp)) = self.innermost() else { return false };
        let Some(target) = frame(g, up) else { return false };
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, dst), slot_address(target, slot)) };
        true
    }

    /// Puts own slot `src` into the mailbox and clears it, with a write barrier. Returns false if the
    /// slot holds no object.
    pub fn send(&'static self, place: usize, src: usize) -> bool {
        let _running = self.leave_safepoint();
        let Some((g, bp)) = self.innermost() else { return false };
        let value = read(g, slot_address(bp, src));
        if self.runtime.heap().index(value).is_none() {
            return false;
        }
        self.write_barrier(value);
        self.runtime.heap().mailbox[place % MAILBOX].set(value);
        // SAFETY: a slot of the innermost frame of this machine's own goroutine.
        unsafe { poke(slot_address(bp, src), 0) };
        true
    }

    /// Moves the mailbox in bulk onto the slots of the frame `up` levels above, as a receive does.
    /// There is no write barrier for each word. Instead every stack barrier below the destination is
    /// unwound first, and mark termination will scan there. Returns false if there is no such frame.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub fn bulk_move(&'static self, up: usize) -> bool {
        let _running = self.leave_safepoint();
        let Some((g, _)) = self.innermost() else { return false };
        let Some(target) = frame(g, up) else { return false };
        crate::point!(BulkBegin, g, up);
        crate::triggered!(
            WriteBarriersLate,
            self.runtime.phase() == Phase::Mark
                && !self.runtime.write_barrier()
                && barrier::next_lies_below(g, target)
        );
        if self.runtime.write_barrier()
            && !crate::planted!(BulkWriteSkipsUnwind, barrier::next_lies_below(g, target))
        {
            let guard = crate::lock_unless!(BulkUnwindUnlocked, self, g, Operation::Bulk);
            if crate::planted!(PreemptibleLock, g.scan_requested()) {
                self.poll(g);
            }
            barrier::unwind(g, target);
            drop(guard);
        }
        for (slot, word) in self.runtime.heap().mailbox.iter().enumerate() {
            // SAFETY: a slot of a live frame of this machine's own goroutine.
            unsafe { poke(slot_address(target, slot), word.get()) };
            word.set(0);
        }
        crate::point!(BulkDone, g, up);
        true
    }

    /// The words in the slots of the frame `up` levels above the innermost, and the top of the stack that they
    /// lie on, for a harness that compares. The world is not stopped meanwhile, so the stack stays where it is.
    pub fn frame_slots(&'static self, up: usize) -> Option<([usize; SLOTS], usize)> {
        let _running = self.leave_safepoint();
        let g = self.current()?;
        let bp = frame(g, up)?;
        // SAFETY: slots of a live frame of this machine's own goroutine.
        let slots = core::array::from_fn(|slot| unsafe { peek(slot_address(bp, slot)) });
        Some((slots, g.stack.top.get()))
    }

    /// Returns the value of slot `slot` of the frame `up` levels above, for a harness that compares.
    pub fn slot_value(&'static self, up: usize, slot: usize) -> Option<usize> {
        // SAFETY: a slot of a live frame.
        Some(unsafe { peek(slot_address(frame(self.current()?, up)?, slot)) })
    }
}
