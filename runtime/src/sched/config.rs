//! The configuration of a runtime, and its sizes.

use crate::profiler::buffer::{DEFAULT_BUFFER, MAX_BUFFER};
use crate::profiler::timer::Clock;
use crate::stack::memory::{MAX_STACK, MIN_STACK};

/// Number of goroutines of a runtime of the usual size.
pub const GOROUTINES: usize = 4;
/// Number of machines of a runtime of the usual size: two that run goroutines and one that
/// collects.
pub const MACHINES: usize = 3;
/// Most goroutines of a runtime: their numbers are bytes.
pub const MAX_GOROUTINES: usize = 64;
/// Most machines of a runtime: a lock word has a byte for its holder.
pub const MAX_MACHINES: usize = 16;
/// Number of the machine that collects, in a runtime of the usual size.
pub const COLLECTOR: u8 = MACHINES as u8 - 1;
/// Number of the machine for a thread that the runtime did not start, in a runtime of the usual
/// size.
pub const EXTRA_M: u8 = MACHINES as u8;

/// The configuration of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether every frame gets a barrier, instead of exponential spacing.
    pub every_frame: bool,
    /// Bytes of a new goroutine's stack.
    pub initial_stack: usize,
    /// Whether system calls are traced.
    pub trace: bool,
    /// One old stack in so many is made unreadable; none, if zero.
    pub unreadable: usize,
    /// Number of old stacks that are kept back before the oldest is used again. All of them are
    /// kept back until the runtime starts over, if zero.
    pub quarantine: usize,
    /// Number of samples that a machine's buffer holds.
    pub buffer: usize,
    /// The clock of the machines' profiling timers. Without one there are no kernel timers, only
    /// the core's record of them. It stays the same for the life of a runtime.
    pub timers: Option<Clock>,
    /// Whether mark termination leaves the barriers where they are. The sweep then removes those
    /// that it can, and the next cycle removes the others as it begins.
    pub keep_barriers: bool,
    /// Whether a scan of a stopped goroutine halves its stack first, if little of it is used.
    pub scan_shrinks: bool,
}

impl Config {
    /// The default configuration.
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

/// The reason why a configuration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The stack's size is no power of two, or out of bounds.
    #[error("a stack of {0} bytes: it must be a power of two from {MIN_STACK} to {MAX_STACK}")]
    StackSize(usize),
    /// There are too few or too many goroutines or machines. At least one goroutine, one machine
    /// to run it and the collector are needed.
    #[error(
        "{goroutines} goroutines on {machines} machines: there are 1 to {MAX_GOROUTINES}, and 2 to {MAX_MACHINES}"
    )]
    Size {
        /// Goroutines asked for.
        goroutines: usize,
        /// Machines asked for.
        machines: usize,
    },
    /// The buffer's size is out of bounds.
    #[error("a buffer of {0} samples: it must hold from 1 to {MAX_BUFFER}")]
    Buffer(usize),
}
