//! Real timers on real threads, a rate that is changed while their signals fly, and buffers that
//! are read meanwhile: nothing is lost and nothing comes twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use sigstorm_runtime::profiler::buffer::{MAX_BUFFER, Record};
use sigstorm_runtime::profiler::rate::{MAX_RATE, RateError};
use sigstorm_runtime::profiler::timer::Clock;
use sigstorm_runtime::profiler::{self, Outcome, Sample, SkipReason};
use sigstorm_runtime::sched::runtime::{EXTRA_M, MACHINES};
use sigstorm_runtime::{Config, FuncId, M, RunResult, Runtime};

use crate::child::passes;
use crate::machine::{Machines, Random, be, machines, signal_stack, start};

/// Most samples of one machine in a test.
const MOST: usize = 1 << 16;

/// A record of what one machine's handler did.
struct Seen {
    /// A digest of each sample that the buffer must contain, in order.
    digests: [AtomicU64; MOST],
    samples: AtomicU64,
    tracebacks: AtomicU64,
    off: AtomicU64,
}

static SEEN: [Seen; MACHINES + 1] = [const {
    Seen {
        digests: [const { AtomicU64::new(0) }; MOST],
        samples: AtomicU64::new(0),
        tracebacks: AtomicU64::new(0),
        off: AtomicU64::new(0),
    }
}; MACHINES + 1];

/// Signals to threads without a machine.
static STRAY: AtomicU64 = AtomicU64::new(0);

