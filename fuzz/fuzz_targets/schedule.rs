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

use common::{defects, run_input};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: { defects(); }, |bytes: &[u8]| -> () {
    run_input(bytes);
});
