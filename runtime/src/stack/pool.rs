//! The pool of stacks: free ones by size, and those that their goroutines have left.
//!
//! An old stack is not handed out again within a schedule, so that a stale pointer into it never
//! finds a plausible answer. The pool takes it back when the harness starts over. Where a run has
//! no end, it takes the oldest back after so many others have been left: no walk of a stack
//! is without its goroutine's lock, so once the copy has given that lock back no walk is in the old
//! stack any more.

use std::collections::VecDeque;
use std::io;

use super::memory::{MAX_STACK, MIN_STACK, Stack};
use crate::sync::spin::Spin;

const CLASSES: usize = (MAX_STACK / MIN_STACK).ilog2() as usize + 1;

/// Free stacks by size, and the retired ones of this schedule.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    inner: Spin<PoolInner>,
}

#[derive(Debug, Default)]
struct PoolInner {
    free: [Vec<Stack>; CLASSES],
    retired: VecDeque<(Stack, bool)>,
    quarantine: usize,
    copies: usize,
}

impl PoolInner {
    /// Takes the oldest retired stack back. Returns false if there is none.
    fn reuse_oldest(&mut self) -> bool {
        let Some((stack, hidden)) = self.retired.pop_front() else { return false };
        let usable = !hidden || stack.protect(libc::PROT_READ | libc::PROT_WRITE).is_ok();
        if usable {
            self.free[class(stack.size)].push(stack);
        }
        true
    }
}

fn class(size: usize) -> usize {
    (size / MIN_STACK).ilog2() as usize
}

impl Pool {
    /// Takes a stack of `size` bytes, which is `MIN_STACK` times a power of two.
    ///
    /// # Errors
    /// If the kernel has no memory for a new one.
    #[inline(never)]
    pub(crate) fn take(&self, size: usize) -> io::Result<Stack> {
        debug_assert!(size.is_power_of_two() && (MIN_STACK..=MAX_STACK).contains(&size));
        match self.inner.with(|p| p.free[class(size)].pop()) {
            Some(stack) => Ok(stack),
            None => Stack::map(size),
        }
    }

    /// Keeps back a stack that a goroutine has left; makes every `unreadable`th unreadable.
    #[inline(never)]
    pub(crate) fn retire(&self, stack: Stack, unreadable: usize) {
        self.inner.with(|pool| {
            pool.copies += 1;
            let hide = unreadable != 0 && pool.copies % unreadable == 0;
            let hidden = hide && stack.protect(libc::PROT_NONE).is_ok();
            pool.retired.push_back((stack, hidden));
            if pool.quarantine != 0 && pool.retired.len() > pool.quarantine {
                pool.reuse_oldest();
            }
        });
    }

    /// Gives a stack back that was not used since it was taken, or that may be used again.
    pub(crate) fn give_back(&self, stack: Stack) {
        self.inner.with(|pool| pool.free[class(stack.size)].push(stack));
    }

    /// Takes every retired stack back.
    pub(crate) fn reclaim(&self) {
        self.inner.with(|pool| {
            pool.copies = 0;
            while pool.reuse_oldest() {}
        });
    }

    /// Sets how many retired stacks are kept back before the oldest is used again; zero is all.
    pub(crate) fn set_quarantine(&self, stacks: usize) {
        self.inner.with(|pool| pool.quarantine = stacks);
    }

    /// Returns how many stacks were retired since the pool was reclaimed.
    pub(crate) fn copies(&self) -> usize {
        self.inner.with(|pool| pool.copies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retired_stack_comes_back_only_when_reclaimed() {
        let pool = Pool::default();
        let first = pool.take(MIN_STACK).unwrap();
        let lo = first.lo;
        pool.retire(first, 1);
        let second = pool.take(MIN_STACK).unwrap();
        assert_ne!(second.lo, lo);
        pool.reclaim();
        let third = pool.take(MIN_STACK).unwrap();
        assert_eq!(third.lo, lo);
        // It was made unreadable for a while; now it can be written again.
        // SAFETY: its own memory, in no use.
        unsafe { third.poison(third.lo) };
    }

    #[test]
    fn quarantined_stack_comes_back_after_that_many_others() {
        let pool = Pool::default();
        pool.set_quarantine(2);
        let stacks: Vec<Stack> = (0..3).map(|_| pool.take(MIN_STACK).unwrap()).collect();
        let oldest = stacks[0].lo;
        for stack in stacks {
            assert!(pool.inner.with(|p| p.free[0].is_empty()));
            pool.retire(stack, 1);
        }
        let again = pool.take(MIN_STACK).unwrap();
        assert_eq!(again.lo, oldest);
        // SAFETY: its own memory, in no use.
        unsafe { again.poison(again.lo) };
    }
}
