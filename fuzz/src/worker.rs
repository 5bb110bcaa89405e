//! A process in which the embedded engine explores: `sigstorm worker`.
//!
//! The engine is libFuzzer, driven through its library entry. It chooses what to mutate by
//! the interleaving feedback; how is ours ([`generate`](crate::generate)). Most schedules are made
//! from nothing and run beside the engine, which hears of the one in a batch that came to most that is
//! new: they find as much, and the engine's book-keeping takes a fifth of a run's time. The process
//! shares two small files with its parent: counters, and the schedule under way, so that
//! whatever ends the process, the parent knows what it was doing.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sigstorm_runtime::{Defect, instrument::canary};

use crate::current::Current;
use crate::executor::{Harness, ScheduleSource, feedback};
use crate::generate::{Generator, put};
use crate::outcome::{Counts, Finding, Run, Verdict};
use crate::schedule::{MAX_STEPS, STEP_BYTES, Schedule};
use crate::shared::Shared;

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Where it finds `stats` and `current`, and leaves what it finds.
    pub dir: PathBuf,
    /// The core it is pinned to, counted round and round.
    pub core: usize,
    /// Where its random choices begin.
    pub seed: u64,
    /// The schedules' length, if it is fixed.
    pub steps: Option<usize>,
    /// How many schedules it may run.
    pub runs: Option<u64>,
    /// How long it may take.
    pub seconds: Option<u64>,
    /// The corpus folder, which workers share.
    pub corpus: Option<PathBuf>,
    /// Random schedules, without an engine and its feedback.
    pub random: bool,
    /// What is planted in the core.
    pub defects: Vec<Defect>,
}

/// Exit status after a violation.
pub const FOUND: i32 = 77;
/// Exit status after a harness error.
pub const BROKEN: i32 = 78;

/// Words of the file `stats`; the counts come first.
pub const STATS_WORDS: usize = 192;
/// The word with the number of features.
pub const FEATURES: usize = 160;
/// The word that changes while the worker lives.
pub const HEARTBEAT: usize = 162;
/// Two words each, once it is so: schedules and microseconds until the first defect's faulty
/// code had run,
pub const REACHED: usize = 168;
/// until its condition had held,
pub const TRIGGERED: usize = 170;
/// and until something was found.
pub const DETECTED: usize = 172;

// The engine comes with this crate, of which no Rust item is used.
use libfuzzer_sys as _;

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        callback: unsafe extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

/// So many schedules are made from nothing for each that is made from another.
const AHEAD: u32 = 63;

/// Without an engine so many run in a row: a fraction of the time after which they count as one that hangs.
const AT_RANDOM: u32 = 1_000;

struct Worker {
    harness: Harness,
    desk: Desk,
}

/// What goes with the runs: where schedules come from, and what is told about them.
struct Desk {
    options: WorkerOptions,
    generator: Generator,
    current: Current,
    /// The counts' words hold their sum over all runs.
    stats: Shared,
    schedules: u64,
    begun: Instant,
    until: Option<Instant>,
    /// Of reached and triggered, what has been published.
    marked: [bool; 2],
}

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Explores until the budget is used up or something is found; ends the process itself.
/// The exit status where it could not begin, or where the engine came back.
pub fn run(options: WorkerOptions) -> u8 {
    let begun = begin(options.clone());
    match begun {
        Ok(worker) => WORKER.set(Some(worker)),
        Err(error) => {
            eprintln!("{error}");
            let finding = Finding {
                verdict: Verdict::HarnessError.name().to_owned(),
                summary: error.to_string(),
                evidence: Vec::new(),
                dump: Vec::new(),
                step: 0,
            };
            leave(&options.dir, &[], &finding);
            return BROKEN as u8;
        }
    }
    if options.random {
        WORKER.with_borrow_mut(|worker| worker.as_mut().map(Worker::run_at_random));
    }
    let arguments = match engine_arguments(&options) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return BROKEN as u8;
        }
    };
    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let mut argc = arguments.len() as c_int;
    let mut argv = pointers.as_mut_ptr();
    // SAFETY: a null-terminated vector of C strings that outlives the call; the engine copies
    // what it keeps.
    unsafe { LLVMFuzzerRunDriver(&mut argc, &mut argv, one_input) };
    eprintln!("the engine came back by itself");
    BROKEN as u8
}

