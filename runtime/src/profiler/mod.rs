//! The profiler: timers that interrupt, the signal's handler, and buffers that are read.
//!
//! Each machine has a timer of its own ([`timer`]). It runs at a rate that any thread may set while
//! signals fly ([`set_rate`]). The handler ([`handler`]) takes a sample ([`sample`]) and leaves it in
//! its machine's buffer, which needs no lock to be written and is read by another thread
//! ([`buffer`]). The execution tracer ([`tracer`]) walks stacks for events, not for signals.
//!
//! ## The states that the handler can find
//!
//! The handler may interrupt its thread anywhere. Four things can be half-way: the machine's
//! goroutine, SP, PC, and the stack itself.
//!
//! * No machine: a thread that the runtime did not start, or one that is not yet, or no longer, a
//!   machine's. Only a count is touched.
//! * A machine and no goroutine: the sample is the runtime's own or the collector's.
//! * A goroutine, SP on its stack: it runs. PC and SP belong together, except in the last
//!   instructions of the switch onto it, which the walk knows.
//! * A goroutine, SP elsewhere: the thread works for it on its own stack, or runs foreign code for
//!   it. The part of the sample below is a pseudo-frame. The goroutine's part starts at its saved
//!   state, or at its transition point.
//!
//! A machine's goroutine changes outside of any switch, so these cases cannot be confused: the
//! machine's goroutine is set before it is switched to, and cleared after it was left.
//!
//! ## The rule
//!
//! Whatever part of the walk lies on the goroutine's stack is walked only with that goroutine's
//! stack lock, which is tried once. The holder may be the very code that was interrupted, so waiting
//! for it could last for ever.
//!
//! To recap: a traceback is complete and right, or there is none and the sample says why.
//!
//! ## The outcomes of a signal
//!
//! Each signal is counted exactly once: as a sample in the buffer, with or without a traceback; as
//! dropped, if the buffer is full; as off, if the rate is zero by the time it comes; or as foreign, if
//! the thread has no machine.

pub mod buffer;
pub mod handler;
mod machine_timer;
pub mod machines;
pub mod rate;
pub mod sample;
mod set_rate;
pub mod timer;
pub mod trace_buffer;
pub mod tracer;

pub use handler::{foreign_signals, install, sigprof};
pub use machines::Profiler;
pub use sample::{MAX_FRAMES, Outcome, Pseudo, Sample, SampleDisposition, SampleFrame, SkipReason};
pub use set_rate::set_rate;
