//! The cores on which the traced threads may run.
//!
//! A stop costs a fifth on one core of its cost on two, so the traced threads are pinned to the
//! tracer's core while signals are delivered: from when the caller asks, never from the start,
//! because runtimes count the cores when they start.

use std::io;

/// A thread's set of cores, as the kernel keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mask(Vec<u64>);

impl Mask {
    /// The set with one core.
    pub(super) fn single(core: usize) -> Mask {
        let mut words = vec![0; core / 64 + 1];
        words[core / 64] = 1 << (core % 64);
        Mask(words)
    }

    /// The set of a thread (0: the calling one).
    pub(super) fn of(tid: i32) -> io::Result<Mask> {
        // The kernel refuses a buffer smaller than its own set, and does not tell that one's size.
        let mut words = vec![0u64; 16];
        loop {
            // SAFETY: The kernel writes at most as many bytes as the vector has.
            let result =
                unsafe { libc::sched_getaffinity(tid, size_of_val(&words[..]), words.as_mut_ptr().cast()) };
            if result == 0 {
                return Ok(Mask(words));
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) || words.len() >= 1 << 14 {
                return Err(error);
            }
            words.resize(words.len() * 2, 0);
        }
    }

    /// Makes a thread (0: the calling one) run on these cores alone.
    pub(super) fn apply(&self, tid: i32) -> io::Result<()> {
        // SAFETY: The kernel reads as many bytes as the vector has.
        let result =
            unsafe { libc::sched_setaffinity(tid, size_of_val(&self.0[..]), self.0.as_ptr().cast()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The core on which the calling thread runs now.
pub(super) fn current_core() -> usize {
    // SAFETY: The call only asks.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}