fn begin(options: WorkerOptions) -> Result<Worker, Box<dyn std::error::Error>> {
    let stats = Shared::map(&options.dir.join("stats"), STATS_WORDS * 8)?;
    let current = Current::map(&options.dir.join("current"))?;
    let begun = Instant::now();
    let harness = Harness::new(options.core, &options.defects)?;
    let generator = Generator::new(options.seed, options.steps);
    let until = options.seconds.map(|s| begun + Duration::from_secs(s));
    let (schedules, marked) = (0, [false; 2]);
    let desk = Desk { generator, current, stats, schedules, begun, until, marked, options };
    Ok(Worker { harness, desk })
}

fn engine_arguments(options: &WorkerOptions) -> Result<Vec<CString>, std::ffi::NulError> {
    let mut arguments = vec![
        "sigstorm".to_owned(),
        // Zero would mean a seed of the engine's own choice.
        format!("-seed={}", (options.seed as u32).max(1)),
        format!("-max_len={}", options.steps.unwrap_or(MAX_STEPS.min(256)) * STEP_BYTES),
        "-len_control=0".to_owned(),
        // A tenth of a run's time each, for no more finds.
        "-entropic=0".to_owned(),
        "-reduce_inputs=0".to_owned(),
        "-verbosity=0".to_owned(),
        "-timeout=300".to_owned(),
        "-rss_limit_mb=0".to_owned(),
        "-handle_segv=0".to_owned(),
        "-handle_bus=0".to_owned(),
        "-handle_ill=0".to_owned(),
        "-detect_leaks=0".to_owned(),
        "-reload=0".to_owned(),
        format!("-artifact_prefix={}/", options.dir.display()),
    ];
    if let Some(corpus) = &options.corpus {
        arguments.push(corpus.display().to_string());
    }
    arguments.into_iter().map(CString::new).collect()
}

unsafe extern "C" fn one_input(data: *const u8, size: usize) -> c_int {
    // SAFETY: the engine passes a buffer of that size; it may pass none for an empty one.
    let bytes = if size == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(data, size) } };
    WORKER.with_borrow_mut(|worker| worker.as_mut().map_or(0, |worker| worker.one(bytes)))
}

impl Worker {
    /// One schedule after the other, each made from nothing.
    fn run_at_random(&mut self) -> ! {
        loop {
            self.run_ahead(AT_RANDOM);
        }
    }

    /// Runs so many schedules that are made from nothing. The one that came to most that is new, if
    /// any did.
    fn run_ahead(&mut self, count: u32) -> Option<Schedule> {
        let mut ahead =
            Ahead { desk: &mut self.desk, left: count, last: Schedule::default(), seen: seen(), best: None };
        if let Some(run) = self.harness.run_all(&mut ahead) {
            self.desk.found(&run);
        }
        ahead.best.map(|(_, schedule)| schedule)
    }

    fn one(&mut self, bytes: &[u8]) -> c_int {
        self.desk.current.brought(bytes);
        let run = self.harness.run(&Schedule::decode(bytes), false);
        if run.finding.is_some() {
            self.desk.found(&run);
        }
        self.desk.ended(&run.counts);
        0
    }
}

/// Schedules made from nothing.
struct Ahead<'a> {
    desk: &'a mut Desk,
    left: u32,
    last: Schedule,
    /// How many features there were before the last.
    seen: u64,
    /// How many the one that came to most brought, and which that is. An engine that hears of each has
    /// more to keep than it can choose from, and does little else in its first seconds.
    best: Option<(u64, Schedule)>,
}

/// How many features were seen so far. Asked where no run is under way.
fn seen() -> u64 {
    // SAFETY: no run is under way (above).
    unsafe { feedback::seen() }
}

