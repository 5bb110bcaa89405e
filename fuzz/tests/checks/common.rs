//! A check, and the two kinds of run in which it must fire.

use core::sync::atomic::{AtomicBool, Ordering};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio, exit};
use std::sync::{Condvar, Mutex};
use std::{env, fs, iter};

use sigstorm::executor::Harness;
use sigstorm::generate::Generator;
use sigstorm::outcome::{Finding, Verdict};
use sigstorm::process::{Status, mailbox};
use sigstorm::schedule::Schedule;
use sigstorm::storm::{self, StormCounts, StormOptions};
use sigstorm::tamper::{self, Tamperer, Told};
use sigstorm_runtime::profiler::Sample;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::{G, M, Phase, Point, Runtime};

/// Environment variables that tell a child its test, and which run of it.
const NAME: &str = "SIGSTORM_CHECK";
const KIND: &str = "SIGSTORM_CHECK_KIND";
const SEED: &str = "SIGSTORM_CHECK_SEED";
const DIR: &str = "SIGSTORM_CHECK_DIR";

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
    /// The check's words in a storm, where they are others.
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
            let mut others = Vec::new();
            let fired = (0..TRIES).any(|seed| match self.run(kind, seed).finding {
                Some(finding) if finding.verdict == self.verdict.name() && finding.summary.contains(says) => {
                    true
                }
                Some(Finding { verdict, summary, .. }) => {
                    others.push(format!("{verdict}: {summary}"));
                    false
                }
                None => {
                    others.push("nothing".to_owned());
                    false
                }
            });
            println!("{} {kind:?}: others spoke first in {} runs", self.name, others.len());
            assert!(fired, "{kind:?}: nobody says \"{says}\" ({}), but\n{}", self.verdict, others.join("\n"));
        }
    }

    /// Asserts that no check speaks in either; returns the storm's counts.
    #[track_caller]
    pub fn is_silent(self) -> StormCounts {
        if env::var(NAME).is_ok_and(|name| name == self.name) {
            self.child();
        }
        let mut counts = StormCounts::default();
        for kind in [Kind::Hunt, Kind::Storm] {
            let ran = self.run(kind, 1);
            assert!(ran.finding.is_none(), "{kind:?}: {:?}", ran.finding);
            counts = ran.counts;
        }
        counts
    }

    /// Asserts that no check speaks in the storm with this seed; returns its counts.
    #[track_caller]
    pub fn blows(self, seed: u64) -> StormCounts {
        if env::var(NAME).is_ok_and(|name| name == self.name) {
            self.child();
        }
        let ran = self.run(Kind::Storm, seed);
        assert!(ran.finding.is_none(), "{:?}", ran.finding);
        ran.counts
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
        let output = Command::new(env::current_exe().expect("the test's own path"))
            .args([self.name, "--exact", "--nocapture", "--test-threads=1"])
            .env(NAME, self.name)
            .env(KIND, kind.name())
            .env(SEED, seed.to_string())
            .env(DIR, &dir.0)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .output()
            .expect("a child process");
        let finding = fs::read(dir.0.join("finding.json")).ok();
        let finding: Option<Finding> =
            finding.map(|json| serde_json::from_slice(&json).expect("a finding as JSON"));
        let expected = if finding.is_some() { Some(Status::Found.code()) } else { Some(Status::Done.code()) };
        let broken = finding.as_ref().is_some_and(|f| f.verdict == Verdict::HarnessError.name());
        assert!(broken || output.status.code() == expected, "{kind:?} {seed}: {}", told(&output));
        Ran { finding, counts: counts(&dir.0) }
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
                let Some(finding) = hunt(seed, self.schedule) else { exit(0) };
                fs::write(dir.join("finding.json"), serde_json::to_vec(&finding).expect("JSON"))
                    .expect("to write the finding");
                Status::Found.exit()
            }
        }
    }
}

/// The first finding of a hunt.
fn hunt(seed: u64, text: Option<&str>) -> Option<Finding> {
    let mut harness = Harness::new(sigstorm_inject::nearest(), &[]).expect("a harness");
    let mut generator = Generator::new(seed, None);
    let fixed = text.map(|text| {
        let text = format!("# sigstorm schedule 1\n{text}");
        Schedule::parse(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
    });
    let times = if fixed.is_some() { 1 } else { SCHEDULES };
    let mut schedules = iter::repeat_with(|| fixed.clone().unwrap_or_else(|| generator.schedule()));
    (0..times).find_map(|_| harness.run(&schedules.next()?, false).finding)
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

/// The result of a run.
struct Ran {
    finding: Option<Finding>,
    counts: StormCounts,
}

fn counts(dir: &Path) -> StormCounts {
    let bytes = fs::read(dir.join("stats")).expect("the storm's counts");
    let mut words = [0; StormCounts::WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    }
    StormCounts::from_words(words)
}

fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
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

/// Has the profiler's buffers to itself for a moment, if nobody reads them.
pub fn without_reader(m: &'static M, change: impl FnOnce()) {
    let profiler = m.runtime.profiler();
    if !meddle!(profiler.pretend_reading(true)) {
        change();
        meddle!(profiler.pretend_reading(false));
    }
}
