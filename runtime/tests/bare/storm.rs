//! Everything at once, really parallel: two machines with goroutines of their own, a
//! collector that never rests, signals without end. Every walk must succeed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::profiler::{self, MAX_FRAMES, Outcome, Pseudo, SkipReason};
use sigstorm_runtime::sched::g::{G, status};
use sigstorm_runtime::sched::panic::Unwind;
use sigstorm_runtime::sched::syscall::{SystemCall, SystemCalls};
use sigstorm_runtime::stack::lock::{self, Operation};
use sigstorm_runtime::unwind::functab::Table;
use sigstorm_runtime::{CodeClass, Config, FuncId, M, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, KINDS, Machines, Random, be, chain, machines};

const TIME: Duration = Duration::from_secs(2);

/// Counts of what the judge has seen.
pub struct Tally {
    pub tracebacks: AtomicU64,
    pub on_goroutine: AtomicU64,
    pub in_trampoline: AtomicU64,
    pub lock_held: AtomicU64,
}

pub static TALLY: Tally = Tally {
    tracebacks: AtomicU64::new(0),
    on_goroutine: AtomicU64::new(0),
    in_trampoline: AtomicU64::new(0),
    lock_held: AtomicU64::new(0),
};

/// Does the handler's work, and judges it.
extern "C" fn judge(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(m) = M::of_thread() else { return };
    // SAFETY: the kernel passes a ucontext to an SA_SIGINFO handler.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let [pc, sp] = [libc::REG_RIP, libc::REG_RSP].map(|register| registers[register as usize] as usize);
    // SAFETY: this is the handler of the machine that this thread is.
    unsafe { profiler::sigprof(m, pc, sp) };
    // SAFETY: this is the handler.
    let sample = unsafe { m.last_sample() };
    let add = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
    if sample.pseudo == Pseudo::None && sample.goroutine != 0 {
        add(&TALLY.on_goroutine);
    }
    if sample.class == CodeClass::Trampoline {
        add(&TALLY.in_trampoline);
    }
    match sample.outcome {
        Outcome::Traceback => {
            add(&TALLY.tracebacks);
            let last = sample.frames()[sample.len - 1];
            let complete = sample.len == MAX_FRAMES || Table::get().row(last.pc).is_top();
            let upwards = sample.frames().windows(2).all(|two| two[0].sp < two[1].sp);
            if !complete || !upwards {
                die(&format_args!("a wrong walk: {sample:x?}"));
            }
        }
        Outcome::Skipped(SkipReason::LockHeld, owner) => {
            add(&TALLY.lock_held);
            if owner.is_none() {
                die(&format_args!("a holder without a name: {sample:x?}"));
            }
        }
        Outcome::Skipped(SkipReason::UnknownCode, _) if sample.class == CodeClass::Foreign => {}
        Outcome::NoGoroutine => {}
        _ => die(&format_args!("{:?} at {:?} of g{}", sample.outcome, sample.class, sample.goroutine)),
    }
}

/// Ends the process, which is a test's child and has failed.
fn die(what: &std::fmt::Arguments<'_>) -> ! {
    eprintln!("the judge: {what}");
    std::process::abort()
}

/// Installs the judge in the place of the core's own handler.
pub fn install_judge() {
    // SAFETY: a zeroed sigaction is a valid one; the handler keeps to what handlers may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = judge as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()), 0);
    }
}

/// Sends these threads SIGPROF, again and again, until `stop`.
pub fn signal_until(stop: &AtomicBool, threads: &[libc::pthread_t]) -> u64 {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for &thread in threads {
            // SAFETY: the thread is joined only after this one.
            assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGPROF) }, 0);
            sent += 1;
        }
        thread::sleep(Duration::from_micros(20));
    }
    sent
}

/// A goroutine as its driver knows it: its frames, outermost first, and its deferred calls.
#[derive(Default)]
struct Shadow {
    frames: Vec<(FuncId, bool)>,
}

