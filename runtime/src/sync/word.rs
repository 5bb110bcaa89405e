//! A machine word that a signal handler or another thread may read at any instant.
//!
//! The protocol's ordering comes from its lock and its statuses; the words between are plain. They
//! are atomics only because code that interrupts, or another thread that a defect lets in too early,
//! may read them at any instant, and such a read must yield a value and not undefined behaviour.

use core::sync::atomic::{AtomicUsize, Ordering};

/// A word with relaxed reads and writes.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word(AtomicUsize);

impl Word {
    /// Makes a word with this value.
    pub const fn new(value: usize) -> Self {
        Word(AtomicUsize::new(value))
    }

    /// Returns the value.
    #[inline(always)]
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value if it is `old`. Returns whether it was.
    pub fn replace(&self, old: usize, new: usize) -> bool {
        self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Replaces the value.
    #[inline(always)]
    pub fn set(&self, value: usize) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Reads a word of a stack or an object.
///
/// # Safety
/// `address` is aligned and readable.
#[inline(always)]
pub(crate) unsafe fn peek(address: usize) -> usize {
    // SAFETY: aligned and readable (caller); atomic, since another thread may write it.
    unsafe { AtomicUsize::from_ptr(address as *mut usize) }.load(Ordering::Relaxed)
}

/// Writes a word of a stack or an object.
///
/// # Safety
/// `address` is aligned and writable.
#[inline(always)]
pub(crate) unsafe fn poke(address: usize, value: usize) {
    // SAFETY: aligned and writable (caller); atomic, since another thread may read it.
    unsafe { AtomicUsize::from_ptr(address as *mut usize) }.store(value, Ordering::Relaxed);
}
