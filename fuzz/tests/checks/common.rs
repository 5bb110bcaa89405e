//! A check, and the two kinds of run in which it must fire.

use core::sync::atomic::{AtomicBool, Ordering};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::{Condvar, Mutex};
use std::{env, fs, iter};

use sigstorm::executor::Harness;
use sigstorm::generate::Generator;
use sigstorm::outcome::{Counts, Finding, Verdict};
use sigstorm::process::{Status, mailbox};
use sigstorm::schedule::Schedule;
use sigstorm::storm::{self, StormCounts, StormOptions};
use sigstorm::tamper::{self, Tamperer, Told};
use sigstorm_runtime::instrument::tamper::{read, write};
use sigstorm_runtime::profiler::trace_buffer::Event;
use sigstorm_runtime::profiler::{Profiler, Sample};
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::{G, M, Phase, Point, Runtime};

use crate::child;

/// The test of a child, and which run of it.
const NAME: &str = "SIGSTORM_CHECK";
const KIND: &str = "SIGSTORM_CHECK_KIND";
const SEED: &str = "SIGSTORM_CHECK_SEED";
const DIR: &str = "SIGSTORM_CHECK_DIR";
/// The file in a hunt's folder with what it has counted.
const HUNT_COUNTS: &str = "hunt";

/// Schedules of one hunt.
const SCHEDULES: usize = 1_500;
/// Hunts or storms with other seeds until the check is the first that speaks. Where one tampers with a
/// runtime whose other threads go on, another check may be quicker.
const TRIES: u64 = 20;

/// Does something that is unsafe because the runtime relies on what it changes.
macro_rules! meddle {
    ($does:expr) => {{
        // SAFETY: this process is there for the violation that follows; the calling thread stands at a
        // scheduling point, with the goroutine, machine or buffer in its hands or stopped.
        unsafe { $does }
    }};
}
pub(crate) use meddle;

/// A check: `check!(test_name, Verdict, "words of its summary", tamperer)`, and further calls on the
/// [`Check`] between them.
macro_rules! check {
    ($(#[$meta:meta])* $name:ident, $verdict:ident, $says:literal, $tamperer:expr $(, $with:ident($($value:expr),*))*) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            let name = name.split_once("::").map_or(name, |(_, name)| name);
            $crate::common::Check::new(name, sigstorm::outcome::Verdict::$verdict, $says, $tamperer)
                $(.$with($($value),*))*
                .fires();
        }
    };
}
pub(crate) use check;

/// How a storm blows.
#[derive(Clone, Copy, Debug)]
pub struct Blow {
    pub seconds: u64,
    pub threads: usize,
    pub rate: u32,
}

/// Many threads, many signals.
pub const BUSY: Blow = Blow { seconds: 2, threads: 2, rate: 1_000 };
/// One thread, few signals: for what must last to the end of a round.
pub const QUIET: Blow = Blow { seconds: 1, threads: 1, rate: 1 };

/// A check of the oracle, and how the runtime is broken for it.
#[derive(Clone, Copy)]
pub struct Check {
    name: &'static str,
    verdict: Verdict,
    says: &'static str,
    hunt: Tamperer,
    storm: Tamperer,
    /// Its words in a storm, where they are others.
    storm_says: &'static str,
    /// The schedule of its hunt; random ones without.
    schedule: Option<&'static str>,
    blow: Blow,
}

impl Check {
    pub fn new(name: &'static str, verdict: Verdict, says: &'static str, tamperer: Tamperer) -> Check {
        Check {
            name,
            verdict,
            says,
            hunt: tamperer,
            storm: tamperer,
            storm_says: says,
            schedule: None,
            blow: BUSY,
        }
    }

    /// The hunt runs this schedule, and no random ones.
    pub fn schedule(mut self, text: &'static str) -> Check {
        self.schedule = Some(text);
        self
    }

    /// The storm blows like this.
    pub fn blow(mut self, blow: Blow) -> Check {
        self.blow = blow;
        self
    }

    /// The storm is tampered with in another way.
    pub fn storm(mut self, tamperer: Tamperer) -> Check {
        self.storm = tamperer;
        self
    }

    /// The storm says it in other words.
    pub fn storm_says(mut self, says: &'static str) -> Check {
        self.storm_says = says;
        self
    }

