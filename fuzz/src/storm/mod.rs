//! The storm: the same runtime and the same oracle, and nobody holds a baton.
//!
//! Under the baton a run is decided by its schedule. Real hardware runs threads at once, and
//! interrupts them between any two instructions, Rust code included. A storm does just
//! that: threads that run goroutines in endless random work, a collector in endless cycles,
//! a timer of the core's for every thread, and one thread that sends signals at random and turns the
//! profiling rate. The choices come from a seed, but which thread is where when a signal
//! comes does not, so nothing is replayed here: a storm says *that* something is wrong, with
//! all evidence, and a hunt says how.
//!
//! # What makes a verdict sound
//!
//! - A sample is judged in the handler that took it, by the shadow stack of the goroutine that the
//!   interrupted thread runs ([`seqlock`], [`witness`]).
//! - A skip for a held lock is held against a ledger of operations ([`ledger`]), the rate that a sample
//!   carries against the rates that were set ([`rate_log`]).
//! - Every operation runs in lock-step with the record, as in a controlled run ([`worker`]).
//! - Live objects are looked for while the world is stopped.
//! - A hang is told from slowness by what everybody got done ([`watch`]).
//! - Every few seconds a round ends: every goroutine returns from its frames, and then everything must be
//!   where it belongs, and every signal in some account. The next round has other options.
//!
//! [`run`] is the child's side, as `worker` is a hunt's: a violation ends the process.

mod background;
mod counts;
mod foreign;
mod hooks;
mod ledger;
pub mod options;
mod rate_log;
mod scene;
mod seqlock;
mod state;
mod thread;
mod watch;
mod witness;
mod worker;

use core::sync::atomic::Ordering;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sigstorm_inject::{self as inject, SignalStack};
use sigstorm_runtime::{Config, M, Runtime, profiler, unwind::fault};

pub use counts::StormCounts;
pub use options::{Clock, DEFAULT_RATE, Delay, MAX_DELAY, MAX_RATE, MAX_THREADS, StormOptions};

use crate::oracle::{Violation, ViolationKind, evidence};
use crate::outcome::Finding;
use crate::process::counters::{PULSE, STOP};
use crate::process::shared::Shared;
use crate::process::{Status, mailbox};
use state::{Stage, Storm};
use thread::{Activity, StormThread, rest};
use watch::Watchdog;
use worker::Worker;

const FOUND: i32 = Status::Found.code();
const BROKEN: i32 = Status::Broken.code();

/// How often counts are published and the parent's word is looked at.
const BEAT: Duration = Duration::from_millis(20);
/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long a round lasts.
const ROUND: Duration = Duration::from_secs(4);
/// How long everybody is waited for once something is wrong.
const PARKING: Duration = Duration::from_millis(1500);
/// Old stacks that are kept back, so that who still points there is found out.
const QUARANTINE: usize = 128;

/// Blows until time is up, it is told to stop, or something is found; ends the process.
pub fn run(options: StormOptions) -> ! {
    let dir = options.dir.clone();
    // A broken harness is no finding, and a thread that is gone would only hang the others.
    std::panic::set_hook(Box::new(move |panic| {
        leave(&dir, &Finding::harness_error(format!("a thread panicked: {panic}")));
        end(BROKEN)
    }));
    match begin(&options) {
        Ok(storm) => end(blow(storm, &options)),
        Err(error) => {
            eprintln!("{error}");
            leave(&options.dir, &Finding::harness_error(error.to_string()));
            end(BROKEN)
        }
    }
}

/// An error in setting up a storm.
#[derive(Debug, thiserror::Error)]
enum StormError {
    #[error(transparent)]
    Size(#[from] sigstorm_runtime::sched::runtime::ConfigError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StormError {
    move |source| StormError::System { what, source }
}

/// How a round's core is set up: barriers everywhere or where they usually lie, and stacks
/// that begin small or not so small.
fn config(round: u64, clock: Clock) -> Config {
    Config {
        timers: Some(clock),
        every_frame: round.is_multiple_of(2),
        initial_stack: [2048, 4096, 2048, 16_384][(round / 2 % 4) as usize],
        unreadable: if round % 3 == 2 { 64 } else { 0 },
        quarantine: QUARANTINE,
        trace: round % 4 < 2,
        keep_barriers: round % 3 == 1,
        scan_shrinks: round % 4 == 3,
        ..Config::DEFAULT
    }
}

fn begin(options: &StormOptions) -> Result<&'static Storm, StormError> {
    sigstorm_runtime::plant(&options.defects);
    let machines = options.threads + 1;
    let goroutines = (options.threads * 3 + 2).min(sigstorm_runtime::sched::runtime::MAX_GOROUTINES);
    let core = Runtime::leak_sized(config(0, options.clock), goroutines, machines)?;
    profiler::install().map_err(system("installing the SIGPROF handler"))?;
    fault::install().map_err(system("installing the fault handlers"))?;
    hooks::install().map_err(system("installing the handler that counts signals"))?;
    inject::handlers_on_signal_stack().map_err(system("moving handlers to signal stacks"))?;

