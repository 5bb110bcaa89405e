//! Reasons of throws: the structured verdicts that the core passes on itself.

use super::walk_error::WalkError;
use crate::sched::g::G;

/// The reason why the core cannot go on.
#[derive(Clone, Copy, Debug)]
pub enum Reason {
    /// A return slot that an entry names does not hold the trampoline.
    BarrierLost {
        /// The slot's address.
        slot: usize,
        /// The word that the slot holds instead.
        found: usize,
        /// The entry's index.
        entry: usize,
    },
    /// The list has no room for another entry.
    BarrierOverflow {
        /// The number of entries that there is room for.
        capacity: usize,
        /// The slot that the entry was for.
        slot: usize,
    },
    /// A frame returned into the trampoline, and the entry at the position is another's.
    OutOfOrder {
        /// SP in the trampoline.
        sp: usize,
    },
    /// A scan met a goroutine that already has barriers.
    DoubleInstall {
        /// The slot of the entry at the position, or of the last one.
        slot: usize,
        /// The number of entries.
        entries: usize,
    },
    /// The runtime's own walk of a stack failed.
    WalkFailed(WalkError),
    /// A memory fault.
    Fault {
        /// The address that could not be reached, or the value read from a freed stack.
        address: usize,
        /// The instruction that faulted, if one did.
        pc: usize,
    },
    /// A guard page was hit.
    StackOverflow {
        /// The address in the guard page.
        address: usize,
        /// The instruction that hit it.
        pc: usize,
    },
    /// A sample in a buffer is not as it was written.
    SampleTorn {
        /// The buffer's machine.
        machine: u8,
        /// The sample's number.
        sequence: u64,
    },
}

/// A broken invariant of the core, which cannot go on.
#[derive(Clone, Copy, Debug)]
pub struct Throw {
    /// The broken invariant.
    pub reason: Reason,
    /// The goroutine concerned, if it is known.
    pub g: Option<&'static G>,
}

impl Reason {
    /// Returns the slot to blame, if there is one.
    pub fn slot(&self) -> Option<usize> {
        match self {
            Reason::BarrierLost { slot, .. } | Reason::DoubleInstall { slot, .. } => Some(*slot),
            Reason::BarrierOverflow { slot, .. } => Some(*slot),
            Reason::OutOfOrder { sp } => Some(sp - 8),
            Reason::WalkFailed(error) => error.slot(),
            _ => None,
        }
    }
}
