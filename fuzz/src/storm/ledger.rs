//! Each machine's operations over time: a skip for a held lock is checked against them.
//!
//! A handler that could not take the lock says who holds it and for what, as the lock word
//! said. In a storm nobody stands still while that is checked. So every machine keeps a
//! word for each operation: a counter of its comings and goings, the goroutine, and whether
//! it is in it now. It enters before it tries to take the lock and leaves after it has given
//! it back. A handler notes the words as it begins and again once it was refused. If the
//! machine was not in that operation on that goroutine at some moment in between, nobody
//! can have held the lock for it, and the skip has no reason.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::{Phase, Point};

/// Room for operations, by code.
pub(crate) const OPERATIONS: usize = 32;
/// The words of one machine as somebody saw them.
pub(crate) type Words = [u64; OPERATIONS];

/// In place of a goroutine's number: any.
const ANY: u8 = 0xff;
const IN: u64 = 1;

const fn word(count: u64, goroutine: u8, inside: bool) -> u64 {
    count << 16 | (goroutine as u64) << 8 | inside as u64
}

/// The operation for which a thread at this point is about to take the lock.
pub(crate) fn begun_at(point: Point, phase: Phase) -> Option<Operation> {
    match point {
        Point::ScanBegin if phase == Phase::Mark => Some(Operation::Install),
        Point::ScanBegin | Point::SweepStack => Some(Operation::Remove),
        Point::CopyBegin => Some(Operation::Copystack),
        Point::RecoverBegin => Some(Operation::Recover),
        Point::BulkBegin => Some(Operation::Bulk),
        Point::ExitBegin => Some(Operation::Exit),
        // The tracer's events of a system call.
        Point::SyscallSaved | Point::SyscallExited => Some(Operation::Trace),
        Point::HandlerBegin => Some(Operation::Walk),
        _ => None,
    }
}

/// Whether a scheduling point announces that this operation is about to take the lock. Other operations are known
/// only once they have taken it.
pub(crate) fn is_announced(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Install
            | Operation::Remove
            | Operation::Copystack
            | Operation::Recover
            | Operation::Bulk
            | Operation::Exit
            | Operation::Walk
            | Operation::Trace
    )
}

/// One machine's words. Its own thread writes, with its handler in between.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    words: [AtomicU64; OPERATIONS],
    /// The operation that holds the lock; zero if none does.
    holds: AtomicU8,
    /// The operation that is giving the lock back; zero if none is.
    gives: AtomicU8,
    /// Set while the machine has stopped the world: it may be removing from any stack.
    has_world: AtomicBool,
}

impl Ledger {
    fn at(&self, operation: Operation) -> &AtomicU64 {
        &self.words[usize::from(operation.code()) % OPERATIONS]
    }

    /// About to take the lock.
    pub(crate) fn enter(&self, operation: Operation, goroutine: u8) {
        if operation == Operation::Remove && self.has_world.load(Ordering::Relaxed) {
            return;
        }
        let at = self.at(operation);
        at.store(word((at.load(Ordering::Relaxed) >> 16) + 1, goroutine, true), Ordering::Release);
    }

    /// The lock was given back, or never taken.
    pub(crate) fn leave(&self, operation: Operation) {
        if operation == Operation::Remove && self.has_world.load(Ordering::Relaxed) {
            return;
        }
        let at = self.at(operation);
        let old = at.load(Ordering::Relaxed);
        if old & IN != 0 {
            at.store(word((old >> 16) + 1, (old >> 8) as u8, false), Ordering::Release);
        }
    }

    /// While it has the world stopped a machine removes barriers from stacks that it does not
    /// name.
    pub(crate) fn stops_world(&self, stops: bool) {
        if stops {
            self.enter(Operation::Remove, ANY);
            self.has_world.store(true, Ordering::Relaxed);
        } else {
            self.has_world.store(false, Ordering::Relaxed);
            self.leave(Operation::Remove);
        }
    }

