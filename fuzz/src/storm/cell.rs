//! Truth that its owner's own signal handler, and a collector, may look at.
//!
//! A goroutine's truth belongs to the thread that runs it. Two others look: that thread's
//! own handler, which has interrupted it anywhere, and the collector, which looks at every
//! goroutine's slots while the world is stopped. The owner takes no lock for either. A
//! sequence word is odd while it writes; whoever looks then has seen nothing, and says so.
//!
//! # What the collector may rely on
//!
//! With the world stopped no operation of the core is half-way, but a thread may be between
//! one and the truth that goes with it. So whatever an operation takes away is taken out of
//! the truth *before* it, and whatever it adds is added *after* it: at any instant what the
//! truth can reach is a part of what memory can reach.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard};

use crate::executor::truth::{HeapTruth, Truth};

/// A value with one writer, and readers who can tell that it was being written.
#[derive(Debug)]
struct Watched<T> {
    sequence: AtomicU64,
    value: UnsafeCell<T>,
}

impl<T> Watched<T> {
    const fn new(value: T) -> Self {
        Watched { sequence: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// Changes the value.
    ///
    /// # Safety
    /// The caller is the one writer, and not its handler.
    #[inline]
    unsafe fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        // SAFETY: the one writer (caller); whoever looks meanwhile throws away what it saw.
        let result = change(unsafe { &mut *self.value.get() });
        self.sequence.store(sequence + 2, Ordering::Release);
        result
    }

    /// Looks at the value where nobody writes meanwhile.
    ///
    /// # Safety
    /// The caller is the writer, or the writer's own handler.
    #[inline]
    unsafe fn look<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        let whole = self.sequence.load(Ordering::Acquire).is_multiple_of(2);
        // SAFETY: the writer is this thread, and it is not writing: the word is even.
        whole.then(|| look(unsafe { &*self.value.get() }))
    }

    /// A copy of the value, from any thread; none where it was written meanwhile.
    fn copy<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        let before = self.sequence.load(Ordering::Acquire);
        if !before.is_multiple_of(2) {
            return None;
        }
        let mut copy = MaybeUninit::<T>::uninit();
        // SAFETY: both are valid for one value. Bytes that are being written are copied as
        // they are and looked at only if the word has not moved.
        unsafe {
            core::ptr::copy_nonoverlapping(
                self.value.get().cast::<MaybeUninit<u8>>(),
                copy.as_mut_ptr().cast::<MaybeUninit<u8>>(),
                size_of::<T>(),
            );
        }
        fence(Ordering::Acquire);
        if self.sequence.load(Ordering::Relaxed) != before {
            return None;
        }
        // SAFETY: nobody wrote while it was copied, so it is a value; it is only looked at,
        // and not dropped.
        Some(look(unsafe { copy.assume_init_ref() }))
    }
}

/// One goroutine's truth.
#[derive(Debug)]
pub(crate) struct TruthCell {
    truth: Watched<Truth>,
    /// True until it is begun, and again once it has ended.
    pub(crate) ended: AtomicBool,
}

// SAFETY: the truth is written by the thread that runs the goroutine, which the core's own
// hand-over of the goroutine makes one at a time; see `Watched` for those who look.
unsafe impl Sync for TruthCell {}

impl TruthCell {
    pub(crate) fn new() -> Self {
        TruthCell { truth: Watched::new(Truth::new()), ended: AtomicBool::new(true) }
    }

    /// Changes the truth.
    ///
    /// # Safety
    /// The caller runs this goroutine and is not in a handler.
    #[inline]
    pub(crate) unsafe fn update<R>(&self, change: impl FnOnce(&mut Truth) -> R) -> R {
        // SAFETY: the thread that runs it is the one writer (caller).
        unsafe { self.truth.update(change) }
    }

    /// Looks at the truth; none where this very thread was interrupted as it wrote.
    ///
    /// # Safety
    /// The caller runs this goroutine, or is that thread's handler, or everybody is parked.
    #[inline]
    pub(crate) unsafe fn look<R>(&self, look: impl FnOnce(&Truth) -> R) -> Option<R> {
        // SAFETY: as the caller says.
        unsafe { self.truth.look(look) }
    }

    /// The objects that its frames point to, from any thread; none where it was just written.
    pub(crate) fn roots(&self) -> Option<u64> {
        if self.ended.load(Ordering::Acquire) {
            return Some(0);
        }
        self.truth.copy(Truth::roots)
    }
}

/// What objects and mailbox hold.
#[derive(Debug)]
pub(crate) struct HeapCell {
    heap: Watched<HeapTruth>,
    /// One thread at a time changes memory that others can reach.
    writers: Mutex<()>,
}

// SAFETY: written under the mutex; see `Watched` for those who look.
unsafe impl Sync for HeapCell {}

/// The right to change what others can reach.
#[derive(Debug)]
pub(crate) struct HeapWriter<'a> {
    cell: &'a HeapCell,
    _held: MutexGuard<'a, ()>,
}

impl HeapCell {
    pub(crate) fn new() -> Self {
        HeapCell { heap: Watched::new(HeapTruth::new()), writers: Mutex::new(()) }
    }

    /// The right to change it, where nobody has it. Never waited for: the holder may wait for
    /// the world to go on.
    pub(crate) fn try_write(&self) -> Option<HeapWriter<'_>> {
        self.writers.try_lock().ok().map(|held| HeapWriter { cell: self, _held: held })
    }

    /// Starts over.
    ///
    /// # Safety
    /// Nobody is at work.
    pub(crate) unsafe fn clear(&self) {
        // SAFETY: nobody writes (caller).
        unsafe { self.heap.update(HeapTruth::clear) };
    }

    /// Every object that can be reached; none where something was just written.
    pub(crate) fn reachable(&self, roots: u64) -> Option<u64> {
        self.heap.copy(|heap| heap.reachable(roots))
    }
}

impl HeapWriter<'_> {
    /// Changes it.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut HeapTruth) -> R) -> R {
        // SAFETY: this thread holds the mutex, and no handler comes here.
        unsafe { self.cell.heap.update(change) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::truth::Value;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn what_is_being_written_is_not_seen() {
        let cell = TruthCell::new();
        cell.ended.store(false, Ordering::SeqCst);
        // SAFETY: this thread is the only one.
        unsafe {
            cell.update(|truth| {
                truth.start();
                assert!(cell.look(|_| ()).is_none());
                assert!(cell.roots().is_none());
                truth.frame(0).unwrap().slots[2] = Value::Object(7);
            });
            assert_eq!(cell.look(Truth::depth), Some(1));
        }
        assert_eq!(cell.roots(), Some(1 << 7));
        cell.ended.store(true, Ordering::SeqCst);
        assert_eq!(cell.roots(), Some(0));
    }

    #[test]
    fn another_thread_sees_all_of_a_change_or_none() {
        let (cell, done) = (HeapCell::new(), AtomicBool::new(false));
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                let writer = cell.try_write().unwrap();
                for index in (0..64u8).cycle().take(200_000) {
                    writer.update(|heap| heap.mailbox = [Value::Object(index); 4]);
                }
                done.store(true, Ordering::SeqCst);
            });
            let mut seen = 0;
            while !done.load(Ordering::SeqCst) {
                if let Some(set) = cell.reachable(0) {
                    assert!(set.count_ones() <= 1, "{set:#x}");
                    seen += 1;
                }
            }
            seen
        });
        assert!(seen > 0);
    }
}
