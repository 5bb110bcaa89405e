//! The target `stops` for cargo-fuzz: a schedule, and the same again with its threads stopped,
//! and signalled, at a few of the instructions that they cross.
//!
//! ```text
//! cargo fuzz run --sanitizer none stops corpus/stops
//! ```
//!
//! Which instructions is decided by the schedule's own bytes, so an artifact shows the same
//! again. The schedule with the stop is left beside the artifact, for `replay`.

#![cfg_attr(not(test), no_main)]

#[path = "common.rs"]
mod common;

use common::{defects, keep, report, run, run_input};
use libfuzzer_sys::fuzz_target;
use sigstorm::generate::stopped;

/// So often a schedule is run with a stop.
const STOPS: usize = 4;

fuzz_target!(init: { defects(); }, |bytes: &[u8]| -> () {
    let schedule = run_input(bytes);
    for variant in stopped(&schedule, STOPS) {
        if let Some(finding) = run(&variant).finding {
            report(&finding, &variant, &keep(&variant));
        }
    }
});
