//! A process in which the embedded engine explores: `sigstorm worker`.
//!
//! The engine is libFuzzer, driven through its library entry. It chooses what to mutate by
//! the interleaving feedback; how is ours ([`generate`](crate::generate)). Most schedules are made
//! from nothing and run beside the engine, which hears of the one in a batch that reached most that is
//! new: they find as much, and the engine's book-keeping takes a fifth of a run's time. The process
//! shares two small files with its parent: counters, and the schedule under way, so that
//! whatever ends the process, the parent knows what it was doing.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use sigstorm_runtime::instrument::canary;

use super::counters::{DETECTED, FEATURES, PULSE, REACHED, TRIGGERED};
use super::current::Current;
use super::shared::Shared;
use super::{Status, WorkerOptions, mailbox};
use crate::executor::{Harness, ScheduleSource, feedback};
use crate::generate::{Generator, put};
use crate::outcome::{Counts, Finding, Run, Verdict};
use crate::schedule::{MAX_STEPS, STEP_BYTES, Schedule};

// The engine comes with this crate, of which no Rust item is used.
use libfuzzer_sys as _;

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        callback: unsafe extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

/// Schedules made from nothing for each that is made from another.
const FRESH: u32 = 63;

/// Without an engine so many run in a row: a fraction of the time after which they count as one that hangs.
const AT_RANDOM: u32 = 1_000;

struct Worker {
    harness: Harness,
    reporter: Reporter,
}

/// The rest of a worker beside the harness: the source of its schedules, and all that it publishes.
struct Reporter {
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
pub fn run(options: WorkerOptions) -> Status {
    let begun = begin(options.clone());
    match begun {
        Ok(worker) => WORKER.set(Some(worker)),
        Err(error) => {
            eprintln!("{error}");
            let finding = Finding::harness_error(error.to_string());
            mailbox::leave(&options.dir, &[], &finding);
            return Status::Broken;
        }
    }
    if options.random {
        WORKER.with_borrow_mut(|worker| worker.as_mut().map(Worker::run_at_random));
    }
    let arguments = match engine_arguments(&options) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return Status::Broken;
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
    Status::Broken
}

fn begin(options: WorkerOptions) -> Result<Worker, Box<dyn std::error::Error>> {
    let stats = mailbox::map(&options.dir)?;
    let current = Current::map(&options.dir.join("current"))?;
    let begun = Instant::now();
    let harness = Harness::new(options.core, &options.defects)?;
    let generator = Generator::new(options.seed, options.steps);
    let until = options.seconds.map(|s| begun + Duration::from_secs(s));
    let (schedules, marked) = (0, [false; 2]);
    let reporter = Reporter { generator, current, stats, schedules, begun, until, marked, options };
    Ok(Worker { harness, reporter })
}

fn engine_arguments(options: &WorkerOptions) -> Result<Vec<CString>, std::ffi::NulError> {
    let arguments = vec![
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
    let mut arguments: Vec<Vec<u8>> = arguments.into_iter().map(String::into_bytes).collect();
    arguments.extend(options.corpus.as_ref().map(|corpus| corpus.as_os_str().as_bytes().to_vec()));
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
            self.run_fresh(AT_RANDOM);
        }
    }

    /// Runs so many schedules that are made from nothing. Returns the one that reached most that is new, if
    /// any did.
    fn run_fresh(&mut self, count: u32) -> Option<Schedule> {
        let mut fresh = FreshSchedules {
            reporter: &mut self.reporter,
            left: count,
            last: Schedule::default(),
            seen: seen(),
            best: None,
        };
        if let Some(run) = self.harness.run_all(&mut fresh) {
            self.reporter.found(&run);
        }
        fresh.best.map(|(_, schedule)| schedule)
    }

    fn one(&mut self, bytes: &[u8]) -> c_int {
        self.reporter.current.set_input(bytes);
        let run = self.harness.run(&Schedule::decode(bytes), false);
        if run.finding.is_some() {
            self.reporter.found(&run);
        }
        self.reporter.ended(&run.counts);
        0
    }
}

/// Schedules made from nothing.
struct FreshSchedules<'a> {
    reporter: &'a mut Reporter,
    left: u32,
    last: Schedule,
    /// How many features there were before the last.
    seen: u64,
    /// The one that reached most new features, and how many. An engine that hears of each has
    /// more to keep than it can choose from, and does little else in its first seconds.
    best: Option<(u64, Schedule)>,
}

/// How many features were seen so far. Asked where no run is under way.
fn seen() -> u64 {
    // SAFETY: no run is under way (above).
    unsafe { feedback::seen() }
}

impl ScheduleSource for FreshSchedules<'_> {
    fn next(&mut self) -> Option<&Schedule> {
        self.left = self.left.checked_sub(1)?;
        self.last = self.reporter.current.make(&mut self.reporter.generator);
        Some(&self.last)
    }

    fn ended(&mut self, counts: &Counts) {
        let new = seen() - self.seen;
        self.seen += new;
        if new > self.best.as_ref().map_or(0, |(most, _)| *most) {
            self.best = Some((new, std::mem::take(&mut self.last)));
        }
        self.reporter.ended(counts);
    }
}

impl Reporter {
    fn counted(&mut self, counts: &Counts) {
        self.current.ended();
        self.schedules += counts.schedules;
        for (word, &value) in counts.words().iter().enumerate() {
            self.stats.set(word, self.stats.get(word) + value);
        }
        self.stats.set(FEATURES, seen());
        self.stats.set(PULSE, self.schedules);
        self.publish_marks();
    }

    /// A run has ended without a finding. Ends the process where that was the last.
    fn ended(&mut self, counts: &Counts) {
        self.counted(counts);
        let enough = self.options.runs.is_some_and(|runs| self.schedules >= runs);
        // After each: on a machine with other work a schedule may take a second.
        let late = self.until.is_some_and(|until| Instant::now() >= until);
        if enough || late {
            Status::Done.exit();
        }
    }

    /// Reports a finding and ends the process.
    fn found(&mut self, run: &Run) -> ! {
        self.counted(&run.counts);
        self.mark(DETECTED);
        if let Some(finding) = &run.finding {
            mailbox::leave(&self.options.dir, &self.current.bytes(), finding);
        }
        match run.verdict() {
            Some(Verdict::HarnessError) => Status::Broken.exit(),
            _ => Status::Found.exit(),
        }
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

/// The engine wants an input made from this one: the body of `LLVMFuzzerCustomMutator`.
///
/// `data` holds `size` bytes of input and takes the new ones; returns their number.
pub fn mutate(data: &mut [u8], size: usize) -> usize {
    WORKER.with_borrow_mut(|worker| {
        let Some(worker) = worker.as_mut() else { return size };
        match worker.run_fresh(FRESH) {
            // The engine runs it once more, and keeps it.
            Some(new) => put(&new, data),
            None => worker.reporter.generator.mutate_bytes(data, size),
        }
    })
}

/// The engine wants an input made from two: the body of `LLVMFuzzerCustomCrossOver`.
pub fn cross(one: &[u8], other: &[u8], out: &mut [u8]) -> usize {
    WORKER.with_borrow_mut(|worker| {
        let Some(worker) = worker.as_mut() else { return 0 };
        worker.reporter.generator.cross_bytes(one, other, out)
    })
}
