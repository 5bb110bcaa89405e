//! Transition points: where a goroutine left its stack for foreign code that has called back in.

use core::cell::UnsafeCell;

use super::gobuf::Gobuf;

/// Most callbacks of one goroutine that can be under way at a time.
pub const MAX_CALLBACKS: usize = 4;

/// The transition points that were put away for callbacks, outermost first.
#[derive(Debug)]
pub(crate) struct Transitions {
    pub(super) saved: [Gobuf; MAX_CALLBACKS],
    depth: UnsafeCell<usize>,
}

impl Transitions {
    pub(crate) const fn new() -> Self {
        Transitions { saved: [const { Gobuf::new() }; MAX_CALLBACKS], depth: UnsafeCell::new(0) }
    }

    /// Returns those that are put away.
    fn points(&self) -> &[Gobuf] {
        // SAFETY: the owner's alone, as the goroutine's defers are; no other thread calls this.
        &self.saved[..unsafe { *self.depth.get() }]
    }

    pub(super) fn depth(&self) -> usize {
        self.points().len()
    }

    pub(super) fn set_depth(&self, depth: usize) {
        // SAFETY: as in `points`.
        unsafe { *self.depth.get() = depth };
    }

    pub(crate) fn clear(&self) {
        self.set_depth(0);
    }

    /// Adjusts each by `delta`, along with its stack.
    pub(crate) fn adjust(&self, delta: usize) {
        for point in self.points() {
            point.sp.set(point.sp.get().wrapping_add(delta));
            point.bp.set(point.bp.get().wrapping_add(delta));
        }
    }

    /// Returns the SP of the innermost, if a callback is under way.
    pub(super) fn innermost_sp(&self) -> Option<usize> {
        Some(self.points().last()?.sp.get())
    }

    /// Returns whether `bp` is the frame pointer of a foreign call's stub, which has no slots.
    pub(crate) fn is_stub(&self, bp: usize) -> bool {
        self.points().iter().any(|point| point.bp.get() == bp)
    }
}
