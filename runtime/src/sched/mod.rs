//! Goroutines and machines: who runs, who waits, and what a machine does for its goroutine.
//!
//! [`g`], [`m`] and [`runtime`] hold the state. The other modules are the operations on it, most of
//! them methods of [`M`](m::M).

pub mod config;
pub(crate) mod defers;
pub mod foreign;
pub mod g;
pub mod gobuf;
mod handoff;
pub mod m;
pub mod panic;
mod preempt;
mod preempt_request;
pub mod run;
pub mod runtime;
mod start;
mod stop_world;
pub mod syscall;
pub mod system_call;
mod transitions;
pub mod wait;
pub mod world;
