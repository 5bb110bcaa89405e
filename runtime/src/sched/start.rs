//! Making a runtime, and starting over with one.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use super::config::{Config, ConfigError, GOROUTINES, MACHINES, MAX_GOROUTINES, MAX_MACHINES};
use super::g::G;
use super::runtime::{Phase, Runtime};
use super::world::{Safepoints, World};
use crate::gc::heap::Heap;
use crate::instrument::marked_code;
use crate::profiler::buffer::MAX_BUFFER;
use crate::profiler::machines::Profiler;
use crate::stack::memory::{MAX_STACK, MIN_STACK};
use crate::stack::pool::Pool;
use crate::unwind::{dump, functab, throw};

impl Runtime {
    /// Makes a runtime of the usual size that lives as long as the process.
    ///
    /// # Errors
    /// If the configuration is out of bounds.
    pub fn leak(config: Config) -> Result<&'static Runtime, ConfigError> {
        Runtime::leak_sized(config, GOROUTINES, MACHINES)
    }

    /// Makes a runtime of this size that lives as long as the process. The last machine collects.
    ///
    /// # Errors
    /// If the configuration or the size is out of bounds.
    pub fn leak_sized(
        config: Config,
        goroutines: usize,
        machines: usize,
    ) -> Result<&'static Runtime, ConfigError> {
        if !(1..=MAX_GOROUTINES).contains(&goroutines) || !(2..=MAX_MACHINES).contains(&machines) {
            return Err(ConfigError::Size { goroutines, machines });
        }
        functab::init();
        // Handlers call it, and its first call allocates.
        marked_code::find_func(0);
        throw::set_reporter(dump::print_and_abort);
        let runtime: &'static Runtime = Box::leak(Box::new(Runtime {
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
            safepoints: Safepoints::new(machines + 1),
            keep_barriers: AtomicBool::new(false),
            scan_shrinks: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
            made: AtomicU32::new(0),
        }));
        // SAFETY: fresh, so no machine uses it yet.
        unsafe { runtime.reset(config) }?;
        Ok(runtime)
    }

    /// Starts over: every goroutine idle, the heap empty, stacks back in the pool.
    ///
    /// # Errors
    /// If the configuration is out of bounds; the runtime is then as it was.
    ///
    /// # Safety
    /// No machine is at work: each is back from every operation and has no goroutine. No profiling
    /// signal comes, and no thread reads samples.
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
        self.safepoints.reset();
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
}
