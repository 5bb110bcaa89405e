//! The child in which a storm blows, from its start to its end.

use std::fs;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sigstorm_inject::allowed_cores;

use super::{GLANCE, LOOK, PAUSED};
use crate::outcome::{Finding, Verdict};
use crate::process::cores::Cores;
use crate::process::counters::{PULSE, Words};
use crate::process::{Child, Task};
use crate::report::inconclusive::{Inconclusive, LEAST_SHARE};
use crate::storm::{MAX_THREADS, StormCounts, StormOptions};

/// A child whose pulse stands still for so long hangs.
const STILL: Duration = Duration::from_secs(60);
/// When its memory is first measured: everything has been used once.
const WARM: Duration = Duration::from_secs(2);

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

/// The state of a storm, or its result.
#[derive(Clone, Debug)]
pub struct Blown {
    /// Its counts.
    pub counts: StormCounts,
    /// How long it took, until the finding.
    pub seconds: f64,
    /// The child's memory.
    pub memory: Memory,
    /// The violation, if there was one.
    pub finding: Option<Finding>,
    /// The share of a core that each of its threads had, as far as there are cores for them.
    pub share: Option<f64>,
}

impl Blown {
    /// Why there is no answer, if there is none.
    pub fn inconclusive(&self) -> Option<Inconclusive> {
        match &self.finding {
            Some(_) => None,
            None if self.counts.signals == 0 => Some(Inconclusive::Signals),
            None if self.share.is_some_and(|share| share < LEAST_SHARE) => Some(Inconclusive::CoreTime),
            None => None,
        }
    }
}

/// How many threads run goroutines where nothing is said: one for each core.
pub fn usual_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// The cores that a storm takes: one for each thread and one for the collector, as far as there are
/// so many. Where there are more, the storm keeps to its own.
///
/// # Errors
/// Where the affinity mask cannot be read.
pub fn take_cores(options: &mut StormOptions) -> Result<Cores> {
    let allowed = allowed_cores().context("cannot read the affinity mask")?.len();
    let wanted = options.threads + 1;
    let cores = Cores::take(wanted.min(allowed))?;
    options.cores = if wanted < allowed { cores.nths() } else { Vec::new() };
    Ok(cores)
}

/// Blows until something is found, time is up, or `stop` is set; shows `watch` now and then
/// how it stands. No child is left.
pub fn blow(plan: &StormOptions, stop: &AtomicBool, mut watch: impl FnMut(&Blown)) -> Result<Blown> {
    let dir = super::folder()?;
    let task = Task::Stormer(StormOptions { dir: dir.path().to_owned(), ..plan.clone() });
    let mut child = Child::start(None, &task, |_| {})?;
    let begun = Instant::now();
    let mut blown = Blown {
        counts: StormCounts::default(),
        seconds: 0.0,
        memory: Memory::default(),
        finding: None,
        share: None,
    };
    let allowed = allowed_cores().map_or(1, |cores| cores.len());
    let most = plan.threads.min(if plan.cores.is_empty() { allowed } else { plan.cores.len() }).max(1);
    let (mut looked, mut moved, mut pulse, mut asked) = (begun, begun, 0, false);
    let status = loop {
        thread::sleep(GLANCE);
        if let Some(status) = child.ended()? {
            break status;
        }
        if stop.load(Ordering::SeqCst) && !asked {
            asked = true;
            child.ask_for_end()?;
        }
        let now = Instant::now();
        if now - looked < LOOK {
            continue;
        }
        // After a pause of this process (Ctrl-Z) the child has paused, too.
        let paused = now - looked > PAUSED;
        looked = now;
        let words = child.words()?;
        blown.counts = counts(&words);
        blown.seconds = begun.elapsed().as_secs_f64();
        child.pace.look(now);
        blown.share = child.pace.share().map(|share| share / most as f64);
        let state = look(&child, &mut blown.memory, now - begun >= WARM);
        if words[PULSE] != pulse || paused || state == Some('T') {
            (pulse, moved) = (words[PULSE], now);
        }
        if now - moved > STILL {
            child.stop();
            let summary = format!("the storm did not get on for {} s", STILL.as_secs());
            blown.finding = Some(child.harness_error(summary));
            return Ok(blown);
        }
        watch(&blown);
    };
    blown.seconds = begun.elapsed().as_secs_f64();
    blown.counts = counts(&child.words()?);
    blown.finding = ended(&child, status);
    Ok(blown)
}

fn counts(words: &Words) -> StormCounts {
    let mut counts = [0; StormCounts::WORDS];
    counts.copy_from_slice(&words[..StormCounts::WORDS]);
    StormCounts::from_words(counts)
}

/// Measures its memory. Returns its state as the kernel has it: `T` where it was stopped.
fn look(child: &Child, memory: &mut Memory, warm: bool) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()?)).ok()?;
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

/// The finding that its end means, if any.
fn ended(child: &Child, status: ExitStatus) -> Option<Finding> {
    let mut finding = child.finding(status, || None)?.finding;
    // The standard library says so before it gives up.
    if finding.verdict == Verdict::Fault.name()
        && finding.evidence.iter().any(|line| line.starts_with("memory allocation of "))
    {
        let summary = "the storm ran out of memory (a tight `ulimit -v`?)".to_owned();
        return Some(child.harness_error(summary));
    }
    finding.summary = finding.summary.replace("while it ran this schedule", "in the storm");
    Some(finding)
}
