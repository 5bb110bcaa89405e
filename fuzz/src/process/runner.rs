//! A child that runs one schedule after another, and is replaced when one breaks it.
//!
//! A request is the schedule's length (`u32`, little-endian), a byte of flags and the
//! schedule's bytes; the answer is one line of JSON, an [`Answer`]. After a finding the
//! child ends. One that ends without an answer, or gives none in time, has its end judged
//! instead.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sigstorm_runtime::Defect;

use super::serve::{QUICK, RECORD, TRACE};
use super::{Answer, Child, RunnerOptions, Task, child_exit, pace};
use crate::outcome::Finding;

/// A run that takes more of the processor's time is none that can be judged: the core has its
/// own rules for what is stuck. It is longer than the executor's own limit, which says more.
const LIMIT: Duration = Duration::from_secs(40);
/// A run that takes longer by the clock cannot be waited for, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a run that has not ended is looked at.
const GLANCE: Duration = Duration::from_secs(1);

/// An answer is not longer than this.
const LONGEST: u64 = 1 << 28;

/// Runs schedules in a child of its own.
#[derive(Debug)]
pub struct Runner {
    options: RunnerOptions,
    limit: Duration,
    live: Option<Live>,
    /// The processor's time that its children have used, as far as it was looked at.
    used: Duration,
}

/// The child.
#[derive(Debug)]
struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<Vec<u8>>,
    /// The processor's time that it had used at the last look.
    seen: Duration,
}

impl Runner {
    /// A runner whose core has these defects. It starts when there is something to run.
    pub fn new(defects: &[Defect]) -> Runner {
        let options = RunnerOptions { core: None, defects: defects.to_vec() };
        Runner { options, limit: LIMIT, live: None, used: Duration::ZERO }
    }

    /// The same on this core, counted among those that the process may use.
    pub fn on_core(self, nth: usize) -> Runner {
        Runner { options: RunnerOptions { core: Some(nth), ..self.options }, ..self }
    }

    /// The processor's time that its children have used up to their last answers.
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

    /// Runs a schedule; the answer has the instructions that each step reached.
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
                    // It has been asked for more than is wanted.
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
            none => none.insert(Live::start(&self.options)?),
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

    /// The meaning of an answer, or of its absence. A child that can go on is kept.
    fn judge(&mut self, mut live: Live, line: Result<Vec<u8>, RecvTimeoutError>) -> Result<Answer> {
        let broken = |mut live: Live, summary: String| -> Finding {
            live.end();
            live.child.harness_error(summary)
        };
        let finding = match line {
            Ok(line) => match serde_json::from_slice::<Answer>(&line) {
                Ok(answer) => {
                    if answer.finding.is_none() {
                        self.live = Some(live);
                    }
                    return Ok(answer);
                }
                Err(error) => broken(live, format!("the runner's answer makes no sense: {error}")),
            },
            Err(RecvTimeoutError::Timeout) => {
                broken(live, format!("the run did not end within {} s", self.limit.as_secs_f32()))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = live.end().context("cannot wait for the runner")?;
                // Only a signal is the core's doing: the runner itself ends with a status.
                child_exit::judge(status, status.code().is_none(), live.child.log_tail())
            }
        };
        Ok(Answer::only(finding))
    }

    /// Ends the child. The next run starts another. A thread that ends must call this where the runner
    /// lives on: the kernel kills the children that a thread has started when it ends.
    pub fn rest(&mut self) {
        self.live = None;
    }
}

impl Live {
    /// The next answer, if it comes before the child has used up `limit` of the processor.
    fn answer(&self, limit: Duration) -> Result<Vec<u8>, RecvTimeoutError> {
        // A child that has just died has no clock: its death is the next thing to be heard.
        let used = || self.used().unwrap_or(Duration::ZERO);
        let (before, asked) = (used(), Instant::now());
        loop {
            match self.answers.recv_timeout(GLANCE) {
                Err(RecvTimeoutError::Timeout)
                    if used().saturating_sub(before) < limit && asked.elapsed() < PATIENCE => {}
                answer => return answer,
            }
        }
    }

    fn used(&self) -> Option<Duration> {
        self.child.id().and_then(pace::used)
    }

    /// The processor's time that it has used since this was asked last.
    fn used_since(&mut self) -> Duration {
        let now = self.used().unwrap_or(self.seen);
        now.saturating_sub(std::mem::replace(&mut self.seen, now))
    }

    fn start(options: &RunnerOptions) -> Result<Live> {
        let task = Task::Runner(options.clone());
        let mut child = Child::start(None, &task, |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        })?;
        let (stdin, stdout) = child.pipes().context("the runner has no pipes")?;
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
        Ok(Live { child, stdin: Some(stdin), answers, seen: Duration::ZERO })
    }

    /// Waits a moment for its end, then kills it: its exit status.
    fn end(&mut self) -> Option<ExitStatus> {
        self.stdin = None;
        self.child.end(Duration::from_millis(500))
    }
}
