//! The execution tracer: a record of each system call, with the goroutine's stack.
//!
//! ## When an event is taken
//!
//! Its frames are those of the goroutine as it enters or leaves the call, walked from its saved state
//! by the thread that runs it. On entry that must happen *before* the goroutine counts as stopped, on
//! exit after it runs again: in between, the collector may be installing barriers on that stack at
//! any instant. And it happens under the stack lock, like every walk of a stack whose owner does not
//! stand at a safepoint: the lock is all that the profiling handler, and a machine that shrinks or
//! scans a goroutine, go by.
//!
//! The race, if an event is taken too late and without the lock:
//!
//! 1. M1: G1 counts as stopped in a system call.
//! 2. M1: the walk for the event notes that G1 has no barriers.
//! 3. M2: the collector sees G1 stopped, scans it, installs barriers.
//! 4. M1: the walk goes on, meets the trampoline, and has no entry for it.

use super::sample::{MAX_FRAMES, SampleFrame};
use crate::sched::g::G;
use crate::sched::m::M;
use crate::stack::lock;
use crate::stack::lock_word::Operation;
use crate::unwind::throw::walk_failed;
use crate::unwind::traceback::{Unwinder, saved};
use crate::unwind::walk_error::WalkError;

pub use super::trace_buffer::{Buffer, EVENTS, Event, Kind};

impl M {
    /// Returns the last events that it recorded.
    ///
    /// # Safety
    /// The machine records none meanwhile: the caller is its thread, or that thread is held.
    pub unsafe fn trace(&self) -> &Buffer {
        // SAFETY: no thread writes it meanwhile (caller).
        unsafe { &*self.trace.get() }
    }
}

/// Records that `g`, which `m` runs, enters a system call or is back from one.
pub(crate) fn record(m: &'static M, g: &'static G, kind: Kind) {
    match kind {
        Kind::SyscallEnter => {
            let guard = crate::lock_unless!(TraceEventUnlocked, m, g, Operation::Trace);
            write(m, g, kind);
            drop(guard);
        }
        Kind::SyscallExit => {
            let guard = lock::lock(m, g, Operation::Trace);
            write(m, g, kind);
            drop(guard);
        }
    }
}

fn write(m: &'static M, g: &'static G, kind: Kind) {
    crate::point!(TraceBegin, g, kind as usize);
    // SAFETY: this is the machine's own thread, which writes one event at a time.
    let buffer = unsafe { &mut *m.trace.get() };
    buffer.written += 1;
    let event = &mut buffer.events[Buffer::place(buffer.written)];
    event.sequence = buffer.written;
    event.kind = kind;
    event.goroutine = g.id;
    event.len = 0;
    if let Err(error) = walk(g, event) {
        walk_failed(g, error);
    }
    crate::point!(TraceEvent, g, kind as usize);
}

/// Records `g`'s frames from its saved state on, at most [`MAX_FRAMES`].
///
/// # Errors
/// As of [`Unwinder`].
fn walk(g: &'static G, event: &mut Event) -> Result<(), WalkError> {
    let mut walk = Unwinder::begin(g, saved(g)?)?;
    while event.len < MAX_FRAMES
        && let Some(frame) = walk.step()?
    {
        event.frames[event.len] = SampleFrame { pc: frame.pc, sp: frame.sp };
        event.len += 1;
    }
    Ok(())
}
