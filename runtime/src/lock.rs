//! The stack lock: who changes the barriers on a stack, or the stack itself, holds
//! it; a signal handler only tries it.
//!
//! The lock word names its holder and what the holder does, so that a handler which
//! could not take it can say why, and a report can say who stood in the way. Holding
//! it also holds off preemption of the holder: a holder that was asked to scan its
//! own stack would wait for itself.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::g::G;
use crate::hooks;
use crate::m::M;
use crate::wait::Wait;

crate::named_codes! {
    /// What a stack lock is held for.
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

/// The holder of a stack lock: a machine and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The machine's number.
    pub machine: u8,
    /// What it does.
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

/// The lock word: zero, or the owner.
#[derive(Debug, Default)]
pub struct StackLock(AtomicU32);

impl StackLock {
    /// A free lock.
    pub const fn new() -> Self {
        StackLock(AtomicU32::new(0))
    }

    /// Who holds it.
    #[inline]
    pub fn owner(&self) -> Option<Owner> {
        Owner::from_word(self.0.load(Ordering::Acquire))
    }

    /// One attempt. Signal-safe.
    #[inline(always)]
    pub fn try_acquire(&self, owner: Owner) -> Result<(), Owner> {
        match self.0.compare_exchange(0, owner.word(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(word) => Err(Owner::from_word(word).unwrap_or(owner)),
        }
    }

    /// Gives it back.
    #[inline(always)]
    pub fn release(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Forgets any holder: for a harness that starts over.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// A held stack lock; dropping it gives it back.
#[derive(Debug)]
pub struct Guard {
    g: &'static G,
    m: &'static M,
}

/// Until the lock is given back, no request is honoured on this machine.
#[inline(always)]
fn hold_off_preemption(m: &M) {
    if !crate::planted!(PreemptibleLock) {
        m.locks.set(m.locks.get() + 1);
    }
}

/// Takes `g`'s stack lock: spins, yields the processor, holds off preemption.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
#[cfg_attr(not(feature = "points"), inline)]
pub fn lock(m: &'static M, g: &'static G, operation: Operation) -> Guard {
    #[cfg(feature = "defects")]
    crate::canary::met(g);
    hold_off_preemption(m);
    let owner = Owner { machine: m.id, operation };
    let waits = operation != Operation::Copystack
        || !crate::planted!(CopystackStatusCheckOnly, g.lock.owner().is_some());
    while g.lock.try_acquire(owner).is_err() && waits {
        hooks::wait(&Wait::StackLock(g));
    }
    crate::point!(LockAcquired, g, operation as usize);
    Guard { g, m }
}

/// Tries `g`'s stack lock once; the holder where it is held. Signal-safe.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
#[cfg_attr(not(feature = "points"), inline)]
pub fn try_lock(m: &'static M, g: &'static G, operation: Operation) -> Result<Guard, Owner> {
    #[cfg(feature = "defects")]
    crate::canary::met(g);
    // A held lock is only looked at: that is cheaper than an exchange, and leaves its
    // holder the cache line.
    if let Some(holder) = g.lock.owner() {
        return Err(holder);
    }
    crate::point!(LockLooked, g, operation as usize);
    g.lock.try_acquire(Owner { machine: m.id, operation })?;
    hold_off_preemption(m);
    crate::point!(LockAcquired, g, operation as usize);
    Ok(Guard { g, m })
}

/// Gives `g`'s stack lock back.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
#[cfg_attr(not(feature = "points"), inline)]
pub(crate) fn unlock(m: &'static M, g: &'static G) {
    crate::point!(LockRelease, g, 0);
    g.lock.release();
    if !crate::planted!(PreemptibleLock) {
        m.locks.set(m.locks.get() - 1);
    }
}

impl Drop for Guard {
    #[inline(always)]
    fn drop(&mut self) {
        unlock(self.m, self.g);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_names_its_owner() {
        for &operation in Operation::ALL {
            for machine in [0, 1, 254] {
                let owner = Owner { machine, operation };
                assert_eq!(Owner::from_word(owner.word()), Some(owner));
            }
        }
        assert_eq!(Owner::from_word(0), None);
    }

    #[test]
    fn a_held_lock_refuses_and_says_who() {
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
