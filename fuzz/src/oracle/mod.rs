//! The oracle: one for controlled runs and for storms.
//!
//! The harness decides what the program does, so it can keep its own record of what must be true,
//! and hold the runtime against it:
//!
//! | file | |
//! |---|---|
//! | [`shadow_stack`], [`panics`], [`slots`], [`shadow_heap`] | the record: frames, deferred calls, the values of slots and objects |
//! | [`traceback`] | the one right traceback at an instant |
//! | [`requests`], [`cycle`] | scans and yields that were requested; what a collector's cycle has done |
//! | [`lockstep`] | carries out an operation on the runtime and on the record, and compares |
//! | [`sample_log`] | what became of each sample, from the handler to the reader |
//! | [`check`] | checks that look at one thing at one instant |
//! | [`violation`], [`evidence`] | what was wrong, and what shows it |
//!
//! A controlled run is alone with its record whenever it looks; in a storm a thread's handler, the
//! collector and other threads look while it changes. [`lockstep::Access`] is the difference, so every
//! check is written once. Code for one kind of run only (who may hold a stack lock at an
//! instant, whether a hang is one) lies beside that run's threads, in [`executor`](crate::executor) and
//! [`storm`](crate::storm).

pub(crate) mod check;
pub(crate) mod cycle;
pub(crate) mod evidence;
pub(crate) mod lockstep;
pub(crate) mod panics;
pub(crate) mod requests;
pub(crate) mod sample_log;
pub(crate) mod shadow_heap;
pub(crate) mod shadow_stack;
pub(crate) mod slots;
pub(crate) mod traceback;
pub(crate) mod violation;

pub(crate) use lockstep::{Access, Lockstep};
pub(crate) use shadow_heap::ShadowHeap;
pub(crate) use shadow_stack::ShadowStack;
pub(crate) use traceback::Observed;
pub(crate) use violation::{Violation, ViolationKind};

/// The index of a goroutine's record.
pub(crate) fn index(g: &sigstorm_runtime::G) -> usize {
    usize::from(g.id) - 1
}
