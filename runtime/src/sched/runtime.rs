//! The runtime under test: what its machines share. `start` makes one.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use super::g::G;
use super::world::{Safepoints, World};
use crate::gc::heap::Heap;
use crate::profiler::machines::Profiler;
use crate::stack::pool::Pool;

pub use super::config::{
    COLLECTOR, Config, ConfigError, EXTRA_M, GOROUTINES, MACHINES, MAX_GOROUTINES, MAX_MACHINES,
};
pub use crate::gc::phase::Phase;

/// The runtime: its goroutines, its heap, its profiler and the world that can be stopped. There is
/// one in a process; its machines refer to it.
#[derive(Debug)]
pub struct Runtime {
    pub(super) gs: Box<[G]>,
    pub(crate) world: World,
    pub(crate) pool: Pool,
    pub(super) heap: Heap,
    pub(super) phase: AtomicU8,
    pub(super) write_barrier: AtomicBool,
    pub(super) every_frame: AtomicBool,
    pub(super) tracing: AtomicBool,
    pub(super) initial_stack: AtomicUsize,
    pub(super) unreadable: AtomicUsize,
    pub(super) profiler: Profiler,
    pub(super) keep_barriers: AtomicBool,
    pub(super) scan_shrinks: AtomicBool,
    /// Whether a machine is sweeping.
    pub(crate) sweeping: AtomicBool,
    pub(super) safepoints: Safepoints,
    /// The machines that were made, a bit for each number.
    pub(super) made: AtomicU32,
}

impl Runtime {
    /// Returns the goroutines, g1 first.
    #[inline]
    pub fn goroutines(&self) -> &[G] {
        &self.gs
    }

    /// Returns how many machines there can be, without the one for a thread from outside.
    pub fn machines(&self) -> usize {
        self.safepoints.machines() - 1
    }

    /// Returns the number of the machine that collects, which is the last.
    pub fn collector(&self) -> u8 {
        self.machines() as u8 - 1
    }

    /// Returns the number of one more machine, for a thread that the runtime did not start. It runs
    /// no goroutines, so a machine that stops the world does not wait for it.
    pub fn extra_m(&self) -> u8 {
        self.machines() as u8
    }

    /// Returns the heap.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Returns the phase of the collector's cycle.
    #[inline]
    pub fn phase(&self) -> Phase {
        Phase::from_code(self.phase.load(Ordering::SeqCst)).unwrap_or(Phase::Off)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Returns whether pointer writes are to be shaded.
    pub fn write_barrier(&self) -> bool {
        self.write_barrier.load(Ordering::SeqCst)
    }

    pub(crate) fn set_write_barrier(&self, on: bool) {
        self.write_barrier.store(on, Ordering::SeqCst);
    }

    /// Returns whether every frame gets a barrier.
    pub fn every_frame(&self) -> bool {
        self.every_frame.load(Ordering::Relaxed)
    }

    /// Returns whether system calls are traced.
    pub(crate) fn tracing(&self) -> bool {
        self.tracing.load(Ordering::Relaxed)
    }

    /// Returns whether mark termination leaves the barriers where they are.
    pub fn keeps_barriers(&self) -> bool {
        self.keep_barriers.load(Ordering::Relaxed)
    }

    /// Returns whether a scan halves a stack first, if it can.
    pub fn scan_shrinks(&self) -> bool {
        self.scan_shrinks.load(Ordering::Relaxed)
    }

    pub(crate) fn unreadable(&self) -> usize {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Returns how many stacks were copied since the runtime started over.
    pub fn copies(&self) -> usize {
        self.pool.copies()
    }

    /// Returns the profiling rate in signals a second; zero is off.
    #[inline]
    pub fn rate(&self) -> u32 {
        self.profiler.rate.hz()
    }

    /// Returns the profiler.
    #[inline]
    pub fn profiler(&self) -> &Profiler {
        &self.profiler
    }

    /// Returns the world: whether it is being stopped.
    pub fn world(&self) -> &World {
        &self.world
    }

    pub(crate) fn set_at_safepoint(&self, machine: u8, at_safepoint: bool) {
        self.safepoints.set(machine, at_safepoint);
    }

    /// Returns whether this machine is at a safepoint: it waits for its next operation, is in a
    /// system call, or has no goroutine.
    pub fn at_safepoint(&self, machine: u8) -> bool {
        self.safepoints.at_safepoint(machine)
    }
}
