//! A native runtime core: goroutines on real stacks, a collector that lays barriers over their return
//! addresses, panics that abandon frames, stacks that move, and a profiling signal that walks
//! whatever it finds.
//!
//! This is the code under test. It knows nothing of the harness: it calls out at its scheduling
//! points ([`instrument::hooks`]) and lets defects be planted ([`instrument::defect`]). Both are gone
//! without their features.
//!
//! # The protocol
//!
//! **No Rust code runs on a goroutine stack.** A goroutine's stack holds frames of assembly with
//! known layouts ([`FuncId`]). A frame asks for its next operation by switching to its thread's own
//! stack, where [`M`]'s operations decide and touch the frame's memory. So stacks can move, and a
//! walk can be exact at any instruction.
//!
//! **Whoever changes a stack holds its lock.** Installing, removing and unwinding barriers, moving the
//! stack, and a recovery's change of registers each make the return slots, the barrier list, its
//! position, the bounds and the saved registers disagree for a while. All of it happens under the
//! goroutine's stack lock ([`stack::lock`]).
//!
//! **The signal handler only tries the lock.** It may have interrupted the holder. If it does not get
//! the lock, it takes no traceback and says why ([`profiler`]).
//!
//! **One exception.** The trampoline moves the position without the lock. It is a handful of
//! instructions on the goroutine's own thread, and a walk that starts there acts as if they had all
//! run ([`unwind::traceback`]).
//!
//! **A goroutine in a system call counts as stopped.** Its thread sleeps in the kernel, on the
//! goroutine's stack, while other threads change the frames above ([`sched::syscall`]).
//!
//! # The rooms
//!
//! | room | holds |
//! |---|---|
//! | `arch` | the assembly: frames, stubs, the switch, the trampoline |
//! | [`unwind`] | the function table, tracebacks, throws and what they print, memory faults |
//! | [`stack`] | a stack's memory, its lock, its barriers, copystack |
//! | [`sched`] | goroutines, machines, the world; running, handing over, preempting, system calls, foreign calls, panics |
//! | [`gc`] | collection cycles, scans, the heap, the mutator |
//! | [`profiler`] | timers, the rate, the signal handler, sample buffers, the execution tracer |
//! | [`instrument`] | scheduling points, hooks, defects, canaries, the list of the marked code |
//! | `sync` | a word that others may read, a spin lock |
//!
//! To read the core from the bottom up, begin with `arch`, [`stack::barrier`] and
//! [`unwind::traceback`], then [`G`], [`M`] and [`profiler`].

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("sigstorm runs on Linux on x86-64 only: its runtime is written in that machine's code");

mod arch;
pub mod gc;
pub mod instrument;
pub mod profiler;
pub mod sched;
pub mod stack;
mod sync;
pub mod unwind;

pub use crate::gc::phase::Phase;
pub use crate::instrument::defect::Defect;
#[cfg(feature = "defects")]
pub use crate::instrument::plant::plant;
pub use crate::instrument::point::Point;
pub use crate::sched::config::Config;
pub use crate::sched::g::G;
pub use crate::sched::m::M;
pub use crate::sched::run::RunResult;
pub use crate::sched::runtime::Runtime;
pub use crate::unwind::func_id::FuncId;
pub use crate::unwind::rows::CodeClass;

/// Returns the first byte and the end of the marked code: the functions that run on goroutine stacks,
/// and the protocol's own ([`instrument::marked_code`]).
pub fn marked_code() -> (usize, usize) {
    arch::text_bounds()
}
