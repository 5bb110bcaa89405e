//! The fate of samples between the handler that takes them and the reader that gets them.
//!
//! The log of a machine is the harness's own list of the samples in that machine's buffer: number
//! and digest of each. The machine's handler appends, the reader of the buffers removes, and both
//! may run at once in a storm: one producer, one consumer, atomics only.
//!
//! | | |
//! |---|---|
//! | a sample that was read | was the oldest one in the log, unchanged |
//! | a sample that was dropped | found the buffer full as it was taken |
//! | a sample that was kept | found room |
//!
//! A reader removes a sample from the log after the runtime has removed it from the buffer. So the
//! log never has fewer samples than the buffer, and at most one more.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use sigstorm_runtime::Point;
use sigstorm_runtime::profiler::buffer::{DEFAULT_BUFFER, MAX_BUFFER, Record};
use sigstorm_runtime::profiler::{Outcome, Sample, SampleDisposition, SkipReason};

use super::violation::ViolationKind;

/// Room for a full buffer and for the sample that is being read.
const ROOM: usize = 2 * MAX_BUFFER;

/// The log of one machine.
#[derive(Debug)]
pub(crate) struct SampleLog {
    /// Number and digest of each.
    entries: [[AtomicU64; 2]; ROOM],
    /// How many samples the machine's buffer holds.
    capacity: AtomicUsize,
    appended: AtomicU64,
    removed: AtomicU64,
    /// How many samples the handler has numbered, those that were dropped among them.
    numbered: AtomicU64,
    dropped: AtomicU64,
    /// Whether the log was full when the handler's sample was taken. The handler's own.
    found_full: AtomicBool,
    /// Whether the handler's sample was written to the buffer. The handler's own.
    written: AtomicBool,
}

/// The fate of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filed {
    /// Not decided yet: its handler continues.
    Pending,
    /// The sample is in the buffer.
    Kept,
    /// The buffer had no room.
    Dropped,
    /// Profiling was off: it is counted, and kept nowhere.
    Off,
}

impl SampleLog {
    pub(crate) const fn new() -> Self {
        SampleLog {
            entries: [const { [const { AtomicU64::new(0) }; 2] }; ROOM],
            capacity: AtomicUsize::new(DEFAULT_BUFFER),
            appended: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            numbered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            found_full: AtomicBool::new(false),
            written: AtomicBool::new(false),
        }
    }

