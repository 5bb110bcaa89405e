//! A native runtime core: goroutines on real stacks, a collector that puts barriers over
//! their return addresses, panics that abandon frames, stacks that move, and a profiling
//! signal that walks whatever it finds.
//!
//! This is the code under test. It knows nothing of the harness: it calls out at its
//! scheduling points ([`hooks`]) and lets defects be planted ([`defect`]), and both are
//! gone without their features.
//!
//! # The protocol
//!
//! **No Rust code runs on a goroutine stack.** A goroutine's stack holds frames of
//! assembly with known layouts ([`Function`]). A frame asks what to do next by switching
//! to its thread's own stack, where [`M`]'s operations decide and touch the frame's memory.
//! So stacks can move, and a walk can be exact at any instruction.
//!
//! **Who changes a stack holds its lock.** Installing, removing and unwinding barriers,
//! moving the stack, and a recovery's change of registers each make the return slots, the
//! barrier list, its position, the bounds and the saved registers disagree for a while.
//! All of it happens under the goroutine's stack lock ([`lock`]).
//!
//! **The signal handler only tries.** It may have interrupted the holder. If it does not
//! get the lock it takes no traceback and says why ([`profiler`]).
//!
//! **One exception.** The trampoline moves the position without the lock: it is a handful
//! of instructions on the goroutine's own thread, and a walk that starts there acts as if
//! they had all run ([`traceback`]).
//!
//! **A goroutine in a system call counts as stopped.** Its thread sleeps in the kernel, on its
//! stack, while others change what lies above ([`syscall`]).
//!
//! The order of work is from the bottom up: [`table`] and the assembly, [`stack`], [`lock`],
//! [`barrier`], [`traceback`]; then [`G`], [`M`], `copystack`, `panic`, [`foreign`], `gc`,
//! [`profiler`].

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("sigstorm runs on Linux on x86-64 only: its core is written in that machine's code");

mod arch;
pub mod barrier;
mod caller;
#[cfg(feature = "defects")]
pub mod canary;
mod copystack;
pub mod core;
pub mod defect;
pub mod dump;
mod event;
pub mod fault;
pub mod foreign;
pub mod function;
pub mod g;
mod gc;
pub mod heap;
pub mod hooks;
pub mod lock;
pub mod m;
#[doc(hidden)]
pub mod measure;
pub mod mutator;
pub mod names;
pub mod panic;
pub mod point;
pub mod profiler;
pub mod protocol;
mod spin;
pub mod stack;
pub mod syscall;
pub mod table;
pub mod throw;
pub mod traceback;
pub mod tracer;
pub mod wait;
mod word;

pub use crate::core::{Config, Core, Phase};
pub use crate::defect::Defect;
pub use crate::function::Function;
pub use crate::g::G;
pub use crate::m::{Left, M};
pub use crate::point::Point;
pub use crate::table::CodeClass;

/// First byte and end of the marked code: the functions that run on goroutine stacks, and
/// the protocol's own ([`protocol`]).
pub fn marked_code() -> (usize, usize) {
    arch::text_bounds()
}
