//! Saved places: where a goroutine goes on, or where it has left its stack.

use crate::sync::word::Word;

/// A saved place: PC, SP as in the body at that PC, frame pointer. SP is zero if nothing is saved.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Gobuf {
    /// Stack pointer.
    pub sp: Word,
    /// Program counter.
    pub pc: Word,
    /// Frame pointer.
    pub bp: Word,
}

impl Gobuf {
    pub(crate) const fn new() -> Self {
        Gobuf { sp: Word::new(0), pc: Word::new(0), bp: Word::new(0) }
    }

    /// Copies `other` here. SP comes last, since it says that the rest is there.
    pub(crate) fn copy_from(&self, other: &Gobuf) {
        self.pc.set(other.pc.get());
        self.bp.set(other.bp.get());
        self.sp.set(other.sp.get());
    }
}