    /// Starts over, for a buffer of this capacity. No handler and no reader is at work.
    pub(crate) fn reset(&self, capacity: usize) {
        // Entries beyond `appended` are never looked at.
        self.capacity.store(capacity, Ordering::Relaxed);
        for count in [&self.appended, &self.removed, &self.numbered, &self.dropped] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// The number of samples that nobody has read.
    pub(crate) fn unread(&self) -> usize {
        let removed = self.removed.load(Ordering::Acquire);
        (self.appended.load(Ordering::Acquire) - removed) as usize
    }

    /// The number of samples that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Follows a sample at the scheduling points from `SampleTaken` to `HandlerEnd`. Signal-safe; called by
    /// the machine's handler alone. With `concurrent` a reader may be at work at this instant.
    ///
    /// # Errors
    /// Where the sample went where it should not have.
    pub(crate) fn follow(
        &self,
        point: Point,
        detail: usize,
        sample: &Sample,
        concurrent: bool,
    ) -> Result<Filed, ViolationKind> {
        let capacity = self.capacity.load(Ordering::Relaxed);
        match point {
            Point::SampleTaken => {
                self.found_full.store(self.unread() >= capacity, Ordering::Relaxed);
                self.written.store(false, Ordering::Relaxed);
                Ok(Filed::Pending)
            }
            Point::SampleWritten => {
                if self.unread() >= capacity + usize::from(concurrent) {
                    return Err(ViolationKind::Samples("one was written over another that nobody has read"));
                }
                self.append(sample);
                Ok(Filed::Pending)
            }
            _ => self.end(detail, sample),
        }
    }

    fn append(&self, sample: &Sample) {
        let appended = self.appended.load(Ordering::Relaxed);
        let entry = &self.entries[appended as usize % ROOM];
        entry[0].store(self.numbered.load(Ordering::Relaxed), Ordering::Relaxed);
        entry[1].store(digest(sample), Ordering::Relaxed);
        self.appended.store(appended + 1, Ordering::Release);
        self.written.store(true, Ordering::Relaxed);
    }

    /// The handler ends, and says what has become of its sample.
    fn end(&self, fate: usize, sample: &Sample) -> Result<Filed, ViolationKind> {
        let off = matches!(sample.outcome, Outcome::Skipped(SkipReason::ProfilerOff, _));
        let filed = match (off, self.written.load(Ordering::Relaxed)) {
            (true, false) if fate == SampleDisposition::Off as usize => return Ok(Filed::Off),
            (false, true) if fate == SampleDisposition::Kept as usize => Filed::Kept,
            (false, false) if fate == SampleDisposition::Dropped as usize => {
                if !self.found_full.load(Ordering::Relaxed) {
                    return Err(ViolationKind::Skip("the buffer was not full"));
                }
                self.dropped.store(self.dropped() + 1, Ordering::Relaxed);
                Filed::Dropped
            }
            _ => {
                return Err(ViolationKind::Samples(
                    "one was kept while profiling was off, or not while it was on",
                ));
            }
        };
        self.numbered.store(self.numbered.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Ok(filed)
    }

    /// Removes a sample that was read from the buffer. Called by one reader at a time.
    ///
    /// # Errors
    /// Where it is not the oldest one in the log, as it was taken.
    pub(crate) fn read(&self, record: &Record) -> Result<(), ViolationKind> {
        if self.unread() == 0 {
            return Err(ViolationKind::Samples("one was read twice, or was never taken"));
        }
        let removed = self.removed.load(Ordering::Relaxed);
        let [number, expected] = &self.entries[removed as usize % ROOM];
        let (number, expected) = (number.load(Ordering::Relaxed), expected.load(Ordering::Relaxed));
        self.removed.store(removed + 1, Ordering::Release);
        if record.sequence != number {
            return Err(ViolationKind::Samples("one was read out of order, or its number is wrong"));
        }
        if digest(&record.sample) != expected {
            return Err(ViolationKind::Samples("what was read is not what the handler has taken"));
        }
        Ok(())
    }
}

/// The digest of a sample, by which samples are compared. It uses none of the runtime's sums.
fn digest(sample: &Sample) -> u64 {
    let outcome = match sample.outcome {
        Outcome::Traceback => 1,
        Outcome::NoGoroutine => 2,
        Outcome::Failed(_) => 3,
        Outcome::Skipped(skip, owner) => {
            let owner =
                owner.map_or(0, |o| (u64::from(o.machine) + 1) | (u64::from(o.operation.code()) << 8));
            4 | u64::from(skip.code()) << 8 | owner << 16
        }
    };
    let small = u64::from(sample.pseudo.code()) | u64::from(sample.class.code()) << 8;
    let tick = u64::from(sample.rate.hz) << 32 | u64::from(sample.rate.epoch);
    let head = [outcome, small, u64::from(sample.goroutine), tick, sample.pc as u64, sample.sp as u64];
    let frames = sample.frames().iter().flat_map(|f| [f.pc as u64, f.sp as u64]);
    head.into_iter().chain(frames).fold(sample.len as u64, |hash, word| {
        (hash.rotate_left(23) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = SampleDisposition::Kept as usize;

    fn sample(pc: usize) -> Sample {
        Sample { pc, ..Sample::NONE }
    }

    /// A handler takes a sample, and its buffer keeps it or drops it.
    fn handle(log: &SampleLog, pc: usize, kept: bool) -> Result<Filed, ViolationKind> {
        let sample = sample(pc);
        log.follow(Point::SampleTaken, 0, &sample, false)?;
        if kept {
            log.follow(Point::SampleWritten, 0, &sample, false)?;
        }
        let fate = if kept { SampleDisposition::Kept } else { SampleDisposition::Dropped };
        log.follow(Point::HandlerEnd, fate as usize, &sample, false)
    }

    fn log(capacity: usize) -> SampleLog {
        let log = SampleLog::new();
        log.reset(capacity);
        log
    }

    fn record(sequence: u64, pc: usize) -> Record {
        let mut record = Record::NONE;
        (record.sequence, record.sample) = (sequence, sample(pc));
        record
    }

    #[test]
    fn samples_are_read_once_in_order_and_unchanged() {
        let log = log(4);
        for pc in [10, 20] {
            assert_eq!(handle(&log, pc, true).ok(), Some(Filed::Kept));
        }
        assert!(log.read(&record(1, 20)).is_err(), "out of order");
        assert!(log.read(&record(1, 21)).is_err(), "changed");
        assert!(log.read(&record(2, 30)).is_err(), "nothing is left");
        assert_eq!(handle(&log, 30, true).ok(), Some(Filed::Kept));
        assert!(log.read(&record(2, 30)).is_ok());
        assert_eq!(log.unread(), 0);
    }

    #[test]
    fn samples_are_dropped_only_if_the_buffer_is_full() {
        let log = log(1);
        assert!(handle(&log, 1, false).is_err());
        assert!(handle(&log, 2, true).is_ok());
        assert_eq!(handle(&log, 3, false).ok(), Some(Filed::Dropped));
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn samples_are_not_written_over_unread_ones() {
        let log = log(1);
        assert!(handle(&log, 1, true).is_ok());
        assert!(handle(&log, 2, true).is_err());
        let written = |concurrent| log.follow(Point::SampleWritten, 0, &sample(3), concurrent).is_ok();
        assert!(written(true), "a reader may be about to say that it has read one");
        assert!(!written(true));
    }

    #[test]
    fn samples_are_kept_if_and_only_if_profiling_is_on() {
        let log = log(4);
        let off = Sample { outcome: Outcome::Skipped(SkipReason::ProfilerOff, None), ..sample(1) };
        let end = |sample: &Sample, fate: usize| {
            log.follow(Point::SampleTaken, 0, sample, false).expect("nothing to say yet");
            log.follow(Point::HandlerEnd, fate, sample, false)
        };
        assert_eq!(end(&off, SampleDisposition::Off as usize).ok(), Some(Filed::Off));
        assert!(end(&off, KEPT).is_err());
        assert!(end(&sample(1), SampleDisposition::Off as usize).is_err());
        assert!(end(&sample(1), KEPT).is_err(), "it was never written");
    }
}
