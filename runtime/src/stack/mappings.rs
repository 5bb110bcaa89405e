//! The list of every stack mapping of the process: the fault handler asks it whether an address lies
//! in a stack, in a stack's guard, or elsewhere.
//!
//! A mapping stays for the life of the process, since the pool keeps every stack. So the list only
//! grows, in blocks, and a handler reads it without a lock at any instant. A row that is being written
//! counts only once its guard is set, which comes last.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Rows of a block.
const ROWS: usize = 1024;

/// The part of a stack mapping that an address lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackPart {
    /// In a guard page.
    Guard,
    /// In a stack.
    Stack,
    /// Elsewhere.
    Elsewhere,
}

/// Finds the stack mapping of this process that an address lies in, and the part of it.
/// Signal-safe.
pub fn part_at(address: usize) -> StackPart {
    MAPPINGS.part_at(address)
}

/// Adds a mapping from `guard` to `end`, whose stack begins at `lo`.
pub(super) fn register(guard: usize, lo: usize, end: usize) {
    MAPPINGS.register(guard, lo, end);
}

static MAPPINGS: Mappings = Mappings::new();

/// A mapping: its guard, which is zero in a row that is not written yet; the stack's lowest byte; and
/// one past its end.
type Row = [AtomicUsize; 3];

#[derive(Debug)]
struct Block {
    rows: [Row; ROWS],
    next: AtomicPtr<Block>,
}

impl Block {
    const fn new() -> Block {
        Block {
            rows: [const { [const { AtomicUsize::new(0) }; 3] }; ROWS],
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn next(&self) -> Option<&Block> {
        // SAFETY: null, or a block that `next_or_new` has leaked.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    /// Returns the next block. Makes it if there is none; of two threads that do so, one does it in vain.
    fn next_or_new(&self) -> &Block {
        if let Some(next) = self.next() {
            return next;
        }
        let new = Box::into_raw(Box::new(Block::new()));
        match self.next.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just leaked.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: made above, and no other thread has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: another thread has leaked it.
                unsafe { &*other }
            }
        }
    }
}

#[derive(Debug)]
struct Mappings {
    first: Block,
    /// Number of rows that are written, or are being written.
    count: AtomicUsize,
}

impl Mappings {
    const fn new() -> Mappings {
        Mappings { first: Block::new(), count: AtomicUsize::new(0) }
    }

    fn register(&self, guard: usize, lo: usize, end: usize) {
        let index = self.count.fetch_add(1, Ordering::Relaxed);
        let block = (0..index / ROWS).fold(&self.first, |block, _| block.next_or_new());
        let row = &block.rows[index % ROWS];
        row[1].store(lo, Ordering::Relaxed);
        row[2].store(end, Ordering::Relaxed);
        row[0].store(guard, Ordering::Release);
    }

    fn part_at(&self, address: usize) -> StackPart {
        let blocks = core::iter::successors(Some(&self.first), |block| block.next());
        for row in blocks.flat_map(|block| &block.rows).take(self.count.load(Ordering::Relaxed)) {
            let guard = row[0].load(Ordering::Acquire);
            if guard != 0 && guard <= address && address < row[2].load(Ordering::Relaxed) {
                return if address < row[1].load(Ordering::Relaxed) {
                    StackPart::Guard
                } else {
                    StackPart::Stack
                };
            }
        }
        StackPart::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mapping_is_found_however_many_there_are() {
        const THREADS: usize = 2;
        const EACH: usize = 10_000;
        static MANY: Mappings = Mappings::new();
        let guard = |index: usize| 0x10_0000 + index * 0x3000;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    for index in (thread..THREADS * EACH).step_by(THREADS) {
                        let guard = guard(index);
                        MANY.register(guard, guard + 0x1000, guard + 0x2000);
                    }
                });
            }
        });
        for index in (0..THREADS * EACH).step_by(97).chain([THREADS * EACH - 1]) {
            let at = |offset| MANY.part_at(guard(index) + offset);
            assert_eq!(
                [at(0), at(0xfff), at(0x1000), at(0x1fff), at(0x2000)],
                [
                    StackPart::Guard,
                    StackPart::Guard,
                    StackPart::Stack,
                    StackPart::Stack,
                    StackPart::Elsewhere
                ],
            );
        }
        assert_eq!(MANY.part_at(0), StackPart::Elsewhere);
    }

    #[test]
    fn row_without_its_guard_is_no_mapping() {
        static HALF: Mappings = Mappings::new();
        HALF.register(0, 0x1000, 0x2000);
        assert_eq!([0, 0x800, 0x1800].map(|at| HALF.part_at(at)), [StackPart::Elsewhere; 3]);
    }
}
