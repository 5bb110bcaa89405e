//! The record of a storm, which its owner's own signal handler and other threads may look at.
//!
//! A goroutine's shadow stack belongs to the thread that runs the goroutine. Others look: that
//! thread's own handler, which has interrupted it anywhere, and threads that collect. The owner takes
//! no lock for either. A sequence word is odd while it writes; a reader that looks then gets nothing.
//!
//! # What others may rely on
//!
//! With the world stopped no operation of the runtime is half-way, but a thread may be between one and
//! the change of the record that goes with it ([`crate::oracle::lockstep`]).

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard};

use crate::oracle::requests::Requests;
use crate::oracle::{ShadowHeap, ShadowStack};

/// A value with one writer, and readers who can tell that it was being written.
#[derive(Debug)]
struct SeqLock<T> {
    sequence: AtomicU64,
    value: UnsafeCell<T>,
}

impl<T> SeqLock<T> {
    const fn new(value: T) -> Self {
        SeqLock { sequence: AtomicU64::new(0), value: UnsafeCell::new(value) }
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
        // SAFETY: the one writer (caller); a reader that looks meanwhile discards what it saw.
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

    /// Looks at a copy of the value, from any thread. None where it was written meanwhile.
    fn copy<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        let before = self.sequence.load(Ordering::Acquire);
        if !before.is_multiple_of(2) {
            return None;
        }
        let mut copy = MaybeUninit::<T>::uninit();
        // SAFETY: both are valid for one value. Bytes that are being written are copied as they are and
        // looked at only if the word has not moved.
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
        // SAFETY: nobody wrote while it was copied, so it is a value; it is only looked at, and not dropped.
        Some(look(unsafe { copy.assume_init_ref() }))
    }
}

/// The record of one goroutine.
#[derive(Debug)]
pub(crate) struct Shadow {
    stack: SeqLock<ShadowStack>,
    /// Set until the goroutine is begun, and again once it has ended.
    pub(crate) ended: AtomicBool,
    pub(crate) requests: Requests,
    /// Odd while its stack is being moved.
    moves: AtomicU64,
}

// SAFETY: the shadow stack is written by the thread that runs the goroutine, which the runtime's own
// hand-over of the goroutine makes one at a time; see `SeqLock` for those who look.
unsafe impl Sync for Shadow {}

impl Shadow {
    pub(crate) fn new() -> Self {
        Shadow {
            stack: SeqLock::new(ShadowStack::new()),
            ended: AtomicBool::new(true),
            requests: Requests::new(),
            moves: AtomicU64::new(0),
        }
    }

    /// Changes the shadow stack.
    ///
    /// # Safety
    /// The caller runs this goroutine and is not in a handler.
    #[inline]
    pub(crate) unsafe fn change<R>(&self, change: impl FnOnce(&mut ShadowStack) -> R) -> R {
        // SAFETY: the thread that runs it is the one writer (caller).
        unsafe { self.stack.update(change) }
    }

    /// Looks at the shadow stack. None where this very thread was interrupted as it wrote.
    ///
    /// # Safety
    /// The caller runs this goroutine, or is that thread's handler, or every thread is parked.
    #[inline]
    pub(crate) unsafe fn look<R>(&self, look: impl FnOnce(&ShadowStack) -> R) -> Option<R> {
        // SAFETY: as the caller says.
        unsafe { self.stack.look(look) }
    }

    /// Looks at a copy of the shadow stack, from any thread. None where it was just written.
    pub(crate) fn copy<R>(&self, look: impl FnOnce(&ShadowStack) -> R) -> Option<R> {
        self.stack.copy(look)
    }

    /// The objects that its frames point to, from any thread. None where they were just written.
    pub(crate) fn roots(&self) -> Option<u64> {
        if self.ended.load(Ordering::Acquire) {
            return Some(0);
        }
        self.stack.copy(ShadowStack::roots)
    }

    /// The goroutine's stack begins to move, or has moved. Called by the thread that moves it.
    pub(crate) fn moves(&self, begins: bool) {
        let moves = self.moves.load(Ordering::Relaxed);
        self.moves.store((moves & !1) + if begins { 1 } else { 2 }, Ordering::SeqCst);
    }

    /// A number that is the same as long as the stack stays where it is. None while it is being moved.
    pub(crate) fn place(&self) -> Option<u64> {
        Some(self.moves.load(Ordering::SeqCst)).filter(|moves| moves.is_multiple_of(2))
    }
}

/// The record of objects and mailbox.
#[derive(Debug)]
pub(crate) struct HeapCell {
    heap: SeqLock<ShadowHeap>,
    /// One thread at a time changes memory that others can reach.
    writers: Mutex<()>,
}

// SAFETY: written by the thread that holds the mutex; see `SeqLock` for those who look.
unsafe impl Sync for HeapCell {}

impl HeapCell {
    pub(crate) fn new() -> Self {
        HeapCell { heap: SeqLock::new(ShadowHeap::new()), writers: Mutex::new(()) }
    }

    /// The right to change memory that others can reach, where nobody has it. Never waited for: the holder may
    /// wait for the world to go on.
    pub(crate) fn try_write(&self) -> Option<MutexGuard<'_, ()>> {
        self.writers.try_lock().ok()
    }

    /// Changes it.
    ///
    /// # Safety
    /// The calling thread has the right to ([`Self::try_write`]) and is not in a handler, or nobody is at work.
    pub(crate) unsafe fn change<R>(&self, change: impl FnOnce(&mut ShadowHeap) -> R) -> R {
        // SAFETY: one thread at a time (caller).
        unsafe { self.heap.update(change) }
    }

    /// Every object that can be reached. None where something was just written.
    pub(crate) fn reachable(&self, roots: u64) -> Option<u64> {
        self.heap.copy(|heap| heap.reachable(roots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::shadow_stack::Value;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn shadow_stack_is_not_seen_while_it_is_written() {
        let shadow = Shadow::new();
        shadow.ended.store(false, Ordering::SeqCst);
        // SAFETY: this thread is the only one.
        unsafe {
            shadow.change(|stack| {
                stack.start();
                assert!(shadow.look(|_| ()).is_none());
                assert!(shadow.roots().is_none());
                stack.frame(0).unwrap().slots[2] = Value::Object(7);
            });
            assert_eq!(shadow.look(ShadowStack::depth), Some(1));
        }
        assert_eq!(shadow.roots(), Some(1 << 7));
        shadow.ended.store(true, Ordering::SeqCst);
        assert_eq!(shadow.roots(), Some(0));
    }

    #[test]
    fn shadow_heap_is_seen_whole_by_other_threads_or_not_at_all() {
        const LOOKS: usize = 100;
        let (cell, done) = (HeapCell::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _right = cell.try_write().unwrap();
                for (count, index) in (0..64u8).cycle().enumerate() {
                    // SAFETY: this thread has the right to.
                    unsafe { cell.change(|heap| heap.mailbox = [Value::Object(index); 4]) };
                    if count % 16 == 0 {
                        std::thread::yield_now();
                    }
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
            let mut seen = 0;
            while seen < LOOKS {
                if let Some(set) = cell.reachable(0) {
                    assert!(set.count_ones() <= 1, "{set:#x}");
                    seen += 1;
                }
            }
            done.store(true, Ordering::SeqCst);
        });
    }

    #[test]
    fn stack_has_no_place_while_it_moves() {
        let shadow = Shadow::new();
        let before = shadow.place();
        shadow.moves(true);
        assert_eq!(shadow.place(), None);
        shadow.moves(false);
        assert!(shadow.place().is_some() && shadow.place() != before);
    }
}