impl ScheduleSource for Ahead<'_> {
    fn next(&mut self) -> Option<&Schedule> {
        self.left = self.left.checked_sub(1)?;
        self.last = self.desk.current.make(&mut self.desk.generator);
        Some(&self.last)
    }

    fn ended(&mut self, counts: &Counts) {
        let new = seen() - self.seen;
        self.seen += new;
        if new > self.best.as_ref().map_or(0, |(most, _)| *most) {
            self.best = Some((new, std::mem::take(&mut self.last)));
        }
        self.desk.ended(counts);
    }
}

impl Desk {
    fn counted(&mut self, counts: &Counts) {
        self.current.ended();
        self.schedules += counts.schedules;
        for (word, &value) in counts.words().iter().enumerate() {
            self.stats.set(word, self.stats.get(word) + value);
        }
        self.stats.set(FEATURES, seen());
        self.stats.set(HEARTBEAT, self.schedules);
        self.publish_marks();
    }

    /// A run has ended without a finding. Ends the process where that was the last.
    fn ended(&mut self, counts: &Counts) {
        self.counted(counts);
        let enough = self.options.runs.is_some_and(|runs| self.schedules >= runs);
        // After each: on a machine with other work a schedule may take a second.
        let late = self.until.is_some_and(|until| Instant::now() >= until);
        if enough || late {
            exit(0);
        }
    }

    /// A run has come to a finding.
    fn found(&mut self, run: &Run) -> ! {
        self.counted(&run.counts);
        self.mark(DETECTED);
        if let Some(finding) = &run.finding {
            leave(&self.options.dir, &self.current.bytes(), finding);
        }
        exit(if run.verdict() == Some(Verdict::HarnessError) { BROKEN } else { FOUND });
    }

    fn publish_marks(&mut self) {
        if let Some(&defect) = self.options.defects.first()
            && self.marked != [true; 2]
        {
            let now = [canary::reached(defect), canary::triggered(defect)];
            for (index, word) in [REACHED, TRIGGERED].into_iter().enumerate() {
                if now[index] && !self.marked[index] {
                    self.mark(word);
                }
            }
            self.marked = now;
        }
    }

    /// Publishes that it is so from now on.
    fn mark(&self, word: usize) {
        let elapsed = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.set(word + 1, elapsed.max(1));
        self.stats.set(word, self.schedules);
    }
}

/// Ends the process at once: threads wait for a baton that will not come, and the engine's
/// own handlers at exit have nothing to add.
fn exit(status: i32) -> ! {
    // SAFETY: ends the process; nothing of it is left to be unsound.
    unsafe { libc::_exit(status) }
}

/// Leaves a finding for the parent.
fn leave(dir: &Path, bytes: &[u8], finding: &Finding) {
    let written = fs::write(dir.join("finding.bin"), bytes)
        .and_then(|()| Ok(serde_json::to_vec(finding)?))
        .and_then(|json| fs::write(dir.join("finding.json"), json));
    if let Err(error) = written {
        eprintln!("the finding cannot be written to {}: {error}", dir.display());
        eprintln!("{}: {}\n{}", finding.verdict, finding.summary, Schedule::decode(bytes));
    }
}

/// The engine wants an input made from this one: the body of `LLVMFuzzerCustomMutator`.
///
/// `data` holds `size` bytes of input and takes the new ones; returns their number.
pub fn mutate(data: &mut [u8], size: usize) -> usize {
    WORKER.with_borrow_mut(|worker| {
        let Some(worker) = worker.as_mut() else { return size };
        match worker.run_ahead(AHEAD) {
            // The engine runs it once more, and keeps it.
            Some(new) => put(&new, data),
            None => worker.desk.generator.mutate_bytes(data, size),
        }
    })
}

/// The engine wants an input made from two: the body of `LLVMFuzzerCustomCrossOver`.
pub fn cross(one: &[u8], other: &[u8], out: &mut [u8]) -> usize {
    WORKER.with_borrow_mut(|worker| {
        let Some(worker) = worker.as_mut() else { return 0 };
        worker.desk.generator.cross_bytes(one, other, out)
    })
}
