//! A traced process: a program that nobody changed, its threads stopped, read, patched and signalled
//! from outside, by `ptrace(2)`. Linux on x86-64; feature `remote`.
//!
//! # A run
//!
//! [`Tracer::spawn`] starts a program and stops it before its first instruction.
//! [`Tracer::next_event`] waits until something happens and says what. Most events leave their
//! thread stopped, *held*, while the others go on; the caller reads its registers and its memory,
//! lays breakpoints, and lets it go on: [`resume`](Tracer::resume) as if nothing had happened,
//! [`deliver`](Tracer::deliver) with a signal exactly at the boundary where it is,
//! [`step`](Tracer::step) for one instruction. [`Tracer::stack`] tells where a held thread is, and
//! from where each function was called.
//!
//! # Book-keeping
//!
//! - A *space* (`space.rs`) is an address space. It owns the bytes that are patched there
//!   (`breakpoints.rs`) and the scratch area in which instructions run out of line
//!   (`displaced.rs`). Threads share it, and children of `vfork` do until they call `exec`.
//! - A *thread* (`thread.rs`) has a copy of its registers while it is stopped; they are written back
//!   when it goes on. `at` is the breakpoint at its PC that has been reported. A thread that goes on
//!   from there passes the breakpoint out of line. A thread that gets a signal there will come to
//!   the breakpoint once more when the handler has returned: `passing` has it then, so that this is
//!   no second visit.
//! - A *delivery* is a signal whose handler runs. It begins with a stop at the handler's first
//!   instruction (a single step with a signal stops there), which tells the frame and the restorer.
//!   It ends at the restorer, with SP one word above the frame: by a debug register of the thread,
//!   or by a breakpoint there ([`ReturnBy`]).
//!   Handlers nest, and only the frame tells them apart.
//!
//! # Half-states
//!
//! The meaning of a stop, by the signal's `si_code` and the PC (`stops.rs`):
//!
//! | stop | it is |
//! |---|---|
//! | trap of an `int3` where a breakpoint is laid | a visit, or `passing` |
//! | one where a breakpoint was lifted since | the other thread's fault: PC is set back, and it goes on |
//! | one where none of ours ever was, or the byte is the program's own | the program's signal |
//! | trap at the debug register's address | a delivery's end if SP is a frame's, else the program's own handler |
//! | trap with `si_code` SIGTRAP while a signal is on its way | its handler's first instruction |
//! | trap of a single step while one was asked for | the step's end |
//! | any of these with PC in the scratch area | first changed to the original's PC |
//!
//! # Gotchas
//!
//! - One thread does it all: the kernel takes requests only from the thread that started the
//!   program. A [`Tracer`] is not `Send`. It waits for every child of its thread, so that thread
//!   should have no others.
//! - Never wait for one thread alone: it may sleep in a system call that only another thread ends.
//! - A thread that is gone (`ESRCH`) is no error: its exit follows. Another thread may have ended
//!   the process at any time.
//! - A trap unblocks SIGTRAP and sets its handler to the default if the program has it blocked or
//!   ignored. See `sigtrap.rs` for what is done about it.
//! - A breakpoint that is laid on the PC of a held thread counts from the thread's next visit.

mod breakpoints;
mod children;
mod debug_registers;
mod delivery;
mod displaced;
mod error;
mod event;
mod guard;
mod maps;
mod memory;
mod patching;
mod pin;
mod ptrace;
mod registers;
mod rseq;
mod signals;
mod sigtrap;
mod space;
mod spawn;
mod stack;
mod stops;
pub mod symbols;
mod syscalls;
mod thread;
mod timer;
mod tracer;

pub use breakpoints::Lifetime;
pub use delivery::Sent;
pub use error::Error;
pub use event::{Event, Waited};
pub use maps::Mapping;
pub use memory::Code;
pub use registers::Registers;
pub use signals::{Action, Origin, SignalInfo, SignalSets, has_signal};
pub use spawn::{Launch, Stream};
pub use stack::{End, Frame, Lost, Stack, Via};
pub use thread::{Delivery, ReturnBy};
pub use tracer::Tracer;