fn digest(sample: &Sample) -> u64 {
    let words = [sample.pc, sample.sp, sample.rate.hz as usize, sample.rate.epoch as usize];
    let frames = sample.frames().iter().flat_map(|f| [f.pc, f.sp]);
    words.into_iter().chain(frames).fold(sample.len as u64, |sum, word| {
        (sum.rotate_left(11) ^ word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

/// Does the handler's work, and notes what it did.
extern "C" fn noted(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(m) = M::of_thread() else {
        STRAY.fetch_add(1, Ordering::Relaxed);
        return;
    };
    // SAFETY: the kernel passes a ucontext to an SA_SIGINFO handler.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let (pc, sp) = (registers[libc::REG_RIP as usize] as usize, registers[libc::REG_RSP as usize] as usize);
    // SAFETY: the thread's own errno, kept over the handler.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: this is the handler of the machine that this thread is.
    unsafe { profiler::sigprof(m, pc, sp) };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    // SAFETY: this is the handler.
    let sample = unsafe { m.last_sample() };
    let seen = &SEEN[usize::from(m.id)];
    match sample.outcome {
        Outcome::Skipped(SkipReason::ProfilerOff, _) => {
            seen.off.fetch_add(1, Ordering::Relaxed);
            return;
        }
        Outcome::Failed(error) => {
            eprintln!("a walk failed: {error}");
            std::process::abort();
        }
        Outcome::Traceback => {
            seen.tracebacks.fetch_add(1, Ordering::Relaxed);
        }
        _ => {}
    }
    let index = seen.samples.fetch_add(1, Ordering::Relaxed) as usize;
    if let Some(slot) = seen.digests.get(index) {
        slot.store(digest(sample), Ordering::Relaxed);
    }
}

fn install_noted() {
    // SAFETY: a zeroed sigaction is a valid one; the handler keeps to what handlers may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = noted as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()), 0);
    }
}

/// Makes a runtime whose timers are real. The calling thread has no machine.
fn timed(clock: Clock, buffer: usize) -> Machines {
    let w = machines(Config { timers: Some(clock), buffer, ..Config::DEFAULT });
    w.m0.detach();
    install_noted();
    w
}

/// The reader's side.
#[derive(Default)]
struct Reader {
    read: [u64; MACHINES + 1],
    next: [u64; MACHINES + 1],
    rates: Vec<u32>,
}

impl Reader {
    fn read(&mut self, runtime: &'static Runtime) {
        let count = runtime.profiler().read(|record| self.take(record));
        assert!(count.is_some(), "no other thread reads");
    }

    fn take(&mut self, record: &Record) {
        let machine = usize::from(record.machine);
        assert!(record.is_intact());
        assert!(record.sequence >= self.next[machine], "{record:?} comes again, or late");
        self.next[machine] = record.sequence + 1;
        self.read[machine] += 1;
        let rate = record.sample.rate.hz;
        assert_ne!(rate, 0, "a sample of no rate");
        if !self.rates.contains(&rate) {
            self.rates.push(rate);
        }
        // Its handler may be about to note it.
        let noted = &SEEN[machine].digests[record.sequence as usize];
        let patience = Instant::now() + Duration::from_secs(10);
        while noted.load(Ordering::Relaxed) == 0 && Instant::now() < patience {
            thread::yield_now();
        }
        assert_eq!(noted.load(Ordering::Relaxed), digest(&record.sample), "not what the handler took");
    }

    /// Checks the totals once no handler is at work any more.
    fn settle(&mut self, runtime: &'static Runtime) {
        self.read(runtime);
        for (machine, seen) in SEEN.iter().enumerate() {
            let samples = seen.samples.load(Ordering::Relaxed);
            assert!(samples < MOST as u64);
            assert_eq!(self.read[machine] + runtime.profiler().dropped(machine as u8), samples, "{machine}");
        }
        let off: u64 = SEEN.iter().map(|seen| seen.off.load(Ordering::Relaxed)).sum();
        assert_eq!(runtime.profiler().off(), off);
        assert_eq!(STRAY.load(Ordering::Relaxed), 0, "no timer outlives its machine's thread");
    }
}

/// Runs goroutine `g`, up and down, until `stop`; does `each` now and then.
fn work(m: &'static M, g: &'static sigstorm_runtime::G, stop: &AtomicBool, mut each: impl FnMut()) {
    be(m);
    start(m, g);
    let mut random = Random::new(u64::from(m.id) + 7);
    let mut depth = 0;
    let mut steps = 0u64;
    while !stop.load(Ordering::Relaxed) {
        if depth < 30 && (depth == 0 || random.below(2) == 0) {
            assert_eq!(
                m.call([FuncId::Tiny, FuncId::Small, FuncId::Large][random.below(3)]),
                RunResult::NextOp
            );
            depth += 1;
        } else {
            assert_eq!(m.ret(), RunResult::NextOp);
            depth -= 1;
        }
        steps += 1;
        if steps.is_multiple_of(20_000) {
            each();
        }
    }
    assert_eq!(m.end(), RunResult::Exited);
    m.detach();
}

/// The processor's time that the calling thread has used.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the record outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

const RATES: [u32; 4] = [250, 500, 1000, 0];

/// Two machines that run goroutines, one of which changes the rate itself; a thread without a
/// machine that changes it, too, each so many times; a thread that becomes a machine again and again; a reader.
fn all_at_once(clock: Clock, buffer: usize, changes: u64) {
    let w = timed(clock, buffer);
    let (stop, own) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut reader = Reader::default();
    // Reached only on a machine with much other work.
    let end = Instant::now() + Duration::from_secs(120);
    let mut others = 0u64;
    let mut random = Random::new(99);
    let mut changed = Duration::ZERO;
    thread::scope(|scope| {
        scope.spawn(|| {
            work(w.m0, w.g(1), &stop, || {
                // Seldom enough that its timer fires in between, with either clock.
                if processor_time() < changed + Duration::from_millis(9) {
                    return;
                }
                changed = processor_time();
                w.m0.set_rate(RATES[random.below(4)]).expect("a rate");
                own.fetch_add(1, Ordering::Relaxed);
            });
        });
        scope.spawn(|| work(w.m1, w.g(2), &stop, || ()));
        scope.spawn(|| {
            signal_stack();
            let extra_m = M::leak(w.runtime, EXTRA_M);
            while !stop.load(Ordering::Relaxed) {
                extra_m.attach().expect("a timer");
                let until = Instant::now() + Duration::from_millis(8);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                extra_m.detach();
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                reader.read(w.runtime);
                sleep(Duration::from_millis(2));
            }
        });
        let enough = |others: u64| {
            let taken = |machine: usize| SEEN[machine].tracebacks.load(Ordering::Relaxed) >= 30;
            others >= changes && own.load(Ordering::Relaxed) >= changes && taken(0) && taken(1)
        };
        while !enough(others) && Instant::now() < end {
            // The last rate is zero, so it is set once more.
            let rate = RATES[others as usize % RATES.len()];
            assert!(profiler::set_rate(w.runtime, rate).is_ok());
            others += 1;
            sleep(Duration::from_millis(if rate == 0 { 2 } else { 8 }));
        }
        stop.store(true, Ordering::Relaxed);
    });
    reader.settle(w.runtime);
    let dropped: Vec<u64> = (0..=EXTRA_M).map(|m| w.runtime.profiler().dropped(m)).collect();
    let off = w.runtime.profiler().off();
    eprintln!(
        "{clock}: {own:?} and {others} changes; read {:?}, dropped {dropped:?}, off {off}; rates {:?}",
        reader.read, reader.rates
    );
    assert!(others >= changes && own.load(Ordering::Relaxed) >= changes, "{others} and {own:?} changes");
    assert!(reader.read[0] >= 20 && reader.read[1] >= 20, "{:?}", reader.read);
    assert!(reader.rates.len() > 1, "{:?}", reader.rates);
}

#[test]
fn samples_are_all_accounted_for_while_the_rate_changes() {
    passes("timers::samples_are_all_accounted_for_while_the_rate_changes", || {
        all_at_once(Clock::Monotonic, MAX_BUFFER, 100)
    });
}

#[test]
fn samples_are_all_accounted_for_with_the_cpu_clock() {
    passes("timers::samples_are_all_accounted_for_with_the_cpu_clock", || {
        all_at_once(Clock::Cpu, MAX_BUFFER, 30)
    });
}

#[test]
fn dropped_samples_are_counted() {
    passes("timers::dropped_samples_are_counted", || all_at_once(Clock::Monotonic, 1, 30));
}

/// Spins until `done`, for some seconds at most.
fn spin_until(done: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(8);
    while !done() && Instant::now() < end {
        std::hint::spin_loop();
    }
    done()
}

#[test]
fn timer_follows_its_machines_life_and_the_rate() {
    passes("timers::timer_follows_its_machines_life_and_the_rate", || {
        let w = timed(Clock::Monotonic, MAX_BUFFER);
        let samples = || SEEN[0].samples.load(Ordering::Relaxed);
        assert_eq!(w.m0.profile_hz(), 0);
        assert_eq!(w.m0.set_rate(1000), Ok(true));
        assert_eq!(w.m0.profile_hz(), 0, "this thread is not its own");

        be(w.m0);
        assert_eq!(w.m0.profile_hz(), 1000);
        assert!(spin_until(|| samples() >= 5), "{}", samples());
        assert_eq!(w.m0.set_rate(0), Ok(true));
        let before = samples();
        sleep(Duration::from_millis(30));
        assert_eq!((samples(), w.m0.profile_hz()), (before, 0), "a signal of a disarmed timer");

        // A rate that another thread has changed is seen as the next operation begins.
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(profiler::set_rate(w.runtime, 500), Ok(true)));
        });
        assert_eq!(w.m0.profile_hz(), 0);
        start(w.m0, w.g(1));
        assert_eq!(w.m0.profile_hz(), 500);
        assert!(spin_until(|| samples() >= before + 5));
        assert_eq!(w.m0.end(), RunResult::Exited);

        w.m0.detach();
        assert_eq!((w.m0.profile_hz(), M::of_thread().is_none()), (0, true));
        let after = samples();
        sleep(Duration::from_millis(30));
        assert_eq!((samples(), STRAY.load(Ordering::Relaxed)), (after, 0));
    });
}

#[test]
fn rates_and_buffers_out_of_bounds_are_refused() {
    passes("timers::rates_and_buffers_out_of_bounds_are_refused", || {
        let w = machines(Config::DEFAULT);
        assert_eq!(w.m0.set_rate(MAX_RATE), Ok(true));
        assert_eq!(w.m0.set_rate(MAX_RATE + 1), Err(RateError::TooHigh(MAX_RATE + 1)));
        assert_eq!(w.runtime.rate(), MAX_RATE);
        for buffer in [0, MAX_BUFFER + 1] {
            assert!(Runtime::leak(Config { buffer, ..Config::DEFAULT }).is_err());
        }
    });
}

#[test]
fn extra_m_runs_no_goroutine() {
    passes("timers::extra_m_runs_no_goroutine", || {
        let w = machines(Config::DEFAULT);
        let extra_m = M::leak(w.runtime, EXTRA_M);
        thread::scope(|scope| {
            scope.spawn(|| {
                be(extra_m);
                assert!(!extra_m.take(w.g(1)));
                extra_m.detach();
            });
        });
    });
}
