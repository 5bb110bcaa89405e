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

use common::{defects, keep, report, run};
use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target};
use sigstorm::generate::{Generator, stopped};
use sigstorm::schedule::Schedule;

/// So often a schedule is run with a stop.
const STOPS: usize = 4;

fuzz_target!(init: { defects(); }, |bytes: &[u8]| -> () {
    let schedule = Schedule::decode(bytes);
    if let Some(finding) = run(&schedule).finding {
        report(&finding, &schedule, bytes);
    }
    for variant in stopped(&schedule, STOPS) {
        if let Some(finding) = run(&variant).finding {
            report(&finding, &variant, &keep(&variant));
        }
    }
});

// The engine wants the same mutation for the same seed, so each has a generator of its own.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let max_size = max_size.min(data.len());
    Generator::new(u64::from(seed), None).next_bytes(&mut data[..max_size], size)
});

fuzz_crossover!(|one: &[u8], other: &[u8], out: &mut [u8], seed: u32| {
    Generator::new(u64::from(seed), None).cross_bytes(one, other, out)
});
