//! Controlling the threads of this process: who runs, where a thread stops, and what happens there.

mod affinity;
mod baton;
mod ladder;
mod parking;
mod signal;
mod sys;
pub(crate) mod text;
mod trap;

pub use affinity::{allowed_cores, nearest, pin};
pub use baton::{Baton, SEATS};
pub use ladder::Ladder;
pub(crate) use ladder::uncover;
pub use parking::Parking;
pub use signal::{
    Context, ErrnoGuard, SIGNAL_STACK_SIZE, SignalStack, gettid, handlers_on_signal_stack, tgkill,
};
pub use sys::Call;
pub use text::{Text, TextError, arm, arm_for, armed, disarm};
pub use trap::{Trap, TrapKind, install};
