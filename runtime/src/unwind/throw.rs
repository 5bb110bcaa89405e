//! Throws: a broken invariant ends the process, or the harness catches it as a finding.
//!
//! A throw is the core's own verdict on itself. It never returns, since the core cannot go on with
//! what is broken. The harness's hook comes first; without a harness the reporter prints the throw
//! and aborts. The reporter is set with the first runtime: it needs most of the core, and a throw
//! must not depend on all of that.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::raw_text::Stderr;
use super::walk_error::WalkError;
use crate::instrument::hooks;
use crate::sched::g::G;

pub use super::reason::{Reason, Throw};

/// The reporter's address; zero before one is set.
static REPORTER: AtomicUsize = AtomicUsize::new(0);

/// Sets the function that reports a throw where no harness is installed.
pub(crate) fn set_reporter(reporter: fn(&Throw) -> !) {
    REPORTER.store(reporter as usize, Ordering::Release);
}

/// Ends in a throw. Signal-safe, as far as the harness's hook is.
#[cold]
#[inline(never)]
pub(crate) fn throw(g: Option<&'static G>, reason: Reason) -> ! {
    let throw = Throw { reason, g };
    hooks::throw(&throw);
    let reporter = REPORTER.load(Ordering::Acquire);
    if reporter != 0 {
        // SAFETY: `set_reporter` has stored a function of this type, and nothing else is stored.
        let reporter = unsafe { core::mem::transmute::<usize, fn(&Throw) -> !>(reporter) };
        reporter(&throw);
    }
    let mut stderr = Stderr::new();
    stderr.print(format_args!("sigstorm-runtime: {:?}\n", throw.reason));
    drop(stderr);
    std::process::abort()
}

/// Ends in a throw: the runtime's own walk of a stack that it owns has failed.
#[cold]
#[inline(never)]
pub(crate) fn walk_failed(g: &'static G, error: WalkError) -> ! {
    throw(Some(g), Reason::WalkFailed(error))
}

/// Returns the first bytes of the functions that end in a throw: code that calls them runs in a
/// broken core alone.
pub fn code() -> [usize; 2] {
    [throw as *const () as usize, walk_failed as *const () as usize]
}
