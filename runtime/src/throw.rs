//! Broken invariants: one structured reason, handed to whoever watches.
//!
//! A throw is the core's own verdict on itself. It never returns: what is broken
//! cannot be carried on with. A harness catches it as a finding; without one it is
//! printed and the process aborts.

use crate::g::G;
use crate::hooks;
use crate::traceback::WalkError;

/// Why the core cannot go on.
#[derive(Clone, Copy, Debug)]
pub enum Reason {
    /// A return slot that an entry names does not hold the trampoline.
    BarrierLost {
        /// The slot's address.
        slot: usize,
        /// What it holds instead.
        found: usize,
        /// The entry's index.
        entry: usize,
    },
    /// No room for another entry.
    BarrierOverflow {
        /// How many there is room for.
        capacity: usize,
        /// The slot that was to get one more.
        slot: usize,
    },
    /// A frame returned into the trampoline, and the entry at the position is another's.
    OutOfOrder {
        /// SP in the trampoline.
        sp: usize,
    },
    /// A scan met a goroutine that already has barriers.
    DoubleInstall {
        /// The slot of the one at the position, or of the last.
        slot: usize,
        /// How many entries it has.
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

/// A broken invariant.
#[derive(Clone, Copy, Debug)]
pub struct Throw {
    /// What is broken.
    pub reason: Reason,
    /// The goroutine concerned, if it is known.
    pub g: Option<&'static G>,
}

/// Ends in a throw.
#[cold]
#[inline(never)]
pub(crate) fn throw(g: Option<&'static G>, reason: Reason) -> ! {
    let throw = Throw { reason, g };
    hooks::throw(&throw);
    crate::dump::print_and_abort(&throw)
}

/// Ends in a throw: the runtime's own walk of a stack that it owns has failed.
#[cold]
#[inline(never)]
pub(crate) fn walk_failed(g: &'static G, error: WalkError) -> ! {
    throw(Some(g), Reason::WalkFailed(error))
}

/// First bytes of what ends in a throw: what calls it does so in a broken core alone.
pub fn code() -> [usize; 2] {
    [throw as *const () as usize, walk_failed as *const () as usize]
}
