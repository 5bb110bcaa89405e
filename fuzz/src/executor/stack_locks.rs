//! The holder of each goroutine's stack lock, independent of the lock word: a skip for a held lock is
//! checked against it.
//!
//! The account is kept by events, and an event is a call: it comes a few instructions after the lock
//! was taken, and a few before it is free. A thread that is held or interrupted in between has or wants
//! a lock that the account does not know of. Such a holder is believed where it is there: its thread
//! stands in the code that takes and gives back locks, or stood there, or was given the lock back,
//! since the handler that tried the lock was last held.

use sigstorm_runtime::FuncId;
use sigstorm_runtime::instrument::marked_code::find_func;
use sigstorm_runtime::sched::runtime::GOROUTINES;
use sigstorm_runtime::stack::lock::Operation;

use super::thread::{THREADS, Thread};

/// Room for operations, by code.
const OPERATIONS: usize = 32;

/// When things happened to one thread, as this account counts moments.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// The instruction that its handler has interrupted.
    interrupted: usize,
    /// When its handler was last held at an instruction.
    held_at: u64,
    /// When its handler tried the lock.
    tried_at: u64,
    /// The threads that stood in the lock's own code then, as a set of slots.
    in_lock_code: u8,
    /// When it last left the lock's own code, having been held there.
    left_lock_code: u64,
}

const NO_WINDOW: Window =
    Window { interrupted: 0, held_at: 0, tried_at: 0, in_lock_code: 0, left_lock_code: 0 };

/// The account of one run.
#[derive(Debug)]
pub(crate) struct StackLocks {
    holders: [Option<(usize, Operation)>; GOROUTINES],
    /// When each thread's operations last gave each goroutine's lock back.
    releases: [[[u64; OPERATIONS]; THREADS]; GOROUTINES],
    windows: [Window; THREADS],
    clock: u64,
}

/// Whether `pc` lies in the functions that take the stack lock and give it back.
fn is_lock_code(pc: usize) -> bool {
    let function = find_func(pc).map(|extent| extent.function);
    matches!(function, Some(FuncId::Lock | FuncId::TryLock | FuncId::Unlock))
}

fn place(operation: Operation) -> usize {
    usize::from(operation.code()) % OPERATIONS
}

impl StackLocks {
    pub(super) const fn new() -> Self {
        StackLocks {
            holders: [None; GOROUTINES],
            releases: [[[0; OPERATIONS]; THREADS]; GOROUTINES],
            windows: [NO_WINDOW; THREADS],
            clock: 1,
        }
    }

    /// Starts over. Moments stay: the clock is never set back, so those of earlier runs lie before any
    /// window of this one.
    pub(super) fn reset(&mut self) {
        self.holders = [None; GOROUTINES];
    }

    fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The holder of the goroutine's stack lock, and its operation.
    #[inline]
    pub(crate) fn holder(&self, goroutine: usize) -> Option<(usize, Operation)> {
        self.holders[goroutine]
    }

    pub(super) fn acquired(&mut self, goroutine: usize, thread: usize, operation: Operation) {
        self.holders[goroutine] = Some((thread, operation));
    }

    /// The holder is about to give the lock back.
    pub(super) fn releases(&mut self, goroutine: usize) {
        if let Some((thread, operation)) = self.holders[goroutine].take() {
            self.releases[goroutine][thread][place(operation)] = self.now();
        }
    }

    /// The thread's handler begins; it has interrupted `pc`.
    pub(super) fn handler_begins(&mut self, thread: usize, pc: usize) {
        // Held nowhere yet: nobody else has run since it began.
        self.windows[thread].held_at = u64::MAX;
        self.windows[thread].interrupted = pc;
    }

    /// The thread is held at an instruction of its handler.
    pub(super) fn handler_held(&mut self, thread: usize) {
        self.windows[thread].held_at = self.now();
    }

    /// The thread resumes from the instruction at `pc`, where it was held.
    pub(super) fn goes_on(&mut self, thread: usize, pc: usize) {
        if is_lock_code(pc) {
            self.windows[thread].left_lock_code = self.now();
        }
    }

    /// The thread's handler has tried a stack lock.
    pub(super) fn tried(&mut self, me: usize, threads: &[Thread; THREADS]) {
        let mut set = 0;
        for (other, thread) in threads.iter().enumerate() {
            // Of its own thread it is what the handler has interrupted.
            let inside = match other == me {
                true => is_lock_code(self.windows[me].interrupted),
                false => thread.breakpoints.stopped_at().any(is_lock_code),
            };
            set |= u8::from(inside) << other;
        }
        self.windows[me].in_lock_code = set;
        self.windows[me].tried_at = self.now();
    }

    /// Whether the account could not know that this holder had the lock when the thread's handler tried it,
    /// and the holder may have had it.
    pub(super) fn may_have_held(&self, thread: usize, goroutine: usize, holder: (usize, Operation)) -> bool {
        let window = &self.windows[thread];
        let in_between = |at: u64| window.held_at <= at && at <= window.tried_at;
        let (other, operation) = holder;
        let Some(theirs) = self.windows.get(other) else { return false };
        window.in_lock_code >> other & 1 == 1
            || in_between(self.releases[goroutine][other][place(operation)])
            || in_between(theirs.left_lock_code)
    }
}
