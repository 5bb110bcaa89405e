//! Every check of the oracle fires, in a hunt and in a storm, and is silent on a healthy runtime.
//!
//! Each test breaks one thing in a runtime that is otherwise healthy ([`sigstorm::tamper`]), and expects
//! the one check that is there for it, by its verdict and by its own words. A finding ends the use of
//! the process, so each half runs in processes of its own ([`common`]).
//!
//! Tampering is part of debug builds only, as `cargo test` makes them.
#![cfg(debug_assertions)]

#[path = "../child/mod.rs"]
mod child;
mod common;
mod gc;
mod leaks;
mod program;
mod samples;
mod silent;
mod sums;
mod threads;
mod throws;
mod tracebacks;
mod vacuity;
