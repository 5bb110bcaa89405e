//! The world that can be stopped: whether it is being stopped, and which machines are at a
//! safepoint.

use core::sync::atomic::{AtomicBool, Ordering};

/// Whether the world is being stopped.
#[derive(Debug, Default)]
pub struct World {
    pub(crate) stopping: AtomicBool,
}

impl World {
    /// Returns whether the world is asked to stop, or stopped: from the request until it goes on.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// The machines that are at a safepoint, by number.
#[derive(Debug)]
pub struct Safepoints(Box<[AtomicBool]>);

impl Safepoints {
    /// Makes the record of `machines` machines, all at a safepoint.
    pub(crate) fn new(machines: usize) -> Safepoints {
        Safepoints((0..machines).map(|_| AtomicBool::new(true)).collect())
    }

    /// Returns the number of machines.
    pub(crate) fn machines(&self) -> usize {
        self.0.len()
    }

    /// Puts every machine at a safepoint, for a runtime that starts over.
    pub(crate) fn reset(&self) {
        for at_safepoint in self.0.iter() {
            at_safepoint.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn set(&self, machine: u8, at_safepoint: bool) {
        self.0[usize::from(machine)].store(at_safepoint, Ordering::SeqCst);
    }

    /// Returns whether this machine is at a safepoint: it waits for its next operation, is in a
    /// system call, or has no goroutine.
    pub fn at_safepoint(&self, machine: u8) -> bool {
        self.0[usize::from(machine)].load(Ordering::SeqCst)
    }

    /// Returns whether every machine is at a safepoint. The machine that stops the world is at one
    /// itself.
    pub(crate) fn all_at_safepoint(&self) -> bool {
        self.0.iter().all(|at_safepoint| at_safepoint.load(Ordering::SeqCst))
    }
}
