//! sigstorm: fuzzing and fault injection for what a profiler's signal handler finds on a
//! stack that somebody is changing.
//!
//! A [`schedule`](mod@schedule) says what each thread does and where it is held; the
//! [`executor`] carries it out on real threads, real stacks and real signals, and holds
//! every sample against its own record of what must be true; [`outcome`] is the result. A [`storm`] does
//! without a baton, and a [`sweep`] disturbs a schedule at each of its instructions.
//!
//! A violation ends the process that found it, so all of this runs in children ([`process`]).
//! Their parents need the feature `supervise`: `campaign` supervises hunts and storms, [`shrink`] makes
//! a schedule smaller, [`museum`] and `mutants` measure how much is found, `report` is left of a finding.
//! Engines such as AFL link the library without it. The command line is thin glue over these.

#[cfg(feature = "supervise")]
pub mod campaign;
pub mod executor;
#[cfg(feature = "supervise")]
pub mod files;
pub mod generate;
pub mod museum;
#[cfg(feature = "supervise")]
pub mod mutants;
mod oracle;
pub mod outcome;
pub mod planted;
#[cfg(feature = "supervise")]
pub mod probe;
pub mod process;
#[cfg(feature = "supervise")]
pub mod report;
pub mod schedule;
pub mod shrink;
pub mod storm;
pub mod sweep;
#[cfg(debug_assertions)]
pub mod tamper;
