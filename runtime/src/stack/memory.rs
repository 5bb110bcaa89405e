//! Goroutine stacks as memory: a mapping with a guard page below, and the bounds that a goroutine
//! keeps of its stack.
//!
//! A stack starts on a page of its own above its guard, so that running off its end faults at
//! once. The barrier entries are carved from the top of the same allocation, because code that
//! changes barriers must not allocate.
//!
//! The used part of an old stack is poisoned with a value that no pointer can have, and for a share
//! of copies the pages are made unreadable. A stale pointer then reads nonsense or faults, and never
//! finds a plausible answer.

use core::sync::atomic::{Ordering, compiler_fence};
use std::io;

use super::{barrier_list, mappings};
use crate::sync::word::Word;

/// The smallest stack.
pub const MIN_STACK: usize = 2048;
/// The largest stack.
pub const MAX_STACK: usize = 64 * 1024;
/// Room below the guard for code that makes no stack check: one frame without a check,
/// a system call's stub, and the call of the switch.
pub const STACK_RESERVE: usize = 192;
/// A value that no pointer has, since it is not canonical.
pub const POISON: usize = 0xdead_5747_dead_5747;

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

    /// Returns whether `sp` lies on this stack; the top itself is the SP of an empty one. It has no
    /// branches, so that the path through it does not depend on which of two stacks lies lower.
    ///
    /// A handler calls it without the stack lock, and may see the stack move:
    ///
    /// 1. M1: in the runtime for G1, SIGPROF; reads the old `lo`.
    /// 2. M2: shrinks G1's stack and sets the bounds.
    /// 3. M1: reads the new `top`. M1's own stack may lie between the two.
    ///
    /// No thread runs on a stack that moves, so bounds that change meanwhile show that `sp` is
    /// elsewhere. (A stack is not used again before many others were retired, so `top` does not
    /// take an old value again.)
    #[inline(always)]
    pub fn contains(&self, sp: usize) -> bool {
        let before = self.top.get();
        compiler_fence(Ordering::SeqCst);
        let lo = self.lo.get();
        compiler_fence(Ordering::SeqCst);
        let top = self.top.get();
        (sp.wrapping_sub(lo) <= top.saturating_sub(lo)) & (top == before)
    }

    /// Returns the guard for this stack's prologues.
    pub(crate) fn guard(&self) -> usize {
        self.lo.get() + STACK_RESERVE
    }

    /// Returns the allocation's size in bytes.
    pub fn size(&self) -> usize {
        self.hi.get() - self.lo.get()
    }

    /// Takes over the bounds of `stack`. A handler on this thread may see any of the stores without
    /// the next: no address is on the stack until the last of them.
    pub(crate) fn set(&self, stack: &Stack, every_frame: bool) {
        self.top.set(0);
        compiler_fence(Ordering::SeqCst);
        self.lo.set(stack.lo);
        self.hi.set(stack.hi());
        compiler_fence(Ordering::SeqCst);
        self.top.set(stack.hi() - barrier_list::reserved(stack.size, every_frame));
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

    pub(super) fn map(size: usize) -> io::Result<Stack> {
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
        mappings::register(base as usize, stack.lo, base as usize + len);
        Ok(stack)
    }

    pub(super) fn protect(&self, protection: libc::c_int) -> io::Result<()> {
        // SAFETY: pages of this stack's own mapping.
        match unsafe { libc::mprotect(self.lo as *mut _, self.pages(), protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Overwrites the part from `from` up with [`POISON`].
    ///
    /// # Safety
    /// The contents of that part are no longer needed.
    pub(crate) unsafe fn poison(&self, from: usize) {
        let words = (self.hi() - from) / size_of::<usize>();
        // SAFETY: within the stack and no longer needed (caller).
        unsafe { core::slice::from_raw_parts_mut(from as *mut usize, words) }.fill(POISON);
    }
}

fn page_size() -> usize {
    4096
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::mappings::{StackPart, part_at};

    /// Tests the order in [`Bounds::contains`]: an address between two stacks is on neither,
    /// whichever part of a move is seen.
    #[test]
    fn address_between_two_stacks_is_never_on_one_that_moves() {
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
        assert!(bounds.contains(below(MOVES - 1) + 0x800), "the stack is at rest");
    }

    #[test]
    fn stack_has_a_guard_and_is_found_by_address() {
        let stack = Stack::map(MIN_STACK).unwrap();
        assert_eq!(part_at(stack.lo - 1), StackPart::Guard);
        assert_eq!(part_at(stack.lo), StackPart::Stack);
        assert_eq!(part_at(stack.hi() - 1), StackPart::Stack);
        assert_eq!(part_at(0), StackPart::Elsewhere);
    }

    #[test]
    fn poison_is_not_a_canonical_address() {
        let high = POISON >> 47;
        assert!(high != 0 && high != 0x1ffff);
    }
}
