//! Tampering: how a test breaks the runtime in the middle of a controlled run or of a storm, and sees
//! whether a check notices.
//!
//! A tamperer is called at every scheduling point that a thread of the run reaches, before the run
//! learns of the event. It may change the runtime behind everybody's back
//! ([`sigstorm_runtime::instrument::tamper`]), and it may hide the event, as if the runtime had never
//! come there. It runs on the thread that reached the point, perhaps in that thread's signal handler: so
//! it neither allocates nor locks.
//!
//! Only debug builds have this. A release build asks nobody.

use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, Ordering};

use sigstorm_runtime::{G, Point};

/// The part of an event that a run learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// All of it.
    Yes,
    /// Nothing.
    No,
}

/// A tamperer: is given the point, the goroutine that the event concerns, and its detail.
pub type Tamperer = fn(Point, Option<&'static G>, usize) -> Told;

static TAMPERER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Installs a tamperer for the whole process.
pub fn install(tamperer: Tamperer) {
    TAMPERER.store(tamperer as *mut (), Ordering::Release);
}

/// Whether a storm's round is at its end: threads finish what they have, and begin nothing. Signal-safe.
pub fn round_ends() -> bool {
    crate::storm::settles()
}

/// Asks the tamperer, if there is one, whether the run learns of this event.
#[inline]
pub(crate) fn tells(point: Point, g: Option<&'static G>, detail: usize) -> bool {
    let tamperer = TAMPERER.load(Ordering::Acquire);
    if tamperer.is_null() {
        return true;
    }
    // SAFETY: not null, so `install` stored it, which takes nothing else.
    let tamperer = unsafe { transmute::<*mut (), Tamperer>(tamperer) };
    tamperer(point, g, detail) == Told::Yes
}
