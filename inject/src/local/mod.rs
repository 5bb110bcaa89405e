//! Controlling the threads of this process: which one runs, where it stops, and what happens
//! there.
//!
//! Dependencies run down this list:
//!
//! - `trap`: SIGTRAP, and the signals that are held off in its handler
//! - `ladder`: breakpoints at many boundaries
//! - `text`, `own_code`: code pages made writable, code read without its breakpoints
//! - `patch`: the owner of every patched byte
//! - `baton`, `parking`, `context`, `signal`, `signal_stack`, `affinity`
//! - `sys`: system calls by the instruction

mod affinity;
mod baton;
mod context;
mod ladder;
mod own_code;
mod parking;
mod patch;
mod signal;
mod signal_stack;
mod sys;
mod text;
mod trap;

pub use affinity::{allowed_cores, confine, nearest, pin};
pub use baton::{Baton, MAX_THREADS};
pub use context::Context;
pub use ladder::Ladder;
pub use parking::Parking;
pub use patch::{breakpoint, clear_breakpoint, set_breakpoint, set_breakpoint_for};
pub use signal::{ErrnoGuard, gettid, tgkill};
pub use signal_stack::{SIGNAL_STACK_SIZE, SignalStack, handlers_on_signal_stack};
pub use sys::Call;
pub use text::{Text, TextError};
pub use trap::{Trap, TrapKind, install_trap_handler};