    let mut rng = stream(options.seed, 0);
    let threads = (0..machines + 1)
        .map(|index| {
            let name = match index {
                index if index == machines => "disturber".to_owned(),
                index if index == options.threads => "gc".to_owned(),
                index => format!("m{}", index + 1),
            };
            let machine = (index < machines).then(|| M::leak(core, index as u8));
            StormThread::new(name, machine, machines, [rng.next_u64(), rng.next_u64()])
        })
        .collect();
    let storm = Storm::leak(core, threads, options.delay);
    background::set_rate_of(storm, options.rate);

    for index in 0..storm.threads.len() {
        start(storm, index, options)?;
    }
    Ok(storm)
}

/// Whether the threads of this process's storm finish what they have, at the end of a round.
#[cfg(debug_assertions)]
pub(crate) fn settles() -> bool {
    state::storm().is_some_and(|storm| storm.stage() == Stage::Settle)
}

/// One thread's random choices.
fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    rng
}

/// Starts a thread, and waits until it is ready.
fn start(storm: &'static Storm, index: usize, options: &StormOptions) -> Result<(), StormError> {
    let thread = &storm.threads[index];
    let rate = options.rate;
    let mut rng = stream(options.seed, index as u64 + 1);
    let (ready, started) = mpsc::channel();
    std::thread::Builder::new()
        .name(thread.name.clone())
        .spawn(move || {
            // The thread lives as long as the process, and so does its signal stack.
            let _stack = match prepare(thread) {
                Ok(stack) => {
                    let _ = ready.send(Ok(()));
                    stack
                }
                Err(error) => return drop(ready.send(Err(error))),
            };
            serve(storm, thread, rate, &mut rng)
        })
        .map_err(system("starting a thread (a tight `ulimit -u` or `-v`?)"))?;
    let prepared = started.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
    prepared.and_then(|ready| ready).map_err(system("setting up a thread's signal stack and timer"))
}

fn prepare(thread: &'static StormThread) -> io::Result<SignalStack> {
    let stack = SignalStack::install()?;
    // Until the first round begins, as between any two.
    hold_signals(true)?;
    thread.bind();
    if let Some(m) = thread.machine {
        m.attach()?;
    }
    Ok(stack)
}

