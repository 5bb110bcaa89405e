//! The profiler's state: the rate, and for each machine a timer and a sample buffer.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::buffer::{Record, Ring};
use super::rate::Rate;
use super::timer::{Clock, Timer};
use crate::unwind::reason::Reason;
use crate::unwind::throw::throw;

/// The profiler's part of a runtime: the rate, and a timer and a buffer for each machine.
#[derive(Debug)]
pub struct Profiler {
    pub(crate) rate: Rate,
    pub(super) machines: Box<[PerMachine]>,
    /// Whether a thread reads the buffers.
    pub(crate) reading: AtomicBool,
    /// Number of signals that came while the rate was zero.
    pub(crate) off: AtomicU64,
    /// The clock of the machines' timers; none if there are only the core's records of them.
    clock: Option<Clock>,
}

#[derive(Debug)]
pub(super) struct PerMachine {
    pub(super) timer: Timer,
    pub(super) ring: Ring,
}

impl Profiler {
    pub(crate) fn new(clock: Option<Clock>, machines: usize) -> Self {
        Profiler {
            rate: Rate::new(),
            machines: (0..machines).map(|_| PerMachine { timer: Timer::new(), ring: Ring::new() }).collect(),
            reading: AtomicBool::new(false),
            off: AtomicU64::new(0),
            clock,
        }
    }

    /// Starts over with buffers of `buffer` records, at the initial rate; arms the timer of each
    /// machine that has a thread. No handler and no reader is at work.
    pub(crate) fn reset(&self, buffer: usize) {
        self.rate.reset();
        self.reading.store(false, Ordering::SeqCst);
        self.off.store(0, Ordering::SeqCst);
        for PerMachine { timer, ring } in self.machines.iter() {
            ring.reset(buffer);
            if timer.is_bound() {
                timer.set(self.rate.hz());
            }
        }
    }

    /// Takes every sample out of the buffers and passes each to `each`, a machine's oldest first.
    /// Returns how many there were; none if another thread is reading.
    pub fn read(&self, mut each: impl FnMut(&Record)) -> Option<usize> {
        if self.reading.swap(true, Ordering::Acquire) {
            return None;
        }
        let mut check = |record: &Record| {
            if !record.is_intact() {
                throw(None, Reason::SampleTorn { machine: record.machine, sequence: record.sequence });
            }
            each(record);
        };
        // SAFETY: `reading` was false and is true now, so this is the one consumer.
        let count = self.machines.iter().map(|m| unsafe { m.ring.drain(&mut check) }).sum();
        self.reading.store(false, Ordering::Release);
        Some(count)
    }

    /// Returns whether a thread reads the buffers.
    #[inline]
    pub fn is_being_read(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }

    /// Returns how many samples of a machine were dropped because its buffer was full.
    #[inline]
    pub fn dropped(&self, machine: u8) -> u64 {
        self.machines[usize::from(machine)].ring.dropped()
    }

    /// Returns how many signals came while the rate was zero.
    #[inline]
    pub fn off(&self) -> u64 {
        self.off.load(Ordering::SeqCst)
    }

    /// Returns a machine's sample buffer.
    pub(crate) fn ring(&self, machine: u8) -> &Ring {
        &self.machines[usize::from(machine)].ring
    }

    /// Returns a machine's timer.
    pub(crate) fn timer(&self, machine: u8) -> &Timer {
        &self.machines[usize::from(machine)].timer
    }

    /// Returns the clock of the machines' timers.
    pub(crate) fn clock(&self) -> Option<Clock> {
        self.clock
    }
}
