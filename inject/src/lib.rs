//! Makes a chosen event happen at a chosen instant on a real thread.
//!
//! This crate knows nothing of the program that it attacks. It offers the five things that a
//! controlled run is made of:
//!
//! - **One running thread** ([`Baton`], [`pin`]). One of the program's real OS threads runs; the
//!   others sleep in a futex, one word for each thread slot. All threads share one core: there a
//!   hand-over costs under a microsecond in each direction, and across cores forty times that.
//! - **A stop at any instruction** ([`Region`], [`Text`], [`set_breakpoint`],
//!   [`install_trap_handler`]). A marked code region is decoded once into its instruction
//!   boundaries. A one-shot breakpoint on one of them stops the thread exactly there, inside our
//!   SIGTRAP handler, where it may wait for the baton for as long as the schedule likes. A
//!   [`Ladder`] stops it at every boundary that it reaches; the trap flag does the same at ten
//!   times the cost.
//! - **A signal exactly there** ([`tgkill`]). A signal that the stopped thread sends itself in the
//!   trap handler is held off and arrives as the handler returns, so the PC that the signal's
//!   handler finds *is* the boundary. [`install_trap_handler`] is told which signals are held
//!   off; any can be.
//! - **A wait in the kernel** ([`Parking`]). A thread can wait for the baton in a system call that
//!   other code makes, and be sent a signal there: it arrives at the instruction after the call.
//! - **A stack for handlers** ([`SignalStack`], [`handlers_on_signal_stack`]). A goroutine stack of
//!   two kilobytes cannot hold a signal frame of twelve.
//!
//! # Example
//!
//! A signal at every instruction of a function, one after the other:
//!
//! ```standalone_crate
//! use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
//!
//! use sigstorm_inject::{
//!     CodeFunction, Region, SignalStack, Text, clear_breakpoint, confine, gettid, handlers_on_signal_stack,
//!     install_trap_handler, set_breakpoint, tgkill,
//! };
//!
//! // The code under attack has a section to itself, so the linker names its start and its end.
//! #[inline(never)]
//! #[unsafe(link_section = "attacked")]
//! fn attacked(x: u64) -> u64 {
//!     if x % 2 == 0 { x / 2 } else { x.wrapping_mul(3).wrapping_add(1) }
//! }
//! unsafe extern "C" {
//!     static __start_attacked: u8;
//!     static __stop_attacked: u8;
//! }
//!
//! static SIGNALS: AtomicUsize = AtomicUsize::new(0);
//! extern "C" fn on_usr1(_: i32) {
//!     SIGNALS.fetch_add(1, Relaxed);
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let _stack = SignalStack::install()?;
//! // SAFETY: Both handlers do nothing that a signal handler must not do.
//! unsafe {
//!     libc::signal(libc::SIGUSR1, on_usr1 as *const () as usize);
//!     install_trap_handler(|_| _ = tgkill(gettid(), libc::SIGUSR1), &[libc::SIGUSR1])?;
//! }
//! handlers_on_signal_stack()?;
//!
//! let (start, end) = (&raw const __start_attacked as usize, &raw const __stop_attacked as usize);
//! let region = Region::decode(&[CodeFunction { name: "attacked", start, end }])?;
//! // SAFETY: The program's own code is never unmapped.
//! let _text = unsafe { Text::writable(start, end)? };
//! let mut stops = 0;
//! for index in 0..region.count(0) {
//!     // SAFETY: A boundary of writable code, which this thread runs alone.
//!     unsafe { set_breakpoint(region.address(0, index).unwrap()) };
//!     assert_eq!(attacked(6), 3);
//!     // The branch for odd numbers is not reached: its breakpoints are still there.
//!     stops += usize::from(clear_breakpoint().is_none());
//! }
//! assert!(stops > 0 && stops < region.count(0));
//! assert_eq!(SIGNALS.load(Relaxed), stops);
//! # Ok(())
//! # }
//! ```
//!
//! # Rooms
//!
//! `region` decodes code, whichever process it belongs to. `local` controls the threads of this
//! process. `remote` (a feature of that name) is about another process, which nobody changed: it controls
//! its threads, and `remote::symbols` finds its functions and instructions. Arrows run from `local` and
//! from `remote` to `region`, never back.
//!
//! # Calls allowed in handlers
//!
//! | call | in a handler | while other threads are stopped |
//! |---|---|---|
//! | [`Baton`]'s methods | yes | yes |
//! | [`set_breakpoint`], [`set_breakpoint_for`], [`clear_breakpoint`], [`breakpoint`] | yes | yes |
//! | [`Ladder`]'s methods but `new` | yes | yes |
//! | [`Parking`]'s methods but `new` | yes | yes |
//! | [`Region::locate`], [`Region::boundaries`], [`Region::address`] | yes | yes |
//! | [`tgkill`], [`gettid`], [`ErrnoGuard`], [`Context`], [`Trap`] | yes | yes |
//! | everything else | no | no (it allocates) |
//!
//! The calls marked *yes* neither allocate nor lock nor panic, and they leave `errno` alone:
//! system calls are made by the instruction rather than through libc. If the caller has broken
//! the contract (a thread slot that does not exist), they say so on standard error and abort: a
//! harness that carries on with a wrong idea of which thread runs would report nonsense.
//!
//! # Gotchas
//!
//! - Patched bytes, the SIGTRAP handler and the breakpoint belong to the whole process. Tests
//!   that use them run in a child process.
//! - At most one breakpoint is set at a time, by the thread that holds the baton, and as many
//!   ladders as there are regions. A thread that runs into a breakpoint takes it for its own,
//!   unless the breakpoint is [for another thread](set_breakpoint_for).
//! - Decode a region once, at start. A check value ([`Boundary::check`]) survives relinking; an
//!   address does not even survive a restart.

#![warn(clippy::missing_errors_doc)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("sigstorm-inject patches x86-64 code and reads Linux signal frames: it has no other port");

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod local;
mod region;
#[cfg(feature = "remote")]
pub mod remote;

pub use local::{
    Baton, Call, Context, ErrnoGuard, Ladder, MAX_THREADS, Parking, SIGNAL_STACK_SIZE, SignalStack, Text,
    TextError, Trap, TrapKind, allowed_cores, breakpoint, clear_breakpoint, confine, gettid,
    handlers_on_signal_stack, install_trap_handler, nearest, pin, set_breakpoint, set_breakpoint_for, tgkill,
};
pub use region::{Boundary, CodeFunction, CodeMemory, Flow, Known, Location, Region, RegionError};