/// Holds the profiling signal back from this thread, or lets it in: the core starts over
/// while nobody is at work, and no handler must be either.
fn hold_signals(hold: bool) -> io::Result<()> {
    let how = if hold { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: a zeroed set is a valid one; the mask is this thread's own.
    let error = unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGPROF);
        libc::pthread_sigmask(how, &set, core::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// A thread's life: one round after the other.
fn serve(storm: &'static Storm, thread: &'static StormThread, rate: u32, rng: &mut ChaCha8Rng) {
    let hold = |hold| {
        if hold_signals(hold).is_err() {
            storm.fail(thread, ViolationKind::Harness("the kernel refused a signal mask"));
        }
    };
    loop {
        hold(true);
        thread.does(Activity::Idle);
        while storm.stage() != Stage::Blow {
            if storm.frozen.load(Ordering::Relaxed) {
                thread.park();
            }
            rest(Duration::from_micros(500));
        }
        thread.does(Activity::Between);
        hold(false);
        match thread.machine {
            None => background::disturb(storm, thread, rate, rng),
            Some(m) if m.id == storm.core.collector() => {
                background::collect(&mut Worker::new(storm, thread, m, rng, rate));
            }
            Some(m) => Worker::new(storm, thread, m, rng, rate).round(),
        }
    }
}

/// Round after round, from outside. The exit status.
fn blow(storm: &'static Storm, options: &StormOptions) -> i32 {
    let stats = match mailbox::map(&options.dir) {
        Ok(stats) => stats,
        Err(error) => {
            leave(&options.dir, &Finding::harness_error(format!("sharing counts: {error}")));
            return BROKEN;
        }
    };
    let mut conductor =
        Conductor { storm, stats, watchdog: Watchdog::new(storm), looked: Instant::now(), pulse: 0 };
    let until = options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let time_is_up =
        |c: &Conductor| c.stats.get(STOP) != 0 || until.is_some_and(|until| Instant::now() >= until);
    loop {
        let begun = Instant::now();
        storm.set_stage(Stage::Blow);
        while storm.violation().is_none() && begun.elapsed() < ROUND && !time_is_up(&conductor) {
            conductor.beat();
        }
        let last = time_is_up(&conductor);
        storm.set_stage(Stage::Settle);
        while storm.violation().is_none()
            && storm.threads.iter().any(|thread| thread.activity() != Activity::Idle)
        {
            conductor.beat();
        }
        if storm.violation().is_none()
            && let Some(leak) = storm.check_leaks()
        {
            storm.note(None, leak);
        }
        if let Some(violation) = storm.violation() {
            return conductor.report(violation, &options.dir);
        }
        storm.rounds.fetch_add(1, Ordering::Relaxed);
        if last {
            conductor.publish();
            return 0;
        }
        storm.set_stage(Stage::Wait);
        let config = config(storm.rounds.load(Ordering::Relaxed), options.clock);
        storm.off_before.fetch_add(storm.core.profiler().off(), Ordering::SeqCst);
        // SAFETY: every thread waits for the next round, has no goroutine and holds its signal
        // back: they are idle, and the stage keeps them so.
        if unsafe { storm.core.reset(config) }.is_err() {
            storm.note(None, ViolationKind::Harness("a round's options are out of range"));
        }
        storm.reset(config.buffer);
        background::set_rate_of(storm, options.rate);
    }
}

struct Conductor {
    storm: &'static Storm,
    stats: Shared,
    watchdog: Watchdog,
    looked: Instant,
    pulse: u64,
}

impl Conductor {
    /// Sleeps for a moment, publishes, and has the watchdog look.
    fn beat(&mut self) {
        std::thread::sleep(BEAT);
        self.publish();
        let since = self.looked.elapsed();
        if since >= LOOK {
            self.looked = Instant::now();
            if let Some(thread) = self.watchdog.look(self.storm, since) {
                self.storm.note(self.storm.threads.get(thread), ViolationKind::Stuck);
            }
        }
    }

    fn publish(&mut self) {
        for (word, value) in self.storm.counts().to_words().into_iter().enumerate() {
            self.stats.set(word, value);
        }
        self.pulse += 1;
        self.stats.set(PULSE, self.pulse);
    }

    /// Has everybody stop where they are, and tells what is wrong. The exit status.
    fn report(&mut self, violation: Violation, dir: &Path) -> i32 {
        let begun = Instant::now();
        let parked = |thread: &StormThread| thread.parked.load(Ordering::SeqCst);
        while begun.elapsed() < PARKING && !self.storm.threads.iter().all(parked) {
            for thread in self.storm.threads.iter().filter(|thread| !parked(thread)) {
                // Wherever it is, its handler reaches a point; a thread that masks the signal reaches one itself.
                let _ = inject::tgkill(thread.tid.load(Ordering::SeqCst), libc::SIGPROF);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.publish();
        let finding = evidence::finding(self.storm, violation);
        let broken = finding.is_harness_error();
        leave(dir, &finding);
        if broken { BROKEN } else { FOUND }
    }
}

/// Leaves a finding for the parent.
fn leave(dir: &Path, finding: &Finding) {
    mailbox::leave(dir, &[], finding);
}

/// Ends the process at once: threads may be anywhere.
fn end(status: i32) -> ! {
    // SAFETY: ends the process; nothing of it is left to be unsound.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_have_options_that_the_core_takes() {
        for round in 0..24 {
            assert!(Runtime::leak_sized(config(round, Clock::Monotonic), 5, 2).is_ok(), "round {round}");
        }
    }

    #[test]
    fn counts_fit() {
        const { assert!(StormCounts::WORDS <= PULSE) };
        let counts = StormCounts { signals: 1, rounds: 9, ..StormCounts::default() };
        assert_eq!(StormCounts::from_words(counts.to_words()), counts);
    }

    #[test]
    fn streams_differ() {
        let first = |number| stream(7, number).next_u64();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }
}
