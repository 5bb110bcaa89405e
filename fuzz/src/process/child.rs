//! A child, as its parent holds it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use super::counters::{self, STOP, Words};
use super::pace::Pace;
use super::{Status, Task, child_exit, mailbox, spawn};
use crate::outcome::{Finding, Verdict};

/// How many last lines of a child's log are shown.
const TAIL: usize = 20;
/// Bytes of the log in which they are looked for.
const TAIL_BYTES: u64 = 64 << 10;

/// A finding of a child, and the schedule that shows it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The violation.
    pub finding: Finding,
    /// The schedule, as it was run; empty where there is none.
    pub bytes: Vec<u8>,
}

/// A running child. It is killed where this is dropped.
#[derive(Debug)]
pub struct Child {
    /// Its kind, in messages.
    name: &'static str,
    /// The folder that it shares with this process, and the words there; a runner has none.
    shared: Option<(PathBuf, File)>,
    process: Option<std::process::Child>,
    log: File,
    /// Its share of a core.
    pub pace: Pace,
}

impl Child {
    /// Starts a child whose folder, if its task has one, is there. `configure` has the last word about
    /// the command: its environment, its standard input and output.
    ///
    /// Start it on a thread that lives as long as the child shall.
    ///
    /// # Errors
    /// Where its files cannot be made, or no process can be started.
    pub fn start(
        program: Option<&Path>,
        task: &Task,
        configure: impl FnOnce(&mut std::process::Command),
    ) -> Result<Child> {
        let name = task.name();
        let shared = match task.dir() {
            None => None,
            Some(dir) => {
                let cannot = || format!("cannot prepare a {name} in {}", dir.display());
                mailbox::create(dir).with_context(cannot)?;
                let words =
                    File::options().read(true).write(true).open(dir.join("stats")).with_context(cannot)?;
                Some((dir.to_owned(), words))
            }
        };
        let log = memfd_create("log", MFdFlags::MFD_CLOEXEC).context("cannot make a child's log")?;
        let log = File::from(log);
        let stream = || log.try_clone().context("cannot share a child's log");
        let mut command = spawn::command(program, task)?;
        command.stdin(Stdio::null()).stdout(stream()?).stderr(stream()?);
        configure(&mut command);
        let process = command
            .spawn()
            .with_context(|| format!("cannot start a {name} (a tight `ulimit -u` or `-v`?)"))?;
        let pace = Pace::new(process.id());
        Ok(Child { name, shared, process: Some(process), log, pace })
    }

    /// Returns whether it has not yet been seen to end.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Its process id; none once it has ended.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(std::process::Child::id)
    }

    /// Takes the pipes to and from it.
    pub(super) fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        let process = self.process.as_mut()?;
        Some((process.stdin.take()?, process.stdout.take()?))
    }

    /// Its exit status, if it has just ended.
    ///
    /// # Errors
    /// As for waiting.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let status = process.try_wait().with_context(|| format!("cannot wait for a {}", self.name))?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// The words that it shares.
    ///
    /// # Errors
    /// As for reading the file.
    pub fn words(&self) -> Result<Words> {
        let mut bytes = [0; counters::WORDS * 8];
        let (_, file) = self.shared.as_ref().context("this child shares no words")?;
        file.read_exact_at(&mut bytes, 0).with_context(|| format!("cannot read a {}'s counts", self.name))?;
        let mut words = [0; counters::WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(words)
    }

    /// Asks it to end soon.
    ///
    /// # Errors
    /// As for writing the file.
    pub fn ask_for_end(&self) -> Result<()> {
        let (_, file) = self.shared.as_ref().context("this child shares no words")?;
        file.write_all_at(&1u64.to_le_bytes(), STOP as u64 * 8)
            .with_context(|| format!("cannot ask a {} for an end", self.name))
    }

    /// The meaning of its exit status: nothing where it ended as it should. `running` is the schedule that it
    /// was running; any other child than a worker is taken to run all the time.
    pub fn finding(&self, status: ExitStatus, running: impl FnOnce() -> Option<Vec<u8>>) -> Option<Found> {
        match status.code().map(Status::from_code) {
            Some(Some(Status::Done)) => None,
            // A Ctrl-C that came before it could block it: this process has it, too.
            None if status.signal() == Some(Signal::SIGINT as i32) => None,
            Some(Some(Status::Found | Status::Broken)) => Some(self.left().unwrap_or_else(|error| {
                let summary = format!("a {} {}, but {error:#}", self.name, child_exit::describe(status));
                let bytes = running().unwrap_or_default();
                Found { finding: self.harness_error(summary), bytes }
            })),
            _ => {
                let bytes = running();
                let is_running = bytes.as_ref().is_none_or(|bytes| !bytes.is_empty());
                let finding = child_exit::judge(status, is_running, self.log_tail());
                Some(Found { finding, bytes: bytes.unwrap_or_default() })
            }
        }
    }

    /// An error of the harness, with the end of its log as evidence.
    pub fn harness_error(&self, summary: String) -> Finding {
        Finding::new(Verdict::HarnessError, summary, self.log_tail())
    }

    /// The finding that it left before it ended.
    fn left(&self) -> Result<Found> {
        let (dir, _) = self.shared.as_ref().context("it has no folder")?;
        let read = |name| fs::read(dir.join(name)).with_context(|| format!("its {name} cannot be read"));
        let finding =
            serde_json::from_slice(&read("finding.json")?).context("its finding.json makes no sense")?;
        Ok(Found { finding, bytes: read("finding.bin")? })
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> Vec<String> {
        read_tail(&self.log).unwrap_or_default()
    }

    /// Waits for its end, for no longer than `patience`, then kills it. Its exit status.
    pub(super) fn end(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            match self.ended() {
                Ok(None) if self.runs() => thread::sleep(Duration::from_millis(2)),
                other => return other.ok().flatten(),
            }
        }
        self.stop()
    }

    /// Kills it. Its exit status.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        let mut process = self.process.take()?;
        // It fails only where the child has just ended by itself.
        let _ = process.kill();
        process.wait().ok()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_tail(log: &File) -> io::Result<Vec<String>> {
    let length = log.metadata()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    let mut text = vec![0; (length - start) as usize];
    // Not from where the file stands: the child writes there.
    log.read_exact_at(&mut text, start)?;
    Ok(tail(&text))
}

/// The last lines of a text.
fn tail(text: &[u8]) -> Vec<String> {
    let lines: Vec<_> = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    last.iter().map(|line| String::from_utf8_lossy(line).trim_end().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_text_is_its_last_lines() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let lines = tail(text.as_bytes());
        assert_eq!(lines.len(), TAIL);
        assert_eq!(lines[TAIL - 1], "line 99");
        assert!(tail(b"").is_empty());
        assert_eq!(tail(b"\xff\n"), ["\u{fffd}"]);
    }
}
