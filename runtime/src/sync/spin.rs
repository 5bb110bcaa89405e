//! A spinning mutual exclusion for the core's own book-keeping.
//!
//! It is not `std`'s: the code under it can be interrupted by the profiling signal at any
//! instruction, and all that it does must be in plain sight. No scheduling point lies inside any of
//! its sections, and no handler takes it.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A value that one thread at a time may touch.
#[derive(Debug, Default)]
pub(crate) struct Spin<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` lets one thread at a time at the value.
unsafe impl<T: Send> Sync for Spin<T> {}

impl<T> Spin<T> {
    /// Runs `f` on the value, while no other thread does.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        while self.held.swap(true, Ordering::Acquire) {
            // SAFETY: `sched_yield` has no preconditions.
            unsafe { libc::sched_yield() };
        }
        // SAFETY: `held` was false and is true now, so no other thread is in here.
        let result = f(unsafe { &mut *self.value.get() });
        self.held.store(false, Ordering::Release);
        result
    }
}
