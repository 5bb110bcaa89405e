//! The list of a goroutine's barriers, and how much room it takes. The protocol is in
//! [`super::barrier`].

use crate::arch;
use crate::sync::word::Word;

/// Distance from SP to the first barrier; each further one is twice as far.
pub const FIRST_BARRIER: usize = 1024;

/// One barrier: the return slot that it lies over, and the address that was there.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    /// The slot's address.
    pub slot: usize,
    /// The return address that the slot held.
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
    /// Number of entries that there is room for.
    pub(crate) capacity: Word,
}

impl Barriers {
    pub(crate) const fn new() -> Self {
        Barriers { base: Word::new(0), len: Word::new(0), position: Word::new(0), capacity: Word::new(0) }
    }

    /// Returns the number of entries.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Returns whether there are no entries.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the index of the first entry that was neither hit nor unwound.
    #[inline(always)]
    pub fn position(&self) -> usize {
        self.position.get()
    }

    /// Returns the number of entries that were neither hit nor unwound.
    #[inline]
    pub fn pending(&self) -> usize {
        self.len().saturating_sub(self.position())
    }

    /// Returns the address of entry `index`.
    #[inline(always)]
    pub(crate) fn address(&self, index: usize) -> usize {
        self.base.get() + index * size_of::<Entry>()
    }

    /// Returns entry `index`, if the list is that long.
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
}

/// Returns how many entries a stack of `size` bytes needs room for.
///
/// With exponential spacing that is one for each doubling of [`FIRST_BARRIER`] that the stack
/// holds, and one. With a barrier in every frame it is half of the stack: the smallest frame is
/// three times as large as an entry, so the list is never full before the stack is.
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

/// Returns the bytes reserved for the list at the top of a stack of `size` bytes.
pub fn reserved(size: usize, every_frame: bool) -> usize {
    max_entries(size, every_frame) * size_of::<Entry>()
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
    fn a_barrier_in_every_frame_reserves_half_of_the_stack() {
        assert_eq!(reserved(4096, true), 2048);
        // The smallest frame takes more than an entry, so the list cannot overflow.
        assert!(max_entries(4096, true) >= 2048 / (16 + 32));
    }
}
