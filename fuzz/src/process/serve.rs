//! The child's side of a runner: a process that runs schedules for another, `sigstorm runner`.
//!
//! Requests come on standard input: the length of a schedule's bytes (`u32`, little
//! endian), a byte of flags, the bytes. Each is answered with a line of JSON. After a
//! violation the process ends: its threads may be anywhere. Answers may be held back while
//! further requests are there already.
//!
//! | flag | |
//! |---|---|
//! | 1 | the answer has the events |
//! | 2 | it has the instructions that each step reached |
//! | 4 | it has no hash of the trace; threads wait for the baton as under 2 |

use std::io::{self, BufReader, BufWriter, Read, Write};

use super::{Answer, RunnerOptions, Status};
use crate::executor::{Harness, feedback};
use crate::outcome::Finding;
use crate::schedule::Schedule;

/// Ask for the events.
pub const TRACE: u8 = 1;
/// Ask for the instructions that each step reached.
pub const RECORD: u8 = 2;
/// Do without the trace's hash, and with threads that wait as they do in a watched run.
pub const QUICK: u8 = 4;

fn answer(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    out.write_all(b"\n")
}

/// Serves until standard input ends or a violation is found.
pub fn serve(options: &RunnerOptions) -> Status {
    let mut out = BufWriter::new(io::stdout().lock());
    // Unless one is named any core will do, and several of these at once should not share one.
    let core = options.core.unwrap_or_else(sigstorm_inject::nearest);
    let mut harness = match Harness::new(core, &options.defects) {
        Ok(harness) => harness,
        Err(error) => {
            let finding = Finding::harness_error(error.to_string());
            // The parent may be gone; the status says enough.
            let _ = answer(&mut out, &Answer::only(finding)).and_then(|()| out.flush());
            return Status::Broken;
        }
    };
    let mut input = BufReader::with_capacity(1 << 16, io::stdin().lock());
    loop {
        let mut head = [0; 5];
        if input.read_exact(&mut head).is_err() {
            return Status::Done;
        }
        let [a, b, c, d, flags] = head;
        let mut bytes = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
        if input.read_exact(&mut bytes).is_err() {
            return Status::Broken;
        }
        // SAFETY: no run is under way.
        unsafe { feedback::clear() };
        let schedule = Schedule::decode(&bytes);
        let (mut run, visits) = match flags & RECORD != 0 {
            true => harness.record(&schedule),
            // The hash is part of an answer, so a run is traced. Watched runs and those that are
            // compared with them wait alike.
            false => {
                harness.wait_in_kernel(flags & QUICK == 0);
                (harness.run(&schedule, flags & QUICK == 0), Vec::new())
            }
        };
        if flags & TRACE == 0 {
            run.events.clear();
        }
        // A parent that has asked for more already need not be told at once.
        let found = run.finding.is_some();
        let waits = input.buffer().is_empty() || found;
        let told = answer(&mut out, &Answer::new(run, visits));
        if told.and_then(|()| if waits { out.flush() } else { Ok(()) }).is_err() {
            return Status::Broken;
        }
        if found {
            return Status::Found;
        }
    }
}
