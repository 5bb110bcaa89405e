//! Common parts of all tests: a runtime with its machines, and a goroutine's chain of calls.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use sigstorm_runtime::sched::g::G;
use sigstorm_runtime::unwind::traceback::{Frame, Unwinder, WalkError, saved};
use sigstorm_runtime::{Config, FuncId, M, RunResult, Runtime, profiler, unwind::fault};

/// A barrier in every frame.
pub const EVERY_FRAME: Config = Config { every_frame: true, ..Config::DEFAULT };

/// The frame kinds whose calls come back with an ask.
pub const KINDS: [FuncId; 7] = [
    FuncId::Nosplit,
    FuncId::Tiny,
    FuncId::Small,
    FuncId::Medium,
    FuncId::Large,
    FuncId::Huge,
    FuncId::Deferring,
];

/// A runtime, two machines that run goroutines, and the collector's.
#[derive(Clone, Copy)]
pub struct Machines {
    pub runtime: &'static Runtime,
    pub m0: &'static M,
    pub m1: &'static M,
    pub collector: &'static M,
}

impl Machines {
    /// Returns goroutine `number`, from 1.
    pub fn g(&self, number: usize) -> &'static G {
        &self.runtime.goroutines()[number - 1]
    }

    /// Runs a whole cycle, with a scan of these goroutines. None of them may be running.
    pub fn cycle(&self, scan: &[usize]) {
        assert!(self.collector.gc_mark());
        scan.iter().for_each(|&g| assert!(self.collector.gc_scan(self.g(g))));
        while self.collector.gc_drain(8) {}
        assert!(self.collector.gc_terminate());
        assert!(self.collector.gc_sweep());
    }
}

/// Makes a runtime with its handlers installed. The calling thread becomes machine 0's.
pub fn machines(config: Config) -> Machines {
    let runtime = Runtime::leak(config).expect("a valid configuration");
    fault::install().expect("fault handlers");
    profiler::install().expect("the profiling handler");
    let [m0, m1, collector] = [0, 1, 2].map(|id| M::leak(runtime, id));
    COLLECTOR.store(ptr::from_ref(collector).cast_mut(), Ordering::SeqCst);
    be(m0);
    Machines { runtime, m0, m1, collector }
}

static COLLECTOR: AtomicPtr<M> = AtomicPtr::new(ptr::null_mut());

/// Returns the collector of the runtime that [`machines`] has made last, for a driver of foreign code.
pub fn collector() -> &'static M {
    // SAFETY: null, or a leaked machine.
    unsafe { COLLECTOR.load(Ordering::SeqCst).as_ref() }.expect("machines")
}

/// Makes the calling thread `m`'s, with a signal stack.
pub fn be(m: &'static M) {
    signal_stack();
    m.attach().expect("a profiling timer");
}

/// Gives the calling thread a generous signal stack. The child process ends before the
/// thread does, or the thread has no handler running at its end.
pub fn signal_stack() {
    const SIZE: usize = 1 << 20;
    let memory = Box::leak(vec![0u8; SIZE].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIZE };
    // SAFETY: leaked memory, so it outlives the thread.
    assert_eq!(unsafe { libc::sigaltstack(&stack, ptr::null_mut()) }, 0);
}

/// Takes `g`, which is not running, and brings it to its outermost frame's first ask.
#[track_caller]
pub fn start(m: &'static M, g: &'static G) {
    assert!(m.take(g), "g{} cannot be taken", g.id);
    // The entry asks as it begins, so the first answer is ignored.
    assert_eq!(m.call(FuncId::Tiny), RunResult::NextOp);
    assert_eq!(chain(g), [FuncId::Entry]);
}

/// Calls each in turn, the last one innermost.
#[track_caller]
pub fn calls(m: &'static M, functions: &[FuncId]) {
    for &function in functions {
        assert_eq!(m.call(function), RunResult::NextOp, "calling {function}");
    }
}

/// Lets one more frame return than there are calls: the goroutine ends.
#[track_caller]
pub fn returns_to_the_end(m: &'static M, depth: usize) {
    for left in (1..depth).rev() {
        assert_eq!(m.ret(), RunResult::NextOp, "{left} frames are left");
    }
    assert_eq!(m.ret(), RunResult::Exited);
    assert!(m.current().is_none());
}

/// Returns the frames of a goroutine that is off its stack, innermost first.
pub fn frames(g: &'static G) -> Result<Vec<Frame>, WalkError> {
    let mut walk = Unwinder::begin(g, saved(g)?)?;
    let mut frames = Vec::new();
    while let Some(frame) = walk.step()? {
        frames.push(frame);
    }
    Ok(frames)
}

/// Returns the goroutine's chain of calls, innermost first.
#[track_caller]
pub fn chain(g: &'static G) -> Vec<FuncId> {
    match frames(g) {
        Ok(frames) => frames.iter().map(|f| f.row.function().expect("a function")).collect(),
        Err(error) => panic!("the walk of g{} failed: {error}", g.id),
    }
}

/// A small generator of pseudo-random numbers.
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }
}
