//! A process that runs schedules for another: `sigstorm runner`.
//!
//! Requests come on standard input: the length of a schedule's bytes (`u32`, little
//! endian), a byte of flags (bit 0: record the trace), the bytes. Each is answered with a
//! line of JSON. After a violation the process ends: its threads may be anywhere.

use std::io::{self, Read, Write};

use sigstorm_runtime::Defect;

use crate::executor::{Harness, feedback};
use crate::outcome::{Run, Verdict};
use crate::schedule::Schedule;

/// A line of answer.
#[derive(serde::Serialize)]
struct Answer<'a> {
    trace_hash: u64,
    steps: u64,
    handovers: u64,
    signals: u64,
    tracebacks: u64,
    finding: Option<&'a crate::outcome::Finding>,
    events: &'a [crate::outcome::Event],
    notes: &'a [String],
}

fn answer(run: &Run) -> io::Result<()> {
    let answer = Answer {
        trace_hash: run.trace_hash,
        steps: run.counts.steps,
        handovers: run.counts.handovers,
        signals: run.counts.signals,
        tracebacks: run.counts.tracebacks,
        finding: run.finding.as_ref(),
        events: &run.events,
        notes: &run.notes,
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &answer)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Serves until standard input ends or a violation is found. The exit status: 0, or 3 where
/// the harness cannot be set up or the other side is gone.
pub fn serve(defects: &[Defect]) -> u8 {
    // Any core will do, and several of these at once should not share one.
    let mut harness = match Harness::new(sigstorm_inject::nearest(), defects) {
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
            let told = answer(&Run { finding: Some(finding), ..Run::default() });
            return if told.is_ok() { 3 } else { 4 };
        }
    };
    let mut input = io::stdin().lock();
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
        // The hash is part of every answer, so every run is traced.
        let mut run = harness.run(&Schedule::decode(&bytes), true);
        if flags & 1 == 0 {
            run.events.clear();
        }
        if answer(&run).is_err() {
            return 3;
        }
        if run.finding.is_some() {
            return 0;
        }
    }
}
