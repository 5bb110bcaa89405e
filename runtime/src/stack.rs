//! Goroutine stacks: mapped memory with a guard page below, kept in a pool.
//!
//! A stack starts on a page of its own above its guard, so that running off its end
//! faults at once. The barrier entries are carved from the top of the same
//! allocation, because code that changes barriers cannot allocate.
//!
//! An old stack is not handed out again within a schedule. Its used part is poisoned
//! with a value that no pointer can have, and for a share of copies the pages are made
//! unreadable, so whoever still reads there sees nonsense or faults, and never a
//! plausible answer. The pool gets it back when the harness starts over, or, where a run has
//! no end, after so many others: nobody walks a stack without its goroutine's lock, so
//! once the copy has given that back nobody is in the old stack any more.

use core::sync::atomic::{AtomicUsize, Ordering, compiler_fence};
use std::collections::VecDeque;
use std::io;

use crate::barrier;
use crate::spin::Spin;
use crate::word::Word;

/// The smallest stack.
pub const MIN_STACK: usize = 2048;
/// The largest stack.
pub const MAX_STACK: usize = 64 * 1024;
/// Room below the guard for code that makes no stack check: one frame without a check,
/// a system call's stub, and the call of the switch.
pub const STACK_RESERVE: usize = 192;
/// No pointer has this value: it is not canonical.
pub const POISON: usize = 0xdead_5747_dead_5747;

const CLASSES: usize = (MAX_STACK / MIN_STACK).ilog2() as usize + 1;

/// A stack's bounds, as its goroutine has them.
#[derive(Debug)]
#[repr(C)]
pub struct Bounds {
    /// The lowest usable byte.
    pub lo: Word,
    /// One past the allocation, above the barrier entries.
    pub hi: Word,
    /// Where frames begin, below the barrier entries.
    pub top: Word,
}

impl Bounds {
    pub(crate) const fn new() -> Self {
        Bounds { lo: Word::new(0), hi: Word::new(0), top: Word::new(0) }
    }

    /// True where `sp` lies on this stack; the top itself is SP of an empty one. No branches,
    /// so that the way through it does not depend on which of two stacks lies lower.
    ///
    /// A handler asks without the stack lock, and may see the stack move:
    ///
    /// 1. M1: in the runtime for G1, SIGPROF; reads the old `lo`.
    /// 2. M2: shrinks G1's stack and sets the bounds.
    /// 3. M1: reads the new `top`. M1's own stack may lie between the two.
    ///
    /// Nobody runs on a stack that moves, so bounds that change meanwhile say that `sp` is
    /// elsewhere. (A stack is not used again before many others were retired: `top` does not
    /// come back.)
    #[inline(always)]
    pub fn contains(&self, sp: usize) -> bool {
        let before = self.top.get();
        compiler_fence(Ordering::SeqCst);
        let lo = self.lo.get();
        compiler_fence(Ordering::SeqCst);
        let top = self.top.get();
        (sp.wrapping_sub(lo) <= top.saturating_sub(lo)) & (top == before)
    }

    /// The guard for this stack's prologues.
    pub(crate) fn guard(&self) -> usize {
        self.lo.get() + STACK_RESERVE
    }

    /// The allocation's size.
    pub fn size(&self) -> usize {
        self.hi.get() - self.lo.get()
    }

    /// A handler on this thread may see any of these stores without the next: no address is
    /// on the stack until the last of them.
    pub(crate) fn set(&self, stack: &Stack, every_frame: bool) {
        self.top.set(0);
        compiler_fence(Ordering::SeqCst);
        self.lo.set(stack.lo);
        self.hi.set(stack.hi());
        compiler_fence(Ordering::SeqCst);
        self.top.set(stack.hi() - barrier::reserved(stack.size, every_frame));
    }
}

/// A stack's memory.
#[derive(Debug)]
pub struct Stack {
    pub(crate) lo: usize,
    pub(crate) size: usize,
}

impl Stack {
    pub(crate) fn hi(&self) -> usize {
        self.lo + self.size
    }

    fn pages(&self) -> usize {
        self.size.next_multiple_of(page_size())
    }

    fn map(size: usize) -> io::Result<Stack> {
        let page = page_size();
        let len = page + size.next_multiple_of(page);
        // SAFETY: a fresh anonymous mapping; touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack { lo: base as usize + page, size };
        stack.protect(libc::PROT_READ | libc::PROT_WRITE)?;
        register(base as usize, stack.lo, base as usize + len);
        Ok(stack)
    }

