//! A child that runs one schedule after another, and is replaced when one breaks it.
//!
//! A request is the schedule's length (`u32`, little-endian), a byte of flags and the
//! schedule's bytes; the answer is one line of JSON, an [`Answer`]. After a finding the
//! child ends. One that ends without an answer, or gives none in time, has its end judged
//! instead.

use super::child::{self, Tail};
use super::{Exit, args, death, output::complain};
use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::Deserialize;
use sigstorm::outcome::{Event, Finding, Verdict};
use sigstorm_runtime::defect::Defect;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A run that takes more of the processor's time is none that can be judged: the core has its
/// own rules for what is stuck. It is longer than the executor's own limit, which says more.
const LIMIT: Duration = Duration::from_secs(40);
/// A run that takes longer by the clock cannot be waited for, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a run that has not ended is looked at.
const GLANCE: Duration = Duration::from_secs(1);

/// Ask for the events.
const TRACE: u8 = 1;

/// An answer is not longer than this.
const LONGEST: u64 = 1 << 28;

/// What became of one run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// A hash of the event trace; none where the process died.
    pub trace_hash: Option<u64>,
    /// Steps that had an effect.
    pub steps: u64,
    /// Times that the baton went from one thread to another.
    pub handovers: u64,
    /// Signals that the kernel delivered.
    pub signals: u64,
    /// The violation, if there was one.
    pub finding: Option<Finding>,
    /// The events, where they were asked for.
    pub events: Vec<Event>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl Answer {
    /// The verdict's name, if there is one.
    pub fn verdict(&self) -> Option<&str> {
        self.finding.as_ref().map(|finding| finding.verdict.as_str())
    }
}

/// Runs schedules in a child of its own.
#[derive(Debug)]
pub struct Runner {
    defects: Vec<Defect>,
    limit: Duration,
    live: Option<Live>,
}

/// The child.
#[derive(Debug)]
struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<Vec<u8>>,
    log: Option<JoinHandle<Tail>>,
}

impl Runner {
    /// A runner whose core has these defects. It starts when there is something to run.
    pub fn new(defects: &[Defect]) -> Runner {
        Runner { defects: defects.to_vec(), limit: LIMIT, live: None }
    }

    /// Runs a schedule.
    ///
    /// # Errors
    ///
    /// If no child can be started. Whatever goes wrong in a child is a finding.
    pub fn run(&mut self, bytes: &[u8], trace: bool) -> Result<Answer> {
        let mut live = match self.live.take() {
            Some(live) => live,
            None => Live::start(&self.defects)?,
        };
        let length = u32::try_from(bytes.len()).context("the schedule is too long")?;
        let mut request = length.to_le_bytes().to_vec();
        request.push(if trace { TRACE } else { 0 });
        request.extend(bytes);
        // A dead child is not noticed here but below, where it does not answer; nor does a
        // hanging one block this: a request is less than a pipe holds.
        if let Some(stdin) = &mut live.stdin {
            let _ = stdin.write_all(&request).and_then(|()| stdin.flush());
        }
        let finding = match live.answer(self.limit) {
            Ok(line) => match serde_json::from_slice::<Answer>(&line) {
                Ok(answer) => {
                    if answer.finding.is_none() {
                        self.live = Some(live);
                    }
                    return Ok(answer);
                }
                Err(error) => {
                    let summary = format!("the runner's answer makes no sense: {error}");
                    death::finding(Verdict::HarnessError, summary, live.end().1)
                }
            },
            Err(RecvTimeoutError::Timeout) => {
                let summary = format!("the run did not end within {} s", self.limit.as_secs_f32());
                death::finding(Verdict::HarnessError, summary, live.end().1)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let (status, log) = live.end();
                let status = status.context("cannot wait for the runner")?;
                // Only a signal is the core's doing: the runner itself ends with a status.
                death::judge(status, status.code().is_none(), log)
            }
        };
        Ok(Answer { finding: Some(finding), ..Answer::default() })
    }
}

impl Live {
    /// The next answer, if it comes before the child has used up `limit` of the processor.
    fn answer(&self, limit: Duration) -> Result<Vec<u8>, RecvTimeoutError> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let clock = clock_getcpuclockid(pid);
        // A child that has just died has no clock: its death is the next thing to be heard.
        let used = || clock.and_then(clock_gettime).map_or(Duration::ZERO, Duration::from);
        let (before, asked) = (used(), Instant::now());
        loop {
            match self.answers.recv_timeout(GLANCE) {
                Err(RecvTimeoutError::Timeout)
                    if used().saturating_sub(before) < limit && asked.elapsed() < PATIENCE => {}
                answer => return answer,
            }
        }
    }

    fn start(defects: &[Defect]) -> Result<Live> {
        let mut command = child::command("runner", defects);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start a runner")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the runner has no output")?;
        let stderr = child.stderr.take().context("the runner has no errors")?;
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut next = || {
                let mut line = Vec::new();
                let read = stdout.by_ref().take(LONGEST).read_until(b'\n', &mut line);
                // Half a line is what a death in mid-answer leaves.
                (matches!(read, Ok(1..)) && line.ends_with(b"\n")).then_some(line)
            };
            while let Some(line) = next() {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let log = thread::spawn(move || {
            let mut tail = Tail::default();
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                tail.push(&line);
            }
            tail
        });
        Ok(Live { child, stdin, answers, log: Some(log) })
    }

    /// Waits a moment for its end, then ends it; how it ended, and its last words.
    fn end(&mut self) -> (Option<ExitStatus>, Vec<String>) {
        self.stdin = None;
        let patience = Instant::now() + Duration::from_millis(500);
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < patience => thread::sleep(Duration::from_millis(2)),
                Ok(None) => {
                    // It fails only where the child has just ended by itself.
                    let _ = self.child.kill();
                    break self.child.wait().ok();
                }
                other => break other.ok().flatten(),
            }
        };
        let log = self.log.take().and_then(|log| log.join().ok()).unwrap_or_default();
        (status, log.lines())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `sigstorm runner`. Ends with its standard input.
pub fn main(args: &args::Runner) -> ExitCode {
    if let Err(error) = child::begin(args.parent) {
        complain(&format!("cannot bind this process to its parent: {error}"));
        return ExitCode::from(Exit::Harness as u8);
    }
    ExitCode::from(sigstorm::runner::serve(&args.planted.defects))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_may_lack_what_is_empty() {
        let answer: Answer =
            serde_json::from_str(r#"{"trace_hash":18446744073709551615,"steps":3}"#).unwrap();
        assert_eq!((answer.trace_hash, answer.steps, answer.verdict()), (Some(u64::MAX), 3, None));
        let line = r#"{"trace_hash":1,"finding":{"verdict":"fault","summary":"s","evidence":[],"dump":[],"step":2}}"#;
        let answer: Answer = serde_json::from_str(line).unwrap();
        assert_eq!(answer.verdict(), Some("fault"));
    }
}
