//! The stack lock: whoever changes the barriers on a stack, or the stack itself, holds it; a
//! signal handler only tries it.
//!
//! The lock word names its holder and the holder's operation ([`super::lock_word`]). So a handler
//! that could not take the lock can say why, and a report can say who stood in the way.
//!
//! Holding the lock also holds off preemption of the holder: a holder that was asked to scan its
//! own stack would wait for itself.

use crate::instrument::hooks;
use crate::sched::g::G;
use crate::sched::m::M;
use crate::sched::wait::Wait;

pub use super::lock_word::{Operation, Owner, StackLock};

/// A held stack lock; dropping it gives the lock back.
#[derive(Debug)]
pub struct Guard {
    g: &'static G,
    m: &'static M,
}

/// Holds off preemption requests on this machine until the lock is given back.
#[inline(always)]
fn hold_off_preemption(m: &M) {
    if !crate::planted!(PreemptibleLock) {
        m.locks.set(m.locks.get() + 1);
    }
}

/// Takes `g`'s stack lock: spins, yields the processor, holds off preemption. Not for a signal
/// handler.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
#[cfg_attr(not(feature = "points"), inline)]
pub fn lock(m: &'static M, g: &'static G, operation: Operation) -> Guard {
    #[cfg(feature = "defects")]
    crate::instrument::canary::met(g);
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

/// Tries `g`'s stack lock once. Signal-safe.
///
/// # Errors
/// The holder, if the lock is held.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
#[cfg_attr(not(feature = "points"), inline)]
pub fn try_lock(m: &'static M, g: &'static G, operation: Operation) -> Result<Guard, Owner> {
    #[cfg(feature = "defects")]
    crate::instrument::canary::met(g);
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

/// `lock_unless!(Name, m, g, operation)` takes the stack lock. If that defect is planted, a section
/// without the lock begins instead.
#[macro_export]
macro_rules! lock_unless {
    ($name:ident, $m:expr, $g:expr, $operation:expr) => {{
        #[cfg(feature = "defects")]
        let guard = if $crate::planted!($name) {
            Err($crate::instrument::canary::Unlocked::begin($crate::instrument::defect::Defect::$name, $g))
        } else {
            Ok($crate::stack::lock::lock($m, $g, $operation))
        };
        #[cfg(not(feature = "defects"))]
        let guard = $crate::stack::lock::lock($m, $g, $operation);
        guard
    }};
}
