//! The executor: real threads, real stacks, real signals, and an oracle that must be
//! neither blind nor given to false alarms.
//!
//! A harness is process-wide and a finding ends its use. So every test runs its body in a
//! process of its own ([`common`]).

mod batch;
mod boundaries;
#[path = "../child/mod.rs"]
mod child;
mod common;
mod determinism;
mod every_instruction;
mod foreign;
mod harmless;
mod oracle;
mod parked_syscall;
mod profiler;
mod specimens;
mod stepping;
mod sweep;
mod vacuity;
