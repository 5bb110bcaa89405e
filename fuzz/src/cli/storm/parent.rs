//! The child in which it blows, from its start to its end.
//!
//! The two share a folder: `stats`, words that the child writes and one with which this side
//! asks for an end; `finding.json`, what it found, before it ends with status 77, or 78 for
//! an error of the harness; and `log`.

use super::super::inconclusive::{LEAST_SHARE, Reason};
use super::super::pace::Pace;
use super::super::{child, death};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use sigstorm::outcome::{Finding, Verdict};
use sigstorm::storm::{BROKEN, Clock, Delay, FOUND, PULSE, STOP, STORM_WORDS, StormCounts};
use sigstorm_inject::allowed_cores;
use sigstorm_runtime::instrument::defect::Defect;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the child is looked at, and how often its counts.
const GLANCE: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(100);
/// A child whose pulse stands still for so long hangs.
const STILL: Duration = Duration::from_secs(60);
/// When its memory is first measured: everything has been used once.
const WARM: Duration = Duration::from_secs(2);

/// What the storm shall be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long it blows.
    pub seconds: Option<u64>,
    /// Signals a second for each thread.
    pub rate: u32,
    /// Threads that run goroutines.
    pub threads: usize,
    /// What the timers go by.
    pub clock: Clock,
    /// Delays at scheduling points.
    pub delay: Delay,
    /// Where the random choices begin.
    pub seed: u64,
    /// The cores that it keeps to, counted among the allowed ones; all of them where there are none.
    pub cores: Vec<usize>,
    /// What is planted.
    pub defects: Vec<Defect>,
}

/// Resident memory, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Once everything has been used.
    pub warm: u64,
    /// At most.
    pub peak: u64,
    /// At the last look.
    pub last: u64,
}

/// What a storm has come to so far, or came to.
#[derive(Clone, Debug)]
pub struct Blown {
    /// What was counted.
    pub counts: StormCounts,
    /// How long it took, until the finding.
    pub seconds: f64,
    /// The child's memory.
    pub memory: Memory,
    /// What it found.
    pub finding: Option<Finding>,
    /// What share of a core each of its threads had, as far as there are cores for them.
    pub share: Option<f64>,
}

impl Blown {
    /// Why there is no answer, if there is none.
    pub fn inconclusive(&self) -> Option<Reason> {
        match &self.finding {
            Some(_) => None,
            None if self.counts.signals == 0 => Some(Reason::Signals),
            None if self.share.is_some_and(|share| share < LEAST_SHARE) => Some(Reason::CoreTime),
            None => None,
        }
    }
}

/// Blows until something is found, time is up, or `stop` is set; shows `watch` now and then
/// how it stands. No child is left.
pub fn blow(plan: &Plan, stop: &AtomicBool, mut watch: impl FnMut(&Blown)) -> Result<Blown> {
    let dir = tempfile::Builder::new()
        .prefix("sigstorm-")
        .tempdir()
        .context("cannot make a folder for temporary files")?;
    let mut stormer = Stormer::start(plan, dir.path())?;
    let begun = Instant::now();
    let mut blown = Blown {
        counts: StormCounts::default(),
        seconds: 0.0,
        memory: Memory::default(),
        finding: None,
        share: None,
    };
    let mut pace = Pace::new(stormer.child.id());
    let allowed = allowed_cores().map_or(1, |cores| cores.len());
    let most = plan.threads.min(if plan.cores.is_empty() { allowed } else { plan.cores.len() }).max(1);
    let (mut looked, mut moved, mut pulse, mut asked) = (begun, begun, 0, false);
    let status = loop {
        thread::sleep(GLANCE);
        if let Some(status) = stormer.child.try_wait().context("cannot wait for the storm")? {
            break status;
        }
        if stop.load(Ordering::SeqCst) && !asked {
            asked = true;
            stormer.ask_for_an_end()?;
        }
        let now = Instant::now();
        if now - looked < LOOK {
            continue;
        }
        // After a pause of this process (Ctrl-Z) the child has paused, too.
        let paused = now - looked > Duration::from_secs(2);
        looked = now;
        let words = stormer.words()?;
        blown.counts = counts(&words);
        blown.seconds = begun.elapsed().as_secs_f64();
        pace.look(now);
        blown.share = pace.share().map(|share| share / most as f64);
        let state = stormer.look(&mut blown.memory, now - begun >= WARM);
        if words[PULSE] != pulse || paused || state == Some('T') {
            (pulse, moved) = (words[PULSE], now);
        }
        if now - moved > STILL {
            stormer.stop();
            let summary = format!("the storm did not get on for {} s", STILL.as_secs());
            blown.finding = Some(death::finding(Verdict::HarnessError, summary, stormer.log()));
            return Ok(blown);
        }
        watch(&blown);
    };
    blown.seconds = begun.elapsed().as_secs_f64();
    blown.counts = counts(&stormer.words()?);
    blown.finding = stormer.ended(status);
    Ok(blown)
}

