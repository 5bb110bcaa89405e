//! The conditions that a thread of the core can wait for.
//!
//! A thread that waits names its condition. A harness that runs one thread at a time needs this to
//! know which threads can go on. If none can, a deadlock is a fact and not a time-out.

use super::g::{G, status};
use super::world::{Safepoints, World};
use crate::profiler::rate::Rate;

/// A condition that only another thread can bring about, or, in a deadlock, no thread.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// The stack lock of this goroutine is free.
    StackLock(&'static G),
    /// No machine holds this goroutine's scan bit.
    ScanBit(&'static G),
    /// No machine has this goroutine.
    GReleased(&'static G),
    /// This goroutine was scanned, or no longer runs.
    Scannable(&'static G),
    /// The world goes on.
    World(&'static World),
    /// Every machine is at a safepoint.
    AllAtSafepoint(&'static Safepoints),
    /// The profiling rate's lock is free.
    RateLock(&'static Rate),
}

impl Wait {
    /// Returns whether the wait may be over: the waiting thread then tries again.
    pub fn over(&self) -> bool {
        match self {
            Wait::StackLock(g) => g.lock.owner().is_none(),
            Wait::ScanBit(g) => g.status.get() & status::SCAN == 0,
            Wait::GReleased(g) => !g.is_held(),
            Wait::Scannable(g) => {
                let s = g.status.get();
                g.scan_done() || (s & status::SCAN == 0 && s != status::RUNNING)
            }
            Wait::World(world) => !world.stopping(),
            Wait::AllAtSafepoint(safepoints) => safepoints.all_at_safepoint(),
            Wait::RateLock(rate) => !rate.is_locked(),
        }
    }

    /// Returns the condition in words.
    pub fn what(&self) -> &'static str {
        match self {
            Wait::StackLock(_) => "the stack lock",
            Wait::ScanBit(_) => "the scan bit",
            Wait::GReleased(_) => "a machine to let the goroutine go",
            Wait::Scannable(_) => "a goroutine to scan itself or stop",
            Wait::World(_) => "the world to go on",
            Wait::AllAtSafepoint(_) => "every thread to reach a safepoint",
            Wait::RateLock(_) => "the profiling rate's lock",
        }
    }

    /// Returns the goroutine that the condition is about, if it is about one.
    pub fn goroutine(&self) -> Option<&'static G> {
        match self {
            Wait::StackLock(g) | Wait::ScanBit(g) | Wait::GReleased(g) | Wait::Scannable(g) => Some(g),
            Wait::World(_) | Wait::AllAtSafepoint(_) | Wait::RateLock(_) => None,
        }
    }
}
