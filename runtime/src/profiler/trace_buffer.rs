//! Events of the execution tracer, and the buffer that keeps the last ones.
//!
//! Each machine has a buffer, written by its thread alone; a new event overwrites the oldest. Events
//! are numbered, so a reader sees which it has missed.

use super::sample::{MAX_FRAMES, SampleFrame};

crate::named_codes! {
    /// The kind of an event.
    pub enum Kind {
        /// A goroutine enters a system call.
        SyscallEnter = 1, "syscall-enter";
        /// A goroutine is back from a system call.
        SyscallExit = 2, "syscall-exit";
    }
}

/// Number of events that a machine keeps.
pub const EVENTS: usize = 8;

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its number on this machine, from 1; zero before there is one.
    pub sequence: u64,
    /// Its kind.
    pub kind: Kind,
    /// The goroutine's number.
    pub goroutine: u8,
    /// The number of frames that count.
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

    /// Returns the frames that count.
    pub fn frames(&self) -> &[SampleFrame] {
        &self.frames[..self.len]
    }
}

/// A machine's last events.
#[derive(Debug)]
pub struct Buffer {
    pub(super) events: [Event; EVENTS],
    /// Number of events that were ever written.
    pub(super) written: u64,
}

impl Buffer {
    pub(crate) const fn new() -> Self {
        Buffer { events: [Event::NONE; EVENTS], written: 0 }
    }

    /// Returns the index of the event with this number.
    pub(super) fn place(sequence: u64) -> usize {
        (sequence % EVENTS as u64) as usize
    }

    /// Returns the last event; its number is zero if there is none.
    pub fn last(&self) -> &Event {
        &self.events[Buffer::place(self.written)]
    }

    /// Returns the last event, for a test that changes it.
    pub(crate) fn last_mut(&mut self) -> &mut Event {
        &mut self.events[Buffer::place(self.written)]
    }

    /// Returns the events that are kept, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        let first = self.written.saturating_sub(EVENTS as u64 - 1).max(1);
        (first..=self.written).map(|sequence| &self.events[Buffer::place(sequence)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_events_are_kept_in_order() {
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
