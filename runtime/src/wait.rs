//! What a thread of the core can wait for, and whether that is over.
//!
//! Whoever waits says what for. A harness that runs one thread at a time needs this
//! to know who can go on, and that nobody can: a deadlock is then a fact.

use core::sync::atomic::Ordering;

use crate::core::Core;
use crate::g::G;
use crate::g::status;
use crate::m::M;

/// A condition that only another thread (or, in a deadlock, nobody) can bring about.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// The stack lock of this goroutine is free.
    StackLock(&'static G),
    /// Nobody holds this goroutine's scan bit.
    ScanBit(&'static G),
    /// No machine has this goroutine.
    Dropped(&'static G),
    /// This goroutine was scanned, or stopped running.
    Scannable(&'static G),
    /// The world goes on.
    World(&'static Core),
    /// Every machine but this one, which stops the world, is at a safepoint.
    AllSafe(&'static M),
    /// The profiling rate's lock is free.
    RateLock(&'static Core),
}

impl Wait {
    /// True where the waiting thread has something to try again.
    pub fn over(&self) -> bool {
        match self {
            Wait::StackLock(g) => g.lock.owner().is_none(),
            Wait::ScanBit(g) => g.status.get() & status::SCAN == 0,
            Wait::Dropped(g) => !g.is_held(),
            Wait::Scannable(g) => {
                let s = g.status.get();
                g.scan_done() || (s & status::SCAN == 0 && s != status::RUNNING)
            }
            Wait::World(core) => !core.world.stopping.load(Ordering::SeqCst),
            Wait::AllSafe(m) => m.core.all_safe_but(m.id),
            Wait::RateLock(core) => !core.profiler().rate_is_locked(),
        }
    }

    /// The thing waited for, in words.
    pub fn what(&self) -> &'static str {
        match self {
            Wait::StackLock(_) => "the stack lock",
            Wait::ScanBit(_) => "the scan bit",
            Wait::Dropped(_) => "a machine to let the goroutine go",
            Wait::Scannable(_) => "a goroutine to scan itself or stop",
            Wait::World(_) => "the world to go on",
            Wait::AllSafe(_) => "every thread to reach a safepoint",
            Wait::RateLock(_) => "the profiling rate's lock",
        }
    }

    /// The goroutine that this is about, if it is about one.
    pub fn goroutine(&self) -> Option<&'static G> {
        match self {
            Wait::StackLock(g) | Wait::ScanBit(g) | Wait::Dropped(g) | Wait::Scannable(g) => Some(g),
            Wait::World(_) | Wait::AllSafe(_) | Wait::RateLock(_) => None,
        }
    }
}
