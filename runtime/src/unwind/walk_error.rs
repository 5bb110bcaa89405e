//! Walk errors: the reasons for which a walk is refused or given up.

/// The reason why a walk was refused or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The walk would start in code that is in no table.
    UnknownStart {
        /// The PC.
        pc: usize,
    },
    /// A return address is in code that is in no table.
    UnknownReturn {
        /// The slot.
        slot: usize,
        /// The word that it holds.
        pc: usize,
    },
    /// A frame reaches out of its stack.
    OutOfStack {
        /// The slot that would have been read.
        slot: usize,
    },
    /// A slot could not be read.
    Fault {
        /// The slot.
        slot: usize,
    },
    /// A slot holds the trampoline and the next entry is not this slot's.
    MissedBarrier {
        /// The slot.
        slot: usize,
    },
    /// The walk reached the outermost frame, and entries were left over.
    LeftoverBarriers {
        /// The first one's slot.
        slot: usize,
        /// The number of entries.
        entries: usize,
    },
    /// The walk reached the outermost frame, which does not end at the stack's top.
    ShortOfTop {
        /// The address where it ends.
        end: usize,
    },
    /// The walk starts in the trampoline, and no entry explains that.
    LostTrampoline {
        /// SP in the trampoline.
        sp: usize,
    },
    /// No state is saved to start from.
    NothingSaved,
}

impl WalkError {
    /// Returns the slot to blame, if there is one.
    pub fn slot(&self) -> Option<usize> {
        match *self {
            WalkError::UnknownReturn { slot, .. }
            | WalkError::OutOfStack { slot }
            | WalkError::Fault { slot }
            | WalkError::LeftoverBarriers { slot, .. }
            | WalkError::MissedBarrier { slot } => Some(slot),
            _ => None,
        }
    }
}
