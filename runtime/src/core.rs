//! The core: its goroutines, its machines, its heap, and the world that can be stopped.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use crate::barrier;
use crate::g::G;
use crate::heap::Heap;
use crate::hooks;
use crate::m::M;
use crate::profiler::Profiler;
use crate::profiler::buffer::{DEFAULT_BUFFER, MAX_BUFFER};
use crate::profiler::timer::Clock;
use crate::stack::{MAX_STACK, MIN_STACK, Pool};
use crate::wait::Wait;

/// Goroutines of a core of the usual size.
pub const GOROUTINES: usize = 4;
/// Machines of a core of the usual size: two that run goroutines and one that collects.
pub const MACHINES: usize = 3;
/// Most goroutines of a core: their numbers are bytes.
pub const MAX_GOROUTINES: usize = 64;
/// Most machines of a core: a lock word has a byte for its holder.
pub const MAX_MACHINES: usize = 16;

crate::named_codes! {
    /// Where the collector is in its cycle.
    pub enum Phase {
        /// No cycle.
        Off = 0, "off";
        /// Stacks are scanned and get barriers while the program goes on.
        Mark = 1, "mark";
        /// The world is stopped; what has changed is scanned again.
        Termination = 2, "termination";
        /// Unmarked objects are freed while the program goes on.
        Sweep = 3, "sweep";
    }
}

/// How a core is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// A barrier in every frame, instead of exponential spacing.
    pub every_frame: bool,
    /// Bytes of a new goroutine's stack.
    pub initial_stack: usize,
    /// True where system calls are traced.
    pub trace: bool,
    /// Every how many copies the old stack is made unreadable; never, if zero.
    pub unreadable: usize,
    /// How many old stacks are kept back before the oldest is used again; all of them until
    /// the core starts over, if zero.
    pub quarantine: usize,
    /// How many samples a machine's buffer holds.
    pub buffer: usize,
    /// What the machines' profiling timers count. Without one there are no real timers, and
    /// only what the core believes of them. The same for a core's whole life.
    pub timers: Option<Clock>,
    /// Mark termination leaves the barriers where they are; the sweep removes what it can,
    /// and the next cycle the rest as it begins.
    pub keep_barriers: bool,
    /// A scan of a stopped goroutine halves its stack first, if little of it is used.
    pub scan_shrinks: bool,
}

impl Config {
    /// What is so unless it is asked for otherwise.
    pub const DEFAULT: Config = Config {
        every_frame: false,
        initial_stack: MIN_STACK,
        trace: false,
        unreadable: 0,
        quarantine: 0,
        buffer: DEFAULT_BUFFER,
        timers: None,
        keep_barriers: false,
        scan_shrinks: false,
    };
}

impl Default for Config {
    fn default() -> Self {
        Config::DEFAULT
    }
}

/// Why a configuration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Stacks come in powers of two between two bounds.
    #[error("a stack of {0} bytes: it must be a power of two from {MIN_STACK} to {MAX_STACK}")]
    StackSize(usize),
    /// There must be something to run, somebody to run it, and the collector.
    #[error(
        "{goroutines} goroutines on {machines} machines: there are 1 to {MAX_GOROUTINES}, and 2 to {MAX_MACHINES}"
    )]
    Size {
        /// Goroutines asked for.
        goroutines: usize,
        /// Machines asked for.
        machines: usize,
    },
    /// Buffers have bounds.
    #[error("a buffer of {0} samples: it must hold from 1 to {MAX_BUFFER}")]
    Buffer(usize),
}

/// The part of the core that stops the world.
#[derive(Debug, Default)]
pub struct World {
    pub(crate) stopping: AtomicBool,
}

impl World {
    /// True from the moment the world is asked to stop until it goes on.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// The core under test. One a process: its machines find it by reference.
#[derive(Debug)]
pub struct Core {
    gs: Box<[G]>,
    pub(crate) world: World,
    pub(crate) pool: Pool,
    heap: Heap,
    phase: AtomicU8,
    write_barrier: AtomicBool,
    every_frame: AtomicBool,
    tracing: AtomicBool,
    initial_stack: AtomicUsize,
    unreadable: AtomicUsize,
    profiler: Profiler,
    keep_barriers: AtomicBool,
    scan_shrinks: AtomicBool,
    /// True while somebody sweeps.
    pub(crate) sweeping: AtomicBool,
    safe: Box<[AtomicBool]>,
}

impl Core {
    /// A core of the usual size that lives as long as the process.
    pub fn leak(config: Config) -> Result<&'static Core, ConfigError> {
        Core::leak_sized(config, GOROUTINES, MACHINES)
    }

