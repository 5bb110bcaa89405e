//! The target for AFL, in persistent mode: every byte string is a schedule.
//!
//! `just afl` starts a campaign. A finding aborts the process, and AFL keeps the
//! schedule's bytes in `out/*/crashes`, for `sigstorm replay`. Outside of AFL the program
//! runs one schedule from standard input and says what it found.

mod map;

use std::panic::AssertUnwindSafe;
use std::process::{abort, exit};

use sigstorm::executor::Harness;
use sigstorm::planted;
use sigstorm::schedule::Schedule;

unsafe extern "C" {
    /// Starts AFL's fork server here, once.
    fn __afl_manual_init();
}

fn main() {
    let defects = planted::from_environment().unwrap_or_else(|error| {
        eprintln!("{}: {error}", planted::VARIABLE);
        exit(2)
    });
    // Threads do not survive a fork, so they are started behind the fork server; and before
    // the loop, or else the first run would look different from all that follow.
    // SAFETY: there is one thread; `fuzz` calls it again, which then does nothing.
    unsafe { __afl_manual_init() };
    let harness = Harness::new(sigstorm_inject::nearest(), &defects).unwrap_or_else(|error| {
        eprintln!("harness error: {error}");
        abort()
    });
    // A panic ends the process, so nobody sees the harness after one.
    let mut harness = AssertUnwindSafe(harness);
    afl::fuzz(true, |bytes| {
        let schedule = Schedule::decode(bytes);
        let run = harness.run(&schedule, false);
        // SAFETY: the run is over.
        unsafe { map::publish() };
        if let Some(finding) = run.finding {
            eprintln!("{}: {}", finding.verdict, finding.summary);
            finding.evidence.iter().chain(&finding.dump).for_each(|line| eprintln!("  {line}"));
            eprintln!("\n{schedule}");
            abort();
        }
    });
}
