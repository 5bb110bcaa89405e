//! The execution tracer: a record of each system call, with the goroutine's stack.
//!
//! ## When an event is taken
//!
//! Its frames are those of the goroutine as it enters or leaves, walked from its saved
//! state by the thread that runs it. On entry that must happen *before* the goroutine counts
//! as stopped, on exit after it runs again: in between, the collector may be installing
//! barriers on that stack at any instant. And it happens under the stack lock, like every
//! walk of a stack whose owner does not stand at a safepoint: the profiling handler and
//! whoever shrinks or scans a goroutine look at nothing else.
//!
//! The race, where an event is taken too late and without the lock:
//!
//! 1. M1: G1 counts as stopped in a system call.
//! 2. M1: the walk for the event notes that G1 has no barriers.
//! 3. M2: the collector sees G1 stopped, scans it, installs barriers.
//! 4. M1: the walk goes on, meets the trampoline, and has no entry for it.
//!
//! ## The buffer
//!
//! One for each machine, written by its thread alone, the oldest event overwritten. Events
//! are numbered, so a reader sees what it has missed.

use crate::g::G;
use crate::lock::{self, Operation};
use crate::m::M;
use crate::profiler::{MAX_FRAMES, SampleFrame};
use crate::throw::walk_failed;
use crate::traceback::{Unwinder, WalkError, saved};

crate::named_codes! {
    /// What an event is about.
    pub enum Kind {
        /// A goroutine enters a system call.
        SyscallEnter = 1, "syscall-enter";
        /// A goroutine is back from a system call.
        SyscallExit = 2, "syscall-exit";
    }
}

/// Events that a machine keeps.
pub const EVENTS: usize = 8;

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its number on this machine, from 1; zero before there is one.
    pub sequence: u64,
    /// What it is about.
    pub kind: Kind,
    /// The goroutine's number.
    pub goroutine: u8,
    /// How many of `frames` count.
    pub len: usize,
    /// The frames, innermost first.
    pub frames: [SampleFrame; MAX_FRAMES],
}

impl Event {
    const NONE: Event = Event {
        sequence: 0,
        kind: Kind::SyscallEnter,
        goroutine: 0,
        len: 0,
        frames: [SampleFrame { pc: 0, sp: 0 }; MAX_FRAMES],
    };

    /// The frames that count.
    pub fn frames(&self) -> &[SampleFrame] {
        &self.frames[..self.len]
    }
}

/// A machine's last events.
#[derive(Debug)]
pub struct Buffer {
    events: [Event; EVENTS],
    /// How many were ever written.
    written: u64,
}

impl Buffer {
    pub(crate) const fn new() -> Self {
        Buffer { events: [Event::NONE; EVENTS], written: 0 }
    }

    /// Place of the event with this number.
    fn place(sequence: u64) -> usize {
        (sequence % EVENTS as u64) as usize
    }

    /// The last event; its number is zero where there is none.
    pub fn last(&self) -> &Event {
        &self.events[Buffer::place(self.written)]
    }

    /// The events that are kept, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        let first = self.written.saturating_sub(EVENTS as u64 - 1).max(1);
        (first..=self.written).map(|sequence| &self.events[Buffer::place(sequence)])
    }
}

impl M {
    /// The last events that it recorded.
    ///
    /// # Safety
    /// The machine records none meanwhile: the caller is its thread, or that one is held.
    pub unsafe fn trace(&self) -> &Buffer {
        // SAFETY: nobody writes it meanwhile (caller).
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

/// Its frames from where it is saved, the first [`MAX_FRAMES`] of them.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_kept_in_order() {
        let mut buffer = Buffer::new();
        assert_eq!((buffer.last().sequence, buffer.events().count()), (0, 0));
        for sequence in 1..=3 * EVENTS as u64 {
            buffer.written = sequence;
            buffer.events[Buffer::place(sequence)].sequence = sequence;
            let kept: Vec<u64> = buffer.events().map(|event| event.sequence).collect();
            let first = sequence.saturating_sub(EVENTS as u64 - 1).max(1);
            assert!(kept.iter().copied().eq(first..=sequence), "{kept:?}");
            assert_eq!(buffer.last().sequence, sequence);
        }
    }
}
