//! Instruments: how a harness holds the core. Scheduling points and hooks, planted defects and their
//! canaries, tampering, the list of the marked code, and operations for benchmarks.

#[doc(hidden)]
pub mod bench_api;
#[cfg(feature = "defects")]
pub mod canary;
pub mod defect;
pub mod hooks;
pub mod marked_code;
pub mod named_codes;
#[cfg(feature = "defects")]
pub(crate) mod plant;
pub mod planted;
pub mod point;
pub mod tamper;