fn counts(words: &[u64; STORM_WORDS]) -> StormCounts {
    let mut counts = [0; StormCounts::WORDS];
    counts.copy_from_slice(&words[..StormCounts::WORDS]);
    StormCounts::from_words(counts)
}

struct Stormer<'a> {
    dir: &'a Path,
    child: Child,
    stats: File,
}

impl<'a> Stormer<'a> {
    fn start(plan: &Plan, dir: &'a Path) -> Result<Stormer<'a>> {
        let cannot = || format!("cannot prepare a storm in {}", dir.display());
        // Written, not only made that long: a child that maps a file with holes dies where the
        // disk is full.
        fs::write(dir.join("stats"), [0; STORM_WORDS * 8]).with_context(cannot)?;
        let log = File::create(dir.join("log")).with_context(cannot)?;
        let stats = File::options().read(true).write(true).open(dir.join("stats")).with_context(cannot)?;
        let mut command = child::command("stormer", &plan.defects);
        command.arg("--dir").arg(dir);
        for (name, value) in [
            ("--rate", plan.rate.to_string()),
            ("--threads", plan.threads.to_string()),
            ("--clock", plan.clock.name().to_owned()),
            ("--delay", plan.delay.to_string()),
            ("--seed", plan.seed.to_string()),
        ] {
            command.args([name, &value]);
        }
        if !plan.cores.is_empty() {
            let cores: Vec<String> = plan.cores.iter().map(usize::to_string).collect();
            command.args(["--cores", &cores.join(",")]);
        }
        if let Some(seconds) = plan.seconds {
            command.args(["--seconds", &seconds.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().with_context(cannot)?).stderr(log);
        let child = command.spawn().context("cannot start the storm (a tight `ulimit -u` or `-v`?)")?;
        Ok(Stormer { dir, child, stats })
    }

    fn words(&self) -> Result<[u64; STORM_WORDS]> {
        let mut bytes = [0; STORM_WORDS * 8];
        self.stats.read_exact_at(&mut bytes, 0).context("cannot read the storm's counts")?;
        let mut words = [0; STORM_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(words)
    }

    fn ask_for_an_end(&self) -> Result<()> {
        let word = 1u64.to_le_bytes();
        self.stats.write_all_at(&word, STOP as u64 * 8).context("cannot ask the storm for an end")
    }

    /// Its memory, and its state as the kernel has it.
    fn look(&self, memory: &mut Memory, warm: bool) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let pages: u64 = fields.get(21)?.parse().ok()?;
        let kib = pages * 4;
        if warm {
            if memory.warm == 0 {
                memory.warm = kib;
            }
            memory.peak = memory.peak.max(kib);
            memory.last = kib;
        }
        fields.first()?.chars().next()
    }

    /// How it ended.
    fn ended(&self, status: ExitStatus) -> Option<Finding> {
        match status.code() {
            Some(0) => None,
            // A Ctrl-C that came before it could block it: this process has it, too.
            None if status.signal() == Some(Signal::SIGINT as i32) => None,
            Some(FOUND | BROKEN) => Some(self.finding().unwrap_or_else(|error| {
                let summary = format!("the storm {}, but {error:#}", death::describe(status));
                death::finding(Verdict::HarnessError, summary, self.log())
            })),
            _ => {
                let log = self.log();
                // What the standard library says before it gives up.
                if log.iter().any(|line| line.starts_with("memory allocation of ")) {
                    let summary = "the storm ran out of memory (a tight `ulimit -v`?)".to_owned();
                    return Some(death::finding(Verdict::HarnessError, summary, log));
                }
                let mut finding = death::judge(status, true, log);
                finding.summary = finding.summary.replace("while it ran this schedule", "in the storm");
                Some(finding)
            }
        }
    }

    /// What it left before it ended.
    fn finding(&self) -> Result<Finding> {
        let json = fs::read(self.dir.join("finding.json")).context("its finding.json cannot be read")?;
        serde_json::from_slice(&json).context("its finding.json makes no sense")
    }

    fn log(&self) -> Vec<String> {
        child::Tail::of(&fs::read(self.dir.join("log")).unwrap_or_default()).lines()
    }

    fn stop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Stormer<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