    fn protect(&self, protection: libc::c_int) -> io::Result<()> {
        // SAFETY: pages of this stack's own mapping.
        match unsafe { libc::mprotect(self.lo as *mut _, self.pages(), protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Overwrites the part from `from` up.
    ///
    /// # Safety
    /// Nobody needs what is there.
    pub(crate) unsafe fn poison(&self, from: usize) {
        let words = (self.hi() - from) / size_of::<usize>();
        // SAFETY: within the stack and no longer needed (caller).
        unsafe { core::slice::from_raw_parts_mut(from as *mut usize, words) }.fill(POISON);
    }
}

fn page_size() -> usize {
    4096
}

/// Every stack mapping of the process, for the fault handler: (guard, lo, end).
static MAPPINGS: [[AtomicUsize; 3]; 16384] = [const { [const { AtomicUsize::new(0) }; 3] }; 16384];
static MAPPED: AtomicUsize = AtomicUsize::new(0);

fn register(guard: usize, lo: usize, end: usize) {
    let index = MAPPED.fetch_add(1, Ordering::Relaxed);
    if let Some(row) = MAPPINGS.get(index) {
        row[1].store(lo, Ordering::Relaxed);
        row[2].store(end, Ordering::Relaxed);
        row[0].store(guard, Ordering::Release);
    }
}

/// What an address means to the stacks of this process. Signal-safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a guard page.
    Guard,
    /// In a stack.
    Stack,
    /// Elsewhere.
    Elsewhere,
}

/// Finds out what an address means. Signal-safe.
pub fn place(address: usize) -> Place {
    for row in MAPPINGS.iter().take(MAPPED.load(Ordering::Relaxed)) {
        let guard = row[0].load(Ordering::Acquire);
        if address >= guard && address < row[2].load(Ordering::Relaxed) {
            return if address < row[1].load(Ordering::Relaxed) { Place::Guard } else { Place::Stack };
        }
    }
    Place::Elsewhere
}

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
    /// Takes the oldest retired stack back. False where there is none.
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
    /// A stack of this size: `MIN_STACK` times a power of two.
    #[inline(never)]
    pub(crate) fn take(&self, size: usize) -> io::Result<Stack> {
        debug_assert!(size.is_power_of_two() && (MIN_STACK..=MAX_STACK).contains(&size));
        match self.inner.with(|p| p.free[class(size)].pop()) {
            Some(stack) => Ok(stack),
            None => Stack::map(size),
        }
    }

    /// A stack that a goroutine has left; every `unreadable`th is made unreadable.
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

    /// A stack that nobody used since it was taken, or that may be used again.
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

    /// How many retired stacks are kept back before the oldest is used again; zero is all.
    pub(crate) fn set_quarantine(&self, stacks: usize) {
        self.inner.with(|pool| pool.quarantine = stacks);
    }

    /// How many stacks were copied since the pool was reclaimed.
    pub(crate) fn copies(&self) -> usize {
        self.inner.with(|pool| pool.copies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order in [`Bounds::contains`]: an address between two stacks is on neither, whatever
    /// of a move is seen.
    #[test]
    fn what_lies_between_two_stacks_is_never_on_one_that_moves() {
        const MOVES: usize = 400_000;
        let bounds = Bounds::new();
        let ends = std::sync::atomic::AtomicBool::new(false);
        let below = |n: usize| 0x1000_0000 + n * 0x1000;
        let above = |n: usize| 0x1_0000_0000 + n * 0x1000;
        let set = |lo| bounds.set(&std::mem::ManuallyDrop::new(Stack { lo, size: 0x1000 }), false);
        set(below(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..MOVES {
                    set(above(n));
                    set(below(n));
                }
                ends.store(true, Ordering::SeqCst);
            });
            while !ends.load(Ordering::SeqCst) {
                assert!(!bounds.contains(0xc000_0000));
            }
        });
        assert!(bounds.contains(below(MOVES - 1) + 0x800), "nobody moves it any more");
    }

    #[test]
    fn a_stack_has_a_guard_and_is_known_by_its_address() {
        let stack = Stack::map(MIN_STACK).unwrap();
        assert_eq!(place(stack.lo - 1), Place::Guard);
        assert_eq!(place(stack.lo), Place::Stack);
        assert_eq!(place(stack.hi() - 1), Place::Stack);
        assert_eq!(place(0), Place::Elsewhere);
    }

    #[test]
    fn a_retired_stack_comes_back_only_when_reclaimed() {
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
    fn a_quarantined_stack_comes_back_after_so_many_others() {
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

    #[test]
    fn poison_is_no_canonical_address() {
        let high = POISON >> 47;
        assert!(high != 0 && high != 0x1ffff);
    }
}
