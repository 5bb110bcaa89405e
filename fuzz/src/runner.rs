//! A process that runs schedules for another: `sigstorm runner`.
//!
//! Requests come on standard input: the length of a schedule's bytes (`u32`, little
//! endian), a byte of flags, the bytes. Each is answered with a line of JSON. After a
//! violation the process ends: its threads may be anywhere. Answers may be held back while
//! further requests are there already.
//!
//! | flag | |
//! |---|---|
//! | 1 | the answer has the events |
//! | 2 | it has the instructions that each step came to |
//! | 4 | it has no hash of the trace; threads wait for the baton as under 2 |

use std::io::{self, BufReader, BufWriter, Read, Write};

use sigstorm_runtime::Defect;

use crate::executor::{Harness, feedback};
use crate::outcome::{Crossing, Run, Verdict};
use crate::schedule::Schedule;

/// Ask for the events.
pub const TRACE: u8 = 1;
/// Ask for the instructions that each step came to.
pub const RECORD: u8 = 2;
/// Do without the trace's hash, and with threads that wait as they do in a watched run.
pub const QUICK: u8 = 4;

/// A line of answer.
#[derive(serde::Serialize)]
struct Answer<'a> {
    trace_hash: u64,
    steps: u64,
    handovers: u64,
    signals: u64,
    tracebacks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<&'a crate::outcome::Finding>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    events: &'a [crate::outcome::Event],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    injected: Option<crate::outcome::Injected>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    crossings: &'a [Crossing],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    inert: &'a [u32],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unreached: &'a [u32],
}

fn answer(out: &mut impl Write, run: &Run, crossings: &[Crossing]) -> io::Result<()> {
    let answer = Answer {
        trace_hash: run.trace_hash,
        steps: run.counts.steps,
        handovers: run.counts.handovers,
        signals: run.counts.signals,
        tracebacks: run.counts.tracebacks,
        finding: run.finding.as_ref(),
        events: &run.events,
        notes: &run.notes,
        injected: (run.injected.held != 0).then_some(run.injected),
        crossings,
        inert: &run.inert,
        unreached: &run.unreached,
    };
    serde_json::to_writer(&mut *out, &answer)?;
    out.write_all(b"\n")
}

/// Serves until standard input ends or a violation is found. The exit status: 0, or 3 where
/// the harness cannot be set up or the other side is gone.
pub fn serve(core: Option<usize>, defects: &[Defect]) -> u8 {
    let mut out = BufWriter::new(io::stdout().lock());
    // Unless one is named any core will do, and several of these at once should not share one.
    let core = core.unwrap_or_else(sigstorm_inject::nearest);
    let mut harness = match Harness::new(core, defects) {
        Ok(harness) => harness,
        Err(error) => {
            let finding = crate::outcome::Finding {
                verdict: Verdict::HarnessError.name().to_owned(),
                summary: error.to_string(),
                evidence: Vec::new(),
                dump: Vec::new(),
                step: 0,
            };
            // Whoever asks is told why, if it is still there; the status says the rest.
            let run = Run { finding: Some(finding), ..Run::default() };
            let told = answer(&mut out, &run, &[]).and_then(|()| out.flush());
            return if told.is_ok() { 3 } else { 4 };
        }
    };
    let mut input = BufReader::with_capacity(1 << 16, io::stdin().lock());
    loop {
        let mut head = [0; 5];
        if input.read_exact(&mut head).is_err() {
            return 0;
        }
        let [a, b, c, d, flags] = head;
        let mut bytes = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
        if input.read_exact(&mut bytes).is_err() {
            return 3;
        }
        // SAFETY: no run is under way.
        unsafe { feedback::clear() };
        let schedule = Schedule::decode(&bytes);
        let (mut run, crossings) = match flags & RECORD != 0 {
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
        // Whoever has asked for more already need not be told at once.
        let waits = input.buffer().is_empty() || run.finding.is_some();
        let told = answer(&mut out, &run, &crossings);
        if told.and_then(|()| if waits { out.flush() } else { Ok(()) }).is_err() {
            return 3;
        }
        if run.finding.is_some() {
            return 0;
        }
    }
}
