//! Single operations of the protocol for benchmarks, without the collector's or the machine's work
//! around them. Not for any other use.

use crate::sched::g::G;
use crate::sched::m::M;
use crate::sched::runtime::Runtime;
use crate::stack::barrier;
use crate::stack::lock::{self, Operation};
use crate::stack::memory::{MAX_STACK, MIN_STACK, STACK_RESERVE};
use crate::unwind::throw::walk_failed;
use crate::unwind::traceback::{Unwinder, saved};

/// Gives `g`'s list of barriers a place off its stack, so that the whole stack is left for frames.
///
/// # Safety
/// There is room for `capacity` entries at `base` for the rest of the process, `g` has no
/// barriers, and its stack does not move.
pub unsafe fn list_at(g: &'static G, base: usize, capacity: usize) {
    g.barriers.place(base, capacity);
}

/// Puts a barrier into every `each`th frame of a stopped goroutine. Returns their number. The caller
/// ensures that no other thread changes the stack.
fn install_now(g: &'static G, each: usize) -> usize {
    let mut walk = saved(g).and_then(|start| Unwinder::begin(g, start)).unwrap_or_else(|e| walk_failed(g, e));
    let mut index = 0;
    while let Some(frame) = walk.step().unwrap_or_else(|e| walk_failed(g, e)) {
        if index % each == 0 {
            barrier::install(g, &frame);
        }
        index += 1;
    }
    g.barriers.len()
}

/// Puts a barrier into every `each`th frame of a stopped goroutine, under the stack lock. Returns
/// their number.
pub fn install(m: &'static M, g: &'static G, each: usize) -> usize {
    let _guard = lock::lock(m, g, Operation::Install);
    install_now(g, each)
}

/// Installs a barrier in every frame of a stopped goroutine and removes them again, under a lock that
/// the caller has chosen. Returns their number.
///
/// # Safety
/// No other thread changes this stack meanwhile, or walks it without noticing.
pub unsafe fn install_and_remove(g: &'static G) -> usize {
    let barriers = install_now(g, 1);
    barrier::unwind(g, usize::MAX);
    g.barriers.clear();
    barriers
}

/// Removes every barrier.
pub fn remove(m: &'static M, g: &'static G) {
    barrier::remove_all(m, g, Operation::Remove);
}

/// Unwinds the barriers whose slots lie below `sp`.
pub fn unwind(m: &'static M, g: &'static G, sp: usize) {
    let _guard = lock::lock(m, g, Operation::Recover);
    barrier::unwind(g, sp);
}

/// Moves the stack of a stopped goroutine to one of `size` bytes.
///
/// # Panics
/// If there is no stack of this size, or the frames do not fit into it.
pub fn copystack(m: &'static M, g: &'static G, size: usize) {
    assert!(
        size.is_power_of_two() && (MIN_STACK..=MAX_STACK).contains(&size),
        "a stack of {size} bytes: it must be a power of two from {MIN_STACK} to {MAX_STACK}"
    );
    let used = g.stack.top.get() - g.sched.sp.get();
    let room = size - barrier::reserved(size, m.runtime.every_frame());
    assert!(used + STACK_RESERVE <= room, "{used} bytes of frames do not fit into {room}");
    crate::stack::copystack::copystack(m, g, size);
}

/// Lets left stacks be used again.
pub fn reclaim(runtime: &'static Runtime) {
    runtime.pool.reclaim();
}

/// The stack lock as it would be written without scheduling points and planted defects. Benchmarks
/// and a test compare the real one with it, instruction by instruction.
pub mod plain {
    use super::{G, M, Operation};
    use crate::instrument::hooks;
    use crate::sched::wait::Wait;
    use crate::stack::lock::Owner;

    /// A held stack lock.
    #[derive(Debug)]
    pub struct Guard {
        g: &'static G,
        m: &'static M,
    }

    /// As [`crate::stack::lock::lock`].
    #[inline]
    pub fn lock(m: &'static M, g: &'static G, operation: Operation) -> Guard {
        m.locks.set(m.locks.get() + 1);
        let owner = Owner { machine: m.id, operation };
        while g.lock.try_acquire(owner).is_err() {
            hooks::wait(&Wait::StackLock(g));
        }
        Guard { g, m }
    }

    /// As [`crate::stack::lock::try_lock`].
    #[inline]
    pub fn try_lock(m: &'static M, g: &'static G, operation: Operation) -> Result<Guard, Owner> {
        if let Some(holder) = g.lock.owner() {
            return Err(holder);
        }
        g.lock.try_acquire(Owner { machine: m.id, operation })?;
        m.locks.set(m.locks.get() + 1);
        Ok(Guard { g, m })
    }

    impl Drop for Guard {
        #[inline]
        fn drop(&mut self) {
            self.g.lock.release();
            self.m.locks.set(self.m.locks.get() - 1);
        }
    }
}