    /// A core of this size that lives as long as the process. The last machine collects.
    pub fn leak_sized(
        config: Config,
        goroutines: usize,
        machines: usize,
    ) -> Result<&'static Core, ConfigError> {
        if !(1..=MAX_GOROUTINES).contains(&goroutines) || !(2..=MAX_MACHINES).contains(&machines) {
            return Err(ConfigError::Size { goroutines, machines });
        }
        crate::table::init();
        // A handler asks for it, and must not be the first.
        crate::protocol::extent_of(0);
        let core: &'static Core = Box::leak(Box::new(Core {
            gs: (1..=goroutines as u8).map(G::new).collect(),
            world: World::default(),
            pool: Pool::default(),
            heap: Heap::new(),
            phase: AtomicU8::new(Phase::Off as u8),
            write_barrier: AtomicBool::new(false),
            every_frame: AtomicBool::new(false),
            tracing: AtomicBool::new(false),
            initial_stack: AtomicUsize::new(MIN_STACK),
            unreadable: AtomicUsize::new(0),
            profiler: Profiler::new(config.timers, machines + 1),
            safe: (0..machines + 1).map(|_| AtomicBool::new(true)).collect(),
            keep_barriers: AtomicBool::new(false),
            scan_shrinks: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
        }));
        // SAFETY: fresh, so nobody uses it yet.
        unsafe { core.reset(config) }?;
        Ok(core)
    }

    /// Starts over: every goroutine idle, the heap empty, stacks back in the pool.
    ///
    /// # Safety
    /// No machine is at work: each has come back from everything it was told to do and
    /// has no goroutine. No profiling signal comes, and nobody reads samples.
    pub unsafe fn reset(&'static self, config: Config) -> Result<(), ConfigError> {
        let size = config.initial_stack;
        if !size.is_power_of_two() || !(MIN_STACK..=MAX_STACK).contains(&size) {
            return Err(ConfigError::StackSize(size));
        }
        if !(1..=MAX_BUFFER).contains(&config.buffer) {
            return Err(ConfigError::Buffer(config.buffer));
        }
        self.every_frame.store(config.every_frame, Ordering::Relaxed);
        self.tracing.store(config.trace, Ordering::Relaxed);
        self.initial_stack.store(size, Ordering::Relaxed);
        self.unreadable.store(config.unreadable, Ordering::Relaxed);
        self.pool.set_quarantine(config.quarantine);
        self.keep_barriers.store(config.keep_barriers, Ordering::Relaxed);
        self.scan_shrinks.store(config.scan_shrinks, Ordering::Relaxed);
        self.sweeping.store(false, Ordering::SeqCst);
        self.set_phase(Phase::Off);
        self.write_barrier.store(false, Ordering::SeqCst);
        self.world.stopping.store(false, Ordering::SeqCst);
        self.profiler.reset(config.buffer);
        for safe in self.safe.iter() {
            safe.store(true, Ordering::SeqCst);
        }
        self.heap.reset();
        for g in self.gs.iter() {
            // SAFETY: no machine is at work (caller).
            unsafe {
                if let Some(stack) = (*g.memory.get()).take() {
                    self.pool.give_back(stack);
                }
                g.reset();
            }
        }
        self.pool.reclaim();
        Ok(())
    }

    /// The goroutines, g1 first.
    #[inline]
    pub fn goroutines(&self) -> &[G] {
        &self.gs
    }

    /// How many machines there can be, the one for a thread from outside not counted.
    pub fn machines(&self) -> usize {
        self.safe.len() - 1
    }

    /// The number of the machine that collects: the last.
    pub fn collector(&self) -> u8 {
        self.machines() as u8 - 1
    }

    /// The number of one more machine, for a thread that the runtime did not start. It runs no
    /// goroutines, so nobody who stops the world waits for it.
    pub fn guest(&self) -> u8 {
        self.machines() as u8
    }

    /// The heap.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Where the collector is in its cycle.
    #[inline]
    pub fn phase(&self) -> Phase {
        Phase::from_code(self.phase.load(Ordering::SeqCst)).unwrap_or(Phase::Off)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// True while pointer writes are to be shaded.
    pub fn write_barrier(&self) -> bool {
        self.write_barrier.load(Ordering::SeqCst)
    }

    pub(crate) fn set_write_barrier(&self, on: bool) {
        self.write_barrier.store(on, Ordering::SeqCst);
    }

    /// True where every frame gets a barrier.
    pub fn every_frame(&self) -> bool {
        self.every_frame.load(Ordering::Relaxed)
    }

    /// True where system calls are traced.
    pub(crate) fn tracing(&self) -> bool {
        self.tracing.load(Ordering::Relaxed)
    }

    /// True where mark termination leaves the barriers where they are.
    pub fn keeps_barriers(&self) -> bool {
        self.keep_barriers.load(Ordering::Relaxed)
    }

    /// True where a scan halves a stack first, if it can.
    pub fn scan_shrinks(&self) -> bool {
        self.scan_shrinks.load(Ordering::Relaxed)
    }

    pub(crate) fn unreadable(&self) -> usize {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// How many stacks were copied since the core started over.
    pub fn copies(&self) -> usize {
        self.pool.copies()
    }

    /// The profiling rate in signals a second; zero is off.
    #[inline]
    pub fn rate(&self) -> u32 {
        self.profiler.rate.hz()
    }

    /// The profiler.
    #[inline]
    pub fn profiler(&self) -> &Profiler {
        &self.profiler
    }

    /// The world: whether it is being stopped.
    pub fn world(&self) -> &World {
        &self.world
    }

    pub(crate) fn set_safe(&self, machine: u8, safe: bool) {
        self.safe[usize::from(machine)].store(safe, Ordering::SeqCst);
    }

    /// True where this machine is at a safepoint: it waits for what to do next, is in a
    /// system call, or has no goroutine.
    pub fn is_safe(&self, machine: u8) -> bool {
        self.safe[usize::from(machine)].load(Ordering::SeqCst)
    }

    /// True where every machine but this one, which stops the world, is at a safepoint.
    pub(crate) fn all_safe_but(&self, stopper: u8) -> bool {
        let mut machines = self.safe.iter().enumerate();
        machines.all(|(id, safe)| id == usize::from(stopper) || safe.load(Ordering::SeqCst))
    }

    /// Stops the world for machine `m`, which is at a safepoint itself: no goroutine runs and
    /// no other machine works until [`Core::start_world`]. One machine at a time does so;
    /// the next waits, and must look again at whatever it has come for.
    pub(crate) fn stop_world(&'static self, m: &'static M) {
        crate::point!(StopWorld);
        while self.world.stopping.swap(true, Ordering::SeqCst) {
            hooks::wait(&Wait::World(self));
        }
        for g in self.gs.iter() {
            let own = m.current().is_some_and(|own| core::ptr::eq(own, g));
            if g.status.get() == crate::g::status::RUNNING && !own {
                g.request(false);
            }
        }
        while !self.all_safe_but(m.id) {
            hooks::wait(&Wait::AllSafe(m));
        }
        crate::point!(WorldStopped);
    }

    /// Lets the world go on.
    pub(crate) fn start_world(&'static self) {
        self.world.stopping.store(false, Ordering::SeqCst);
        crate::point!(StartWorld);
    }

    /// Gives `g` a stack, if it has none, and makes it runnable from its start.
    pub(crate) fn spawn(&'static self, g: &'static G) {
        // SAFETY: an idle or dead goroutine belongs to the one machine that starts it.
        let memory = unsafe { &mut *g.memory.get() };
        if memory.is_none() {
            let size = self.initial_stack.load(Ordering::Relaxed);
            let stack = match self.pool.take(size) {
                Ok(stack) => stack,
                Err(error) => panic!("no memory for a stack of {size} bytes: {error}"),
            };
            g.stack.set(&stack, self.every_frame());
            g.barriers.place(g.stack.top.get(), barrier::max_entries(size, self.every_frame()));
            *memory = Some(stack);
        }
        g.answer();
        g.set_parked(false);
        g.save_start();
        g.status.set(crate::g::status::RUNNABLE);
    }
}

/// The machine that collects, in a core of the usual size.
pub const COLLECTOR: u8 = MACHINES as u8 - 1;
/// The machine for a thread that the runtime did not start, in a core of the usual size.
pub const GUEST: u8 = MACHINES as u8;

/// A machine's place among the safepoints, while it is busy.
#[derive(Debug)]
pub(crate) struct Busy {
    m: &'static M,
}

impl Busy {
    /// Leaves the safepoint; waits while the world is stopped.
    pub(crate) fn new(m: &'static M) -> Busy {
        loop {
            m.core.set_safe(m.id, false);
            if !m.core.world.stopping() {
                return Busy { m };
            }
            m.core.set_safe(m.id, true);
            hooks::wait(&Wait::World(m.core));
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.m.core.set_safe(self.m.id, true);
    }
}