    /// The thread (not its handler) has taken the lock.
    pub(crate) fn acquired(&self, operation: Operation, goroutine: u8) {
        if self.at(operation).load(Ordering::Relaxed) & IN == 0 {
            self.enter(operation, goroutine);
        }
        self.holds.store(operation.code(), Ordering::Relaxed);
    }

    /// The thread (not its handler) is about to give the lock back.
    pub(crate) fn releasing(&self) {
        self.gives.store(self.holds.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The thread (not its handler) has reached code after the lock's release.
    #[inline]
    pub(crate) fn settle(&self) {
        let code = self.gives.load(Ordering::Relaxed);
        if code != 0 {
            self.gives.store(0, Ordering::Relaxed);
            if let Some(operation) = Operation::from_code(code) {
                self.leave(operation);
            }
        }
    }

    /// The thread is between two operations.
    pub(crate) fn idle(&self) {
        self.settle();
        for &operation in Operation::ALL {
            self.leave(operation);
        }
    }

    /// The words as they are.
    #[inline]
    pub(crate) fn note(&self, into: &mut Words) {
        for operation in Operation::ALL {
            let code = usize::from(operation.code()) % OPERATIONS;
            into[code] = self.words[code].load(Ordering::Acquire);
        }
    }

    /// The word of one operation as it is.
    pub(crate) fn now(&self, operation: Operation) -> u64 {
        self.at(operation).load(Ordering::Acquire)
    }
}

/// Whether a machine with this word before, and this one after, was in the operation on this goroutine at some
/// moment in between.
pub(crate) fn was_in(before: u64, after: u64, goroutine: u8) -> bool {
    let is = |word: u64| [goroutine, ANY].contains(&((word >> 8) as u8));
    match (after >> 16) - (before >> 16) {
        0 => before & IN != 0 && is(before),
        // It has left, or it has entered.
        1 => is(if before & IN != 0 { before } else { after }),
        // It has left and entered, or entered and left.
        2 => (before & IN != 0 && is(before)) || is(after),
        // In between it was in more of them than are remembered.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_word() {
        assert!(Operation::ALL.iter().all(|o| usize::from(o.code()) < OPERATIONS));
    }

    #[test]
    fn only_who_was_in_it_excuses_a_skip() {
        let ledger = Ledger::default();
        let now = || ledger.now(Operation::Install);
        let nothing = now();
        assert!(!was_in(nothing, now(), 3));
        ledger.enter(Operation::Install, 3);
        let inside = now();
        assert!(was_in(nothing, inside, 3) && was_in(inside, inside, 3));
        assert!(!was_in(inside, inside, 4));
        ledger.leave(Operation::Install);
        let outside = now();
        // It left meanwhile; it came and went meanwhile; it had left before.
        assert!(was_in(inside, outside, 3) && was_in(nothing, outside, 3));
        assert!(!was_in(outside, outside, 3) && !was_in(nothing, outside, 4));
        ledger.enter(Operation::Install, 4);
        assert!(was_in(inside, now(), 3) && was_in(inside, now(), 4) && !was_in(inside, now(), 5));
    }

    #[test]
    fn a_lock_that_is_being_given_back_still_counts() {
        let ledger = Ledger::default();
        ledger.enter(Operation::Copystack, 1);
        ledger.acquired(Operation::Copystack, 1);
        ledger.releasing();
        assert!(was_in(ledger.now(Operation::Copystack), ledger.now(Operation::Copystack), 1));
        ledger.settle();
        assert!(!was_in(ledger.now(Operation::Copystack), ledger.now(Operation::Copystack), 1));
    }

    #[test]
    fn who_has_stopped_the_world_removes_from_any_stack() {
        let ledger = Ledger::default();
        ledger.stops_world(true);
        ledger.enter(Operation::Remove, 1);
        ledger.acquired(Operation::Remove, 1);
        ledger.releasing();
        ledger.settle();
        assert!(was_in(ledger.now(Operation::Remove), ledger.now(Operation::Remove), 2));
        ledger.stops_world(false);
        assert!(!was_in(ledger.now(Operation::Remove), ledger.now(Operation::Remove), 2));
    }
}