/// A machine's driver.
struct Driver {
    m: &'static M,
    gs: [(&'static G, Shadow); 2],
    random: Random,
    /// The index of the goroutine that it runs.
    runs: Option<usize>,
}

impl Driver {
    fn step(&mut self) {
        let Some(now) = self.runs else { return self.take() };
        let (g, shadow) = &self.gs[now];
        // In every-frame mode half of the largest stack holds entries.
        let room = g.stack.top.get() - g.sched.sp.get() < 24 * 1024 && shadow.frames.len() < 40;
        match self.random.below(20) {
            0..=8 if room => self.call(now),
            9 | 10 => {
                assert_eq!(self.m.call(FuncId::Syscall), RunResult::InSyscall);
                // Now and then it sleeps; more would leave no time for the rest.
                let nanoseconds = if self.random.below(16) == 0 { self.random.below(100_000) } else { 0 };
                let nap = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds as i64 };
                let nap = [0, 0, &raw const nap as usize, 0, 8, 0];
                let nap = SystemCall { number: libc::SYS_ppoll as usize, args: nap };
                let calls = SystemCalls::new(&[nap, SystemCall::HARMLESS]).expect("two calls");
                // SAFETY: the kernel reads a time that outlives the call.
                let made = unsafe { self.m.make_syscalls(&calls) }.expect("it is in one");
                assert!(made.result > 0, "{made:?}");
            }
            11 => {
                assert!(self.m.yield_now());
                self.runs = None;
            }
            12 if room => self.panic(now),
            13 => assert_eq!(self.m.call(FuncId::Leaf), RunResult::NextOp),
            _ => self.ret(now),
        }
    }

    fn take(&mut self) {
        let index = self.random.below(2);
        let (g, shadow) = &mut self.gs[index];
        let fresh = matches!(g.status.get(), status::IDLE | status::DEAD);
        if !self.m.take(g) {
            return;
        }
        self.runs = Some(index);
        if fresh {
            assert_eq!(self.m.call(FuncId::Tiny), RunResult::NextOp);
            shadow.frames = vec![(FuncId::Entry, false)];
        }
    }

    fn call(&mut self, now: usize) {
        let function = KINDS[self.random.below(KINDS.len())];
        let frames = &mut self.gs[now].1.frames;
        if function == FuncId::Nosplit && frames.last().is_some_and(|f| f.0 == FuncId::Nosplit) {
            return;
        }
        assert_eq!(self.m.call(function), RunResult::NextOp);
        let defers = function == FuncId::Deferring && self.m.defer(FuncId::Small);
        frames.push((function, defers));
        self.check(now);
    }

    fn ret(&mut self, now: usize) {
        let frames = &mut self.gs[now].1.frames;
        let (_, deferred) = frames.pop().expect("a frame");
        let found = self.m.deferred_before_return();
        assert_eq!(found.is_some(), deferred);
        if let Some(function) = found {
            assert_eq!(self.m.call(function), RunResult::NextOp);
            assert_eq!(self.m.ret(), RunResult::NextOp);
        }
        let left = self.m.ret();
        assert_eq!(left == RunResult::Exited, self.gs[now].1.frames.is_empty());
        match left {
            RunResult::Exited => self.runs = None,
            _ => self.check(now),
        }
    }

    fn panic(&mut self, now: usize) {
        assert_eq!(self.m.panic(false), Some(RunResult::NextOp));
        loop {
            match self.m.unwind_next() {
                Unwind::Call(function) => {
                    assert_eq!(self.m.call(function), RunResult::NextOp);
                    if self.random.below(2) == 0 {
                        assert!(self.m.recover());
                    } else {
                        let frames = &mut self.gs[now].1.frames;
                        frames.iter_mut().rfind(|f| f.1).expect("a deferring frame").1 = false;
                    }
                    assert_eq!(self.m.ret(), RunResult::NextOp);
                }
                Unwind::Recover { below } => {
                    assert_eq!(self.m.recovery(below), RunResult::NextOp);
                    let frames = &mut self.gs[now].1.frames;
                    let landing = frames.iter().rposition(|f| f.1).expect("a deferring frame");
                    frames.truncate(landing + 1);
                    frames[landing].1 = false;
                    return self.check(now);
                }
                Unwind::End => {
                    assert_eq!(self.m.end(), RunResult::Exited);
                    self.runs = None;
                    return;
                }
            }
        }
    }

    /// Checks now and then that the frames are those that were called.
    fn check(&mut self, now: usize) {
        if self.random.below(16) == 0 {
            let (g, shadow) = &self.gs[now];
            let _walk = lock::lock(self.m, g, Operation::Walk);
            assert!(chain(g).iter().eq(shadow.frames.iter().rev().map(|f| &f.0)));
        }
    }
}

fn collect(w: &Machines, end: Instant) -> u64 {
    let mut cycles = 0;
    while Instant::now() < end {
        assert!(w.collector.gc_mark());
        for g in w.runtime.goroutines() {
            w.collector.gc_scan(g);
            w.collector.gc_shrink(g);
        }
        assert!(w.collector.gc_terminate());
        assert!(w.runtime.goroutines().iter().all(|g| g.barriers.is_empty()));
        assert!(w.collector.gc_sweep());
        cycles += 1;
    }
    cycles
}

fn storm(config: Config, seed: u64) {
    let w = machines(config);
    install_judge();
    let end = Instant::now() + TIME;
    let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let drivers = [(w.m0, [1, 2]), (w.m1, [3, 4])].map(|(m, gs)| {
        let gs = gs.map(|g| (w.g(g), Shadow::default()));
        let random = Random::new(seed + 2 * u64::from(m.id));
        thread::spawn(move || {
            be(m);
            let mut driver = Driver { m, gs, random, runs: None };
            let mut steps = 0u64;
            while Instant::now() < end {
                (0..64).for_each(|_| driver.step());
                steps += 64;
            }
            // The collector may be waiting for this machine to reach a safepoint.
            m.end();
            // The thread lives on, since it may still be sent signals.
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            steps
        })
    });
    use std::os::unix::thread::JoinHandleExt;
    let targets = [drivers[0].as_pthread_t(), drivers[1].as_pthread_t()];
    let signals = thread::spawn(move || signal_until(stop, &targets));
    be(w.collector);
    let cycles = collect(&w, end);
    stop.store(true, Ordering::Relaxed);
    let sent = signals.join().expect("the one who signals");
    let steps: u64 = drivers.map(|d| d.join().expect("a driver")).iter().sum();
    let [walks, inside, trampoline, held] =
        [&TALLY.tracebacks, &TALLY.on_goroutine, &TALLY.in_trampoline, &TALLY.lock_held]
            .map(|count| count.load(Ordering::Relaxed));
    eprintln!(
        "{steps} steps, {cycles} cycles, {} copies, {sent} signals: {walks} walks, {inside} on a goroutine \
         stack ({trampoline} in the trampoline), {held} held locks",
        w.runtime.copies()
    );
    assert!(steps > 10_000 && cycles > 10 && w.runtime.copies() > 10);
    assert!(walks > 100 && inside > 10);
}

#[test]
fn walks_succeed_in_a_storm_with_a_barrier_in_every_frame() {
    passes("storm::walks_succeed_in_a_storm_with_a_barrier_in_every_frame", || {
        storm(Config { unreadable: 16, trace: true, ..EVERY_FRAME }, 11);
    });
}

#[test]
fn walks_succeed_in_a_storm_with_exponential_barriers() {
    passes("storm::walks_succeed_in_a_storm_with_exponential_barriers", || storm(Config::default(), 12));
}
