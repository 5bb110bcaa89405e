//! Makes a chosen thing happen at a chosen instant on a real thread.
//!
//! This crate knows nothing of the runtime that it attacks. It offers the five
//! things that a controlled run is made of:
//!
//! - **Who runs** ([`Baton`], [`pin`]). Of a worker's real OS threads one
//!   runs; the others sleep in a futex, one word per seat. All threads of a
//!   worker share one core, because there a hand-over costs under a
//!   microsecond in each direction, and across cores forty times that.
//! - **Where a thread stops** ([`Region`], [`Text`], [`arm`],
//!   [`install`]). A marked code region is decoded once into its instruction
//!   boundaries. A one-shot breakpoint on one of them stops the thread exactly
//!   there, inside our SIGTRAP handler, where it may wait for the baton for as
//!   long as the schedule likes. A [`Ladder`] does so at every boundary that it
//!   comes to; the trap flag does the same at ten times the cost.
//! - **What happens there** ([`tgkill`]). A signal that a thread sends itself
//!   inside the trap handler is held off by the handler's mask and arrives as
//!   the handler returns, so its handler's saved PC *is* the boundary.
//! - **In the kernel** ([`Parking`]). A thread can wait for the baton in a system call that
//!   other code makes, and be sent a signal there: it arrives at the instruction after it.
//! - **On which stack** ([`SignalStack`], [`handlers_on_signal_stack`]). A
//!   goroutine stack of two kilobytes cannot hold a signal frame of twelve.
//!
//! # What is called where
//!
//! | call | in a handler | while others are stopped |
//! |---|---|---|
//! | [`Baton`]'s methods, [`arm`], [`arm_for`], [`disarm`], [`armed`] | yes | yes |
//! | [`Ladder`]'s methods but `new` | yes | yes |
//! | [`Parking`]'s methods but `new` | yes | yes |
//! | [`Region::locate`], [`Region::boundaries`], [`Region::address`] | yes | yes |
//! | [`tgkill`], [`gettid`], [`ErrnoGuard`], [`Context`], [`Trap`] | yes | yes |
//! | everything else | no | no (it allocates) |
//!
//! What is marked *yes* neither allocates nor locks nor panics, and leaves
//! `errno` alone: system calls are made by the instruction, not through libc.
//! Where it finds that its caller broke the contract (a seat that does not
//! exist), it says so on standard error and aborts: a harness that carries on
//! with a wrong idea of who runs would report nonsense.
//!
//! # Gotchas
//!
//! - Patched bytes, the SIGTRAP handler and the armed breakpoint belong to the
//!   whole process. Tests that use them run in a child process.
//! - One breakpoint is armed at a time, or one ladder, by the thread that holds the
//!   baton. Another that runs into it takes it for its own, unless it is said whom
//!   it is for.
//! - Decode a region once, at start. A check value ([`Boundary::check`])
//!   survives relinking, an address does not survive even a restart.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("sigstorm-inject patches x86-64 code and reads Linux signal frames: it has no other port");

mod local;
mod region;

pub use local::{
    Baton, Call, Context, ErrnoGuard, Ladder, Parking, SEATS, SIGNAL_STACK_SIZE, SignalStack, Text,
    TextError, Trap, TrapKind, allowed_cores, arm, arm_for, armed, disarm, gettid, handlers_on_signal_stack,
    install, nearest, pin, tgkill,
};
pub use region::{Boundary, CodeFunction, Flow, Known, Location, Region, RegionError};
