//! A child that runs one schedule after another, and is replaced when one breaks it.
//!
//! A request is the schedule's length (`u32`, little-endian), a byte of flags and the
//! schedule's bytes; the answer is one line of JSON, an [`Answer`]. After a finding the
//! child ends. One that ends without an answer, or gives none in time, has its end judged
//! instead.

use super::child::{self, Tail};
use super::{Exit, args, death, output::complain, pace};
use anyhow::{Context, Result};
use serde::Deserialize;
use sigstorm::outcome::{Crossing, Event, Finding, Injected, Verdict};
use sigstorm::runner::{QUICK, RECORD, TRACE};
use sigstorm_runtime::instrument::defect::Defect;
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
    /// What became of its stops at instructions.
    pub injected: Injected,
    /// The instructions that each step came to, where they were asked for.
    pub crossings: Vec<Crossing>,
    /// Steps without an effect.
    pub inert: Vec<u32>,
    /// Steps with a stop that was not reached.
    pub unreached: Vec<u32>,
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
    core: Option<usize>,
    limit: Duration,
    live: Option<Live>,
    /// What its children have used of the processor, as far as it was looked at.
    used: Duration,
}

/// The child.
#[derive(Debug)]
struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<Vec<u8>>,
    log: Option<JoinHandle<Tail>>,
    /// What it had used of the processor when it was looked at last.
    seen: Duration,
}

impl Runner {
    /// A runner whose core has these defects. It starts when there is something to run.
    pub fn new(defects: &[Defect]) -> Runner {
        Runner { defects: defects.to_vec(), core: None, limit: LIMIT, live: None, used: Duration::ZERO }
    }

    /// The same on this core, counted among those that the process may use.
    pub fn on_core(self, nth: usize) -> Runner {
        Runner { core: Some(nth), ..self }
    }

    /// What its children have used of the processor up to their last answers.
    pub fn used(&self) -> Duration {
        self.used
    }

    /// Runs a schedule.
    ///
    /// # Errors
    ///
    /// If no child can be started. Whatever goes wrong in a child is a finding.
    pub fn run(&mut self, bytes: &[u8], trace: bool) -> Result<Answer> {
        self.ask_one(bytes, if trace { TRACE } else { 0 })
    }

    /// Runs a schedule and has the instructions told that each step came to.
    ///
    /// # Errors
    ///
    /// As for [`Runner::run`].
    pub fn record(&mut self, bytes: &[u8]) -> Result<Answer> {
        self.ask_one(bytes, RECORD)
    }

    /// Runs schedules, untraced, and calls `each` with every answer in turn until that says
    /// that it has enough. Together they take less than a pipe holds.
    ///
    /// # Errors
    ///
    /// As for [`Runner::run`].
    pub fn run_all(
        &mut self,
        schedules: &[Vec<u8>],
        each: &mut dyn FnMut(usize, Answer) -> bool,
    ) -> Result<()> {
        let mut next = 0;
        // A child that died has taken answers along that it had not yet given.
        let mut doubtful = false;
        while next < schedules.len() {
            let end = if doubtful { next + 1 } else { schedules.len() };
            let asked: Vec<&[u8]> = schedules[next..end].iter().map(Vec::as_slice).collect();
            self.ask(&asked, QUICK)?;
            while next < end {
                // After a finding there is none, and the rest is asked of another.
                let Some(mut live) = self.live.take() else { break };
                let line = live.answer(self.limit);
                self.used += live.used_since();
                if line == Err(RecvTimeoutError::Disconnected) && end - next > 1 {
                    doubtful = true;
                    break;
                }
                let answer = self.judge(live, line)?;
                doubtful &= answer.finding.is_none();
                next += 1;
                if !each(next - 1, answer) {
                    // It has been asked for more than anybody wants to know.
                    self.live = None;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Has the child asked to run these.
    fn ask(&mut self, schedules: &[&[u8]], flags: u8) -> Result<()> {
        let live = match &mut self.live {
            Some(live) => live,
            none => none.insert(Live::start(&self.defects, self.core)?),
        };
        let mut request = Vec::new();
        for bytes in schedules {
            let length = u32::try_from(bytes.len()).context("the schedule is too long")?;
            request.extend(length.to_le_bytes());
            request.push(flags);
            request.extend(*bytes);
        }
        // A dead child is not noticed here but where it does not answer; nor does a hanging
        // one block this: a request is less than a pipe holds.
        if let Some(stdin) = &mut live.stdin {
            let _ = stdin.write_all(&request).and_then(|()| stdin.flush());
        }
        Ok(())
    }

    fn ask_one(&mut self, bytes: &[u8], flags: u8) -> Result<Answer> {
        self.ask(&[bytes], flags)?;
        let mut live = self.live.take().context("there is no runner")?;
        let line = live.answer(self.limit);
        self.used += live.used_since();
        self.judge(live, line)
    }

    /// What an answer says, or its absence. A child that can go on is kept.
    fn judge(&mut self, mut live: Live, line: Result<Vec<u8>, RecvTimeoutError>) -> Result<Answer> {
        let finding = match line {
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
        // A child that has just died has no clock: its death is the next thing to be heard.
        let used = || pace::used(self.child.id()).unwrap_or(Duration::ZERO);
        let (before, asked) = (used(), Instant::now());
        loop {
            match self.answers.recv_timeout(GLANCE) {
                Err(RecvTimeoutError::Timeout)
                    if used().saturating_sub(before) < limit && asked.elapsed() < PATIENCE => {}
                answer => return answer,
            }
        }
    }

    /// What it has used of the processor since this was asked last.
    fn used_since(&mut self) -> Duration {
        let now = pace::used(self.child.id()).unwrap_or(self.seen);
        now.saturating_sub(std::mem::replace(&mut self.seen, now))
    }

    fn start(defects: &[Defect], core: Option<usize>) -> Result<Live> {
        let mut command = child::command("runner", defects);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
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
        Ok(Live { child, stdin, answers, log: Some(log), seen: Duration::ZERO })
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
    ExitCode::from(sigstorm::runner::serve(args.core, &args.planted.defects))
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
