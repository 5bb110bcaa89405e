//! Hooks: how a harness looks into the core and holds its threads.
//!
//! The core knows nothing of the harness. It calls out, through one pointer, at its scheduling
//! points, where it waits for another thread, and where an invariant is broken. Without the `points`
//! feature the first call does not exist. With no harness installed, a wait yields the processor,
//! and a throw prints itself and aborts.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::point::Point;
use crate::sched::g::G;
use crate::sched::wait::Wait;
use crate::unwind::reason::Throw;

/// The functions that a harness installs. All three run on a thread's own stack or on its signal
/// stack, never on a goroutine's.
#[derive(Debug)]
pub struct Hooks {
    /// A thread has reached a scheduling point. The goroutine is null if none is concerned.
    pub point: fn(Point, *const G, usize),
    /// A thread cannot go on until `Wait::over`. It may return early.
    pub wait: fn(&Wait),
    /// An invariant is broken. It does not return.
    pub throw: fn(&Throw) -> !,
}

static HOOKS: AtomicPtr<Hooks> = AtomicPtr::new(ptr::null_mut());

/// Installs the harness for the whole process.
pub fn install(hooks: &'static Hooks) {
    HOOKS.store(ptr::from_ref(hooks).cast_mut(), Ordering::Release);
}

/// Returns the address of the pointer to the installed hooks. The pointer is null until a harness
/// installs itself, and never again.
pub fn word() -> usize {
    &raw const HOOKS as usize
}

#[inline(always)]
fn hooks() -> Option<&'static Hooks> {
    let hooks = HOOKS.load(Ordering::Acquire);
    // SAFETY: null, or a `&'static Hooks` that `install` stored.
    unsafe { hooks.as_ref() }
}

/// Reaches a scheduling point. [`point!`](crate::point!) calls it.
#[cfg(feature = "points")]
#[inline]
pub fn at(point: Point, g: *const G, detail: usize) {
    if let Some(hooks) = hooks() {
        (hooks.point)(point, g, detail);
    }
}

/// Waits until `wait` may be over.
#[cold]
pub(crate) fn wait(wait: &Wait) {
    if cfg!(feature = "points")
        && let Some(hooks) = hooks()
    {
        (hooks.wait)(wait);
        return;
    }
    // SAFETY: `sched_yield` has no preconditions.
    unsafe { libc::sched_yield() };
}

/// Hands a throw to the harness, if there is one.
pub(crate) fn throw(throw: &Throw) {
    if let Some(hooks) = hooks() {
        (hooks.throw)(throw);
    }
}

/// `point!(Name, g, detail)` is a scheduling point. It is nothing without the `points` feature.
#[macro_export]
macro_rules! point {
    ($name:ident) => {
        $crate::point!($name, core::ptr::null(), 0)
    };
    ($name:ident, $g:expr) => {
        $crate::point!($name, $g, 0)
    };
    ($name:ident, $g:expr, $detail:expr) => {{
        #[cfg(feature = "points")]
        $crate::instrument::hooks::at($crate::instrument::point::Point::$name, $g, $detail);
        #[cfg(not(feature = "points"))]
        if false {
            let (_, _): (*const $crate::G, usize) = ($g, $detail);
        }
    }};
}