    /// The check fires in both.
    #[track_caller]
    pub fn fires(self) {
        if env::var(NAME).is_ok_and(|name| name == self.name) {
            self.child();
        }
        for (kind, says) in [(Kind::Hunt, self.says), (Kind::Storm, self.storm_says)] {
            // The same schedule comes to the same end every time.
            let tries = if kind == Kind::Hunt && self.schedule.is_some() { 1 } else { TRIES };
            let mut others = Vec::new();
            let fired = (0..tries).any(|seed| {
                let Some(Finding { verdict, summary, .. }) = self.run(kind, seed).finding else {
                    others.push("nothing".to_owned());
                    return false;
                };
                assert_ne!(verdict, Verdict::HarnessError.name(), "{kind:?} {seed}: {summary}");
                let fired = verdict == self.verdict.name() && summary.contains(says);
                if !fired {
                    others.push(format!("{verdict}: {summary}"));
                }
                fired
            });
            println!("{} {kind:?}: others spoke first in {} runs", self.name, others.len());
            assert!(fired, "{kind:?}: nobody says \"{says}\" ({}), but\n{}", self.verdict, others.join("\n"));
        }
    }

    /// Nobody says anything in either, and the hunt has run its schedules. What the storm has counted.
    #[track_caller]
    pub fn is_silent(self) -> StormCounts {
        if env::var(NAME).is_ok_and(|name| name == self.name) {
            self.child();
        }
        let [hunt, storm] = [Kind::Hunt, Kind::Storm].map(|kind| {
            let ran = self.run(kind, 1);
            assert!(ran.finding.is_none(), "{kind:?}: {:?}", ran.finding);
            ran
        });
        let Counts { schedules, steps, signals, tracebacks, .. } = hunt.hunt;
        assert_eq!(schedules, SCHEDULES as u64, "schedules of the hunt");
        assert!(steps > schedules && signals > schedules && tracebacks > 0, "{:?}", hunt.hunt);
        storm.storm
    }

    /// Nobody says anything in the storm with this seed. What it has counted.
    #[track_caller]
    pub fn blows(self, seed: u64) -> StormCounts {
        if env::var(NAME).is_ok_and(|name| name == self.name) {
            self.child();
        }
        let ran = self.run(Kind::Storm, seed);
        assert!(ran.finding.is_none(), "{:?}", ran.finding);
        ran.storm
    }

    fn tamperer(&self, kind: Kind) -> Tamperer {
        match kind {
            Kind::Hunt => self.hunt,
            Kind::Storm => self.storm,
        }
    }

    /// One run in a child.
    #[track_caller]
    fn run(&self, kind: Kind, seed: u64) -> Ran {
        let _turn = Turn::take();
        let dir = Folder::new(self.name, kind, seed);
        mailbox::create(&dir.0).expect("to write the storm's counts");
        let ended = child::run(self.name, |command| {
            command.env(NAME, self.name).env(KIND, kind.name()).env(SEED, seed.to_string()).env(DIR, &dir.0);
        });
        let finding = fs::read(dir.0.join("finding.json")).ok();
        let finding: Option<Finding> =
            finding.map(|json| serde_json::from_slice(&json).expect("a finding as JSON"));
        let status = match &finding {
            Some(finding) if finding.verdict == Verdict::HarnessError.name() => Status::Broken,
            Some(_) => Status::Found,
            None => Status::Done,
        };
        assert!(ended.ended_with(status.code()), "{kind:?} {seed}: {finding:?}\n{}", ended.told());
        let storm = StormCounts::from_words(words(&dir.0.join("stats")));
        let hunt = match kind {
            Kind::Hunt => Counts::from_words(words(&dir.0.join(HUNT_COUNTS))),
            Kind::Storm => Counts::default(),
        };
        Ran { finding, storm, hunt }
    }

    /// The child's side: never comes back.
    fn child(&self) -> ! {
        let seed = env::var(SEED).expect("a seed").parse().expect("a number");
        let dir = PathBuf::from(env::var_os(DIR).expect("a folder"));
        let kind = if env::var(KIND).is_ok_and(|kind| kind == "hunt") { Kind::Hunt } else { Kind::Storm };
        IN_STORM.store(kind == Kind::Storm, Ordering::SeqCst);
        tamper::install(self.tamperer(kind));
        match kind {
            Kind::Storm => storm::run(StormOptions {
                dir,
                seconds: Some(self.blow.seconds),
                rate: self.blow.rate,
                threads: self.blow.threads,
                seed,
                ..StormOptions::default()
            }),
            Kind::Hunt => {
                let (finding, counts) = hunt(seed, self.schedule);
                let words: Vec<u8> = counts.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
                fs::write(dir.join(HUNT_COUNTS), words).expect("to write the hunt's counts");
                let Some(finding) = finding else { exit(Status::Done.code()) };
                fs::write(dir.join("finding.json"), serde_json::to_vec(&finding).expect("JSON"))
                    .expect("to write the finding");
                if finding.verdict == Verdict::HarnessError.name() {
                    Status::Broken.exit()
                }
                Status::Found.exit()
            }
        }
    }
}

