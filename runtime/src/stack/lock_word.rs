//! The word of a stack lock: zero, or its owner and what the owner does.

use core::sync::atomic::{AtomicU32, Ordering};

crate::named_codes! {
    /// The operation that a stack lock is held for.
    pub enum Operation {
        /// Scanning a stack and installing barriers on it.
        Install = 1, "install";
        /// Removing all barriers.
        Remove = 2, "remove";
        /// Unwinding barriers for a recovery, and moving to its landing.
        Recover = 3, "recover";
        /// Unwinding barriers for a bulk move onto the stack.
        Bulk = 4, "bulk";
        /// Moving the stack.
        Copystack = 5, "copystack";
        /// Clearing an ended goroutine's stack state.
        Exit = 6, "exit";
        /// Walking, in a signal handler.
        Walk = 7, "walk";
        /// Walking, for an event of the execution tracer.
        Trace = 20, "trace";
        /// Replacing a caller's PC.
        SetPc = 16, "setpc";
    }
}

/// The holder of a stack lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The machine's number.
    pub machine: u8,
    /// The operation that the machine holds the lock for.
    pub operation: Operation,
}

impl Owner {
    const fn word(self) -> u32 {
        (self.machine as u32 + 1) << 8 | self.operation as u32
    }

    const fn from_word(word: u32) -> Option<Owner> {
        if word == 0 {
            return None;
        }
        match Operation::from_code(word as u8) {
            Some(operation) => Some(Owner { machine: (word >> 8) as u8 - 1, operation }),
            None => None,
        }
    }
}

/// A stack lock's word. [`lock`](super::lock::lock) is how the core takes it.
#[derive(Debug, Default)]
pub struct StackLock(AtomicU32);

impl StackLock {
    /// Makes a free lock.
    pub const fn new() -> Self {
        StackLock(AtomicU32::new(0))
    }

    /// Returns the holder.
    #[inline]
    pub fn owner(&self) -> Option<Owner> {
        Owner::from_word(self.0.load(Ordering::Acquire))
    }

    /// Makes one attempt to take the lock. Signal-safe.
    ///
    /// # Errors
    /// The holder, if the lock is held.
    #[inline(always)]
    pub fn try_acquire(&self, owner: Owner) -> Result<(), Owner> {
        match self.0.compare_exchange(0, owner.word(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(word) => Err(Owner::from_word(word).unwrap_or(owner)),
        }
    }

    /// Gives the lock back.
    #[inline(always)]
    pub fn release(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Makes it a word of no owner, which is not the free lock's either: for tests of an oracle.
    pub(crate) fn jam(&self) {
        self.0.store(u32::MAX, Ordering::Release);
    }

    /// Forgets any holder: for a harness that starts over.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_word_names_its_owner() {
        for &operation in Operation::ALL {
            for machine in [0, 1, 254] {
                let owner = Owner { machine, operation };
                assert_eq!(Owner::from_word(owner.word()), Some(owner));
            }
        }
        assert_eq!(Owner::from_word(0), None);
    }

    #[test]
    fn held_lock_refuses_and_names_its_holder() {
        let lock = StackLock::new();
        let first = Owner { machine: 1, operation: Operation::Copystack };
        let second = Owner { machine: 2, operation: Operation::Walk };
        assert_eq!(lock.try_acquire(first), Ok(()));
        assert_eq!(lock.try_acquire(second), Err(first));
        lock.release();
        assert_eq!(lock.owner(), None);
        assert_eq!(lock.try_acquire(second), Ok(()));
    }
}
