//! The record of a controlled run: shadow stacks, shadow heap, requests, the cycle.

use sigstorm_runtime::gc::heap::Heap;
use sigstorm_runtime::sched::runtime::GOROUTINES;
use sigstorm_runtime::{G, Runtime};

use crate::oracle::cycle::Cycle;
use crate::oracle::index;
use crate::oracle::requests::Requests;
use crate::oracle::{ShadowHeap, ShadowStack, ViolationKind, check};

/// The record.
#[derive(Debug)]
pub(crate) struct Shadows {
    pub(crate) stacks: [ShadowStack; GOROUTINES],
    pub(crate) heap: ShadowHeap,
    pub(crate) requests: [Requests; GOROUTINES],
    pub(crate) cycle: Cycle<GOROUTINES>,
}

impl Shadows {
    pub(super) const fn new() -> Self {
        Shadows {
            stacks: [const { ShadowStack::new() }; GOROUTINES],
            heap: ShadowHeap::new(),
            requests: [const { Requests::new() }; GOROUTINES],
            cycle: Cycle::new(),
        }
    }

    pub(super) fn reset(&mut self) {
        self.stacks.iter_mut().for_each(ShadowStack::clear);
        self.requests.iter().for_each(Requests::withdraw);
        self.heap.clear();
        self.cycle.reset();
    }

    /// A thread has taken the goroutine, which begins if it has no frames.
    pub(super) fn taken(&mut self, goroutine: usize) {
        if !self.stacks[goroutine].lives() {
            self.stacks[goroutine].start();
            self.requests[goroutine].withdraw();
            self.cycle.changes_life(goroutine);
        }
    }

    /// The goroutine has ended.
    pub(super) fn ended(&mut self, goroutine: usize) {
        self.stacks[goroutine].clear();
        self.requests[goroutine].withdraw();
        self.cycle.changes_life(goroutine);
    }

    /// Whatever can be reached must be there.
    ///
    /// # Errors
    /// The first object that is not.
    pub(super) fn check_live(
        &self,
        runtime: &Runtime,
        is_there: fn(&Heap, usize) -> bool,
    ) -> Result<(), ViolationKind> {
        let roots = self.stacks.iter().fold(0, |set, stack| set | stack.roots());
        match check::lost_object(runtime.heap(), self.heap.reachable(roots), is_there) {
            Some(index) => Err(ViolationKind::LiveObject(index)),
            None => Ok(()),
        }
    }

    /// Whether a goroutine's frames hold what they have written: all of them, or the innermost. Its stack is not
    /// being moved, or has just been filled.
    pub(super) fn slots_hold(&self, runtime: &Runtime, g: &G, all: bool) -> bool {
        // SAFETY: a word of its stack, which nobody moves or frees at this moment.
        let read = |address: usize| unsafe { (address as *const usize).read_volatile() };
        self.stacks[index(g)].slots_hold(|at| runtime.heap().index(at), g.stack.top.get(), all, read)
    }
}