/// The first finding of a hunt, and what was counted until then.
fn hunt(seed: u64, text: Option<&str>) -> (Option<Finding>, Counts) {
    let mut harness = Harness::new(sigstorm_inject::nearest(), &[]).expect("a harness");
    let mut generator = Generator::new(seed, None);
    let fixed = text.map(|text| {
        let text = format!("# sigstorm schedule 1\n{text}");
        Schedule::parse(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
    });
    let times = if fixed.is_some() { 1 } else { SCHEDULES };
    let mut schedules = iter::repeat_with(|| fixed.clone().unwrap_or_else(|| generator.schedule()));
    let mut counts = Counts::default();
    let finding = (0..times).find_map(|_| {
        let run = harness.run(&schedules.next()?, false);
        counts.add(&run.counts);
        run.finding
    });
    (finding, counts)
}

/// Which kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hunt,
    Storm,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Hunt => "hunt",
            Kind::Storm => "storm",
        }
    }
}

/// The outcome of a run.
struct Ran {
    finding: Option<Finding>,
    storm: StormCounts,
    hunt: Counts,
}

/// The words in a file of counts.
fn words<const N: usize>(path: &Path) -> [u64; N] {
    let bytes = fs::read(path).expect("the counts of the run");
    assert!(bytes.len() >= N * 8, "{}: {} bytes", path.display(), bytes.len());
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// A folder for one run, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, kind: Kind, seed: u64) -> Folder {
        let name = format!("{}-{}-{}-{seed}", std::process::id(), name.replace("::", "-"), kind.name());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("a folder for the run");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// As many runs at a time as there are cores: storms of more threads than cores would only be slow.
struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    fn take() -> Turn {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        let taken = TURNS.0.lock().expect("nobody panics in here");
        *TURNS.1.wait_while(taken, |taken| *taken >= most).expect("nobody panics in here") += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock().expect("nobody panics in here") -= 1;
        TURNS.1.notify_one();
    }
}

// -- for tamperers ------------------------------------------------------------------------

static IN_STORM: AtomicBool = AtomicBool::new(false);

/// Whether this process is a storm's.
pub fn in_storm() -> bool {
    IN_STORM.load(Ordering::SeqCst)
}

/// Whether this is the first call in this process.
pub fn first() -> bool {
    static CALLED: AtomicBool = AtomicBool::new(false);
    !CALLED.swap(true, Ordering::SeqCst)
}

/// Changes each sample once its handler has taken it.
pub fn each_sample(point: Point, change: impl FnOnce(&mut Sample)) -> Told {
    if point == Point::SampleTaken
        && let Some(m) = M::of_thread()
    {
        meddle!(m.change_sample(change));
    }
    Told::Yes
}

/// Changes each event as it is traced.
pub fn each_event(point: Point, change: impl FnOnce(&mut Event)) -> Told {
    if point == Point::TraceEvent
        && let Some(m) = M::of_thread()
    {
        meddle!(m.change_event(change));
    }
    Told::Yes
}

/// Puts a value into an empty slot of the innermost frame, as that has changed its caller's PC.
pub fn overwrite_empty_slot(point: Point, value: usize) -> Told {
    if point == Point::SetPcDone
        && let Some((_, g)) = asking(point)
        && let Some(slot) = meddle!(g.slot_address(0, 0))
        && meddle!(read(slot)) == 0
    {
        meddle!(write(slot, value));
    }
    Told::Yes
}

/// The calling thread's machine and goroutine, where its goroutine asks and its handler comes to its end
/// or has begun, or it changes its caller's PC.
pub fn asking(point: Point) -> Option<(&'static M, &'static G)> {
    let m = M::of_thread()?;
    let g = m.current()?;
    matches!(point, Point::HandlerEnd | Point::SetPcDone | Point::BulkDone).then_some((m, g))
}

/// Whether a storm's round is at its end. In a hunt it is always about to be.
pub fn ends() -> bool {
    !in_storm() || tamper::round_ends()
}

/// The runtime and the calling machine, where every goroutine has ended and the collector is off.
pub fn at_the_end(point: Point) -> Option<(&'static Runtime, &'static M)> {
    let m = M::of_thread().filter(|_| matches!(point, Point::GReleased | Point::PhaseChanged))?;
    let over = |g: &G| matches!(g.status.get(), status::IDLE | status::DEAD);
    let all = m.runtime.goroutines().iter().all(over) && m.runtime.phase() == Phase::Off;
    (all && ends()).then_some((m.runtime, m))
}

/// At a handler's end, if nobody reads the profiler's buffers: has them to itself for a moment, with the
/// machine that was interrupted.
pub fn between_reads(point: Point, change: impl FnOnce(&'static M, &'static Profiler)) -> Told {
    if point == Point::HandlerEnd
        && let Some(m) = M::of_thread()
    {
        let profiler = m.runtime.profiler();
        if !meddle!(profiler.pretend_reading(true)) {
            change(m, profiler);
            meddle!(profiler.pretend_reading(false));
        }
    }
    Told::Yes
}
