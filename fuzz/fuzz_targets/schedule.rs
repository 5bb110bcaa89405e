//! The target `schedule` for cargo-fuzz: every byte string is a schedule.
//!
//! ```text
//! cargo fuzz run --sanitizer none schedule           stable
//! cargo +nightly fuzz run schedule                   with AddressSanitizer
//! SIGSTORM_DEFECT=sigprof-spins cargo fuzz run ..    with a planted defect
//! ```
//!
//! A finding goes to standard error, and the process aborts: the core is corrupted
//! then, and its threads are wherever they are. libFuzzer leaves the schedule's bytes as
//! an artifact; the last line that we print is the command that runs it again.

// `cargo test --all-targets` builds this, too, and runs it: then it has nothing to test, and
// must not be the fuzzer, which would not end.
#![cfg_attr(not(test), no_main)]

#[path = "common.rs"]
mod common;

use common::{defects, report, run};
use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target};
use sigstorm::generate::Generator;
use sigstorm::schedule::Schedule;

fuzz_target!(init: { defects(); }, |bytes: &[u8]| -> () {
    let schedule = Schedule::decode(bytes);
    if let Some(finding) = run(&schedule).finding {
        report(&finding, &schedule, bytes);
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
