//! sigstorm: fuzzing and fault injection for what a profiler's signal handler finds on a
//! stack that somebody is changing.
//!
//! A [`schedule`](mod@schedule) says what each thread does and where it is held; the
//! [`executor`] carries it out on real threads, real stacks and real signals, and holds
//! every sample against a truth that it keeps itself; [`outcome`] is what comes of it.
//! Engines and the command line are thin glue over these.

#[cfg(feature = "libfuzzer")]
pub mod current;
pub mod executor;
pub mod generate;
pub mod museum;
mod oracle;
pub mod outcome;
pub mod planted;
pub mod runner;
pub mod schedule;
mod shared;

pub mod storm;
pub mod sweep;
#[cfg(debug_assertions)]
pub mod tamper;
#[cfg(feature = "libfuzzer")]
pub mod worker;
