//! The sample buffers: written by signal handlers, read by another thread.
//!
//! ## Book-keeping
//!
//! Each machine has a ring of its own. Its one producer is that machine's handler, which does not
//! interrupt itself. Its one consumer is the thread that holds the right to read. Two counts that
//! only grow delimit the records in it:
//!
//! ```text
//!   taken            written
//!     |                 |
//!     v                 v
//!   [ r ] [ r ] [ r ] [   ] [   ]      slot = count % capacity
//! ```
//!
//! ## Correctness
//!
//! 1. The producer writes the slot at `written`, then counts it (release). A reader that
//!    sees the count (acquire) sees the record.
//! 2. The consumer copies the record at `taken`, then counts it (release). A producer that
//!    sees the count (acquire) may write the slot again.
//! 3. With `written - taken` at the capacity the producer has no slot to write. It does not wait:
//!    the sample is dropped, and the ring counts it.
//! 4. A handler that interrupts the very reader of its ring finds it in one of these states,
//!    like any other thread.
//!
//! Samples are numbered as they come, the dropped ones too. So a reader gets each record once and in
//! order, and a missing number is a dropped sample. A checksum over the record shows that the
//! producer did not write while the record was copied.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::rate::RateEpoch;
use super::sample::{MAX_FRAMES, Outcome, Sample, SampleFrame};

/// The largest buffer, in records.
pub const MAX_BUFFER: usize = 64;
/// The default size of a buffer, in records.
pub const DEFAULT_BUFFER: usize = 32;

/// A sample as it lies in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The machine whose handler took it.
    pub machine: u8,
    /// How many samples its handler had filed before.
    pub sequence: u64,
    /// The sample.
    pub sample: Sample,
    checksum: u64,
}

impl Record {
    /// Before there is one.
    pub const NONE: Record = Record { machine: 0, sequence: 0, sample: Sample::NONE, checksum: 0 };

    /// Copies `other`, and of its frames those that count.
    fn copy_from(&mut self, other: &Record) {
        self.machine = other.machine;
        self.sequence = other.sequence;
        self.sample.copy_from(&other.sample);
        self.checksum = other.checksum;
    }

    /// Returns whether the record is as it was written.
    pub fn is_intact(&self) -> bool {
        self.sum() == self.checksum
    }

    fn sum(&self) -> u64 {
        let Sample { outcome, pseudo, rate: RateEpoch { hz, epoch }, pc, sp, class, goroutine, .. } =
            self.sample;
        let head = [
            self.sequence,
            u64::from(self.machine) << 24 | u64::from(goroutine) << 16 | u64::from(pseudo.code()) << 8,
            u64::from(class.code()) << 32 | self.sample.len as u64,
            u64::from(hz) << 32 | u64::from(epoch),
            outcome.word(),
            pc as u64,
            sp as u64,
        ];
        // A length that was torn must not lead out of the frames.
        let frames = &self.sample.frames[..self.sample.len.min(MAX_FRAMES)];
        let add = |sum: u64, word: u64| {
            let sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            sum ^ sum >> 32
        };
        let sum = head.into_iter().fold(0x5161_7067, add);
        frames.iter().fold(sum, |sum, &SampleFrame { pc, sp }| add(add(sum, pc as u64), sp as u64))
    }
}

impl Outcome {
    /// Returns the outcome as a word of a checksum.
    fn word(self) -> u64 {
        match self {
            Outcome::Traceback => 1,
            Outcome::NoGoroutine => 2,
            Outcome::Skipped(skip, owner) => {
                let owner = owner.map_or(0, |o| u64::from(o.machine) << 8 | u64::from(o.operation.code()));
                3 | u64::from(skip.code()) << 8 | owner << 16
            }
            Outcome::Failed(_) => 4,
        }
    }
}

/// A machine's ring.
#[derive(Debug)]
pub(crate) struct Ring {
    slots: Box<[UnsafeCell<Record>]>,
    /// Number of slots in use.
    capacity: AtomicUsize,
    written: AtomicU64,
    taken: AtomicU64,
    /// The producer's: number of samples that came.
    numbered: AtomicU64,
    dropped: AtomicU64,
}

// SAFETY: a slot is touched by the producer alone from when it was taken until it is counted
// as written, and by the consumer alone from then until it is counted as taken.
unsafe impl Sync for Ring {}

impl Ring {
    pub(crate) fn new() -> Self {
        Ring {
            slots: (0..MAX_BUFFER).map(|_| UnsafeCell::new(Record::NONE)).collect(),
            capacity: AtomicUsize::new(DEFAULT_BUFFER),
            written: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            numbered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Empties it. Neither its handler nor a reader is at work.
    pub(crate) fn reset(&self, capacity: usize) {
        debug_assert!((1..=MAX_BUFFER).contains(&capacity));
        self.capacity.store(capacity, Ordering::SeqCst);
        for count in [&self.written, &self.taken, &self.numbered, &self.dropped] {
            count.store(0, Ordering::SeqCst);
        }
    }

    fn slot(&self, count: u64) -> *mut Record {
        self.slots[(count % self.capacity.load(Ordering::Relaxed) as u64) as usize].get()
    }

    /// Returns how many samples were dropped because it was full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::SeqCst)
    }

    /// Adds a sample. Returns false if it was dropped. Signal-safe.
    ///
    /// # Safety
    /// The caller is the one producer: the handler of the ring's machine, on its own thread.
    pub(crate) unsafe fn put(&self, machine: u8, sample: &Sample) -> bool {
        let sequence = self.numbered.load(Ordering::Relaxed);
        self.numbered.store(sequence + 1, Ordering::Relaxed);
        let written = self.written.load(Ordering::Relaxed);
        if written - self.taken.load(Ordering::Acquire) >= self.capacity.load(Ordering::Relaxed) as u64 {
            self.dropped.fetch_add(1, Ordering::SeqCst);
            return false;
        }
        // SAFETY: the slot was taken, or never written, and only this producer writes (caller).
        let record = unsafe { &mut *self.slot(written) };
        record.machine = machine;
        record.sequence = sequence;
        record.sample.copy_from(sample);
        record.checksum = record.sum();
        crate::point!(SampleWritten);
        self.written.store(written + 1, Ordering::Release);
        true
    }

    /// Takes the oldest record out. Returns false if there is none.
    ///
    /// # Safety
    /// The caller is the one consumer.
    unsafe fn take(&self, into: &mut Record) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken == self.written.load(Ordering::Acquire) {
            return false;
        }
        // SAFETY: counted as written, and only this consumer gives it back (caller).
        into.copy_from(unsafe { &*self.slot(taken) });
        crate::point!(SampleCopied);
        self.taken.store(taken + 1, Ordering::Release);
        true
    }

    /// Returns how many records it holds.
    pub(crate) fn unread(&self) -> u64 {
        self.written.load(Ordering::Acquire).wrapping_sub(self.taken.load(Ordering::Acquire))
    }

    /// Takes every record out, the oldest first, and passes each to `each`. Returns their number.
    ///
    /// # Safety
    /// The caller is the one consumer.
    pub(crate) unsafe fn drain(&self, each: &mut impl FnMut(&Record)) -> usize {
        let mut record = Record::NONE;
        let mut count = 0;
        // SAFETY: as for this function (caller).
        while unsafe { self.take(&mut record) } {
            count += 1;
            each(&record);
        }
        count
    }
}

/// Changes for tests of an oracle: see [`tamper`](crate::instrument::tamper).
impl Ring {
    /// Changes the oldest record; with `hidden` the checksum fits.
    ///
    /// # Safety
    /// Neither the producer nor a consumer is at work.
    pub(crate) unsafe fn change_oldest(&self, hidden: bool, change: impl FnOnce(&mut Record)) {
        // SAFETY: no other thread touches the slots (caller).
        let record = unsafe { &mut *self.slot(self.taken.load(Ordering::Relaxed)) };
        change(record);
        if hidden {
            record.checksum = record.sum();
        }
    }

    /// Returns how many records were taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Pretends that `count` more records were taken, or with a negative count fewer.
    pub(crate) fn pretend_taken(&self, count: i64) {
        self.taken.fetch_add(count as u64, Ordering::SeqCst);
    }

    /// Pretends that it has this capacity.
    pub(crate) fn pretend_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::SeqCst);
    }

    /// Counts one more record as dropped.
    pub(crate) fn miscount_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn sample(len: usize, seed: usize) -> Sample {
        let mut sample = Sample { outcome: Outcome::Traceback, len, pc: seed, ..Sample::NONE };
        for (index, frame) in sample.frames[..len].iter_mut().enumerate() {
            *frame = SampleFrame { pc: seed + index, sp: seed * 3 + index };
        }
        sample
    }

    /// Reads all records: sequence number and `pc` of each.
    fn drain(ring: &Ring) -> Vec<(u64, usize)> {
        let mut seen = Vec::new();
        // SAFETY: no other thread reads.
        let count = unsafe {
            ring.drain(&mut |r| {
                assert!(r.is_intact());
                seen.push((r.sequence, r.sample.pc));
            })
        };
        assert_eq!(count, seen.len());
        seen
    }

    #[test]
    fn records_come_out_once_and_in_order() {
        let ring = Ring::new();
        ring.reset(3);
        assert!(drain(&ring).is_empty());
        for round in 0..5 {
            // SAFETY: no other thread writes.
            let kept = [10, 20, 30, 40].map(|pc| unsafe { ring.put(1, &sample(2, pc)) });
            assert_eq!(kept, [true, true, true, false], "the fourth has no room");
            assert_eq!(drain(&ring), [(4 * round, 10), (4 * round + 1, 20), (4 * round + 2, 30)]);
            assert_eq!(ring.dropped(), round + 1);
        }
        ring.reset(1);
        assert_eq!((ring.dropped(), drain(&ring).len()), (0, 0));
    }

    #[test]
    fn checksum_covers_every_word_that_counts() {
        let ring = Ring::new();
        // SAFETY: no other thread writes or reads.
        assert!(unsafe { ring.put(2, &sample(3, 7)) });
        // SAFETY: as above.
        unsafe {
            ring.drain(&mut |record| {
                let differs = |change: fn(&mut Record)| {
                    let mut other = *record;
                    change(&mut other);
                    !other.is_intact()
                };
                assert!(record.is_intact());
                assert!(differs(|r| r.machine += 1) && differs(|r| r.sequence += 1));
                assert!(differs(|r| r.sample.pc += 1) && differs(|r| r.sample.sp += 1));
                assert!(differs(|r| r.sample.len -= 1) && differs(|r| r.sample.len = usize::MAX));
                assert!(differs(|r| r.sample.goroutine += 1) && differs(|r| r.sample.rate.hz += 1));
                assert!(differs(|r| r.sample.rate.epoch += 1));
                assert!(differs(|r| r.sample.outcome = Outcome::NoGoroutine));
                assert!(differs(|r| r.sample.pseudo = crate::profiler::sample::Pseudo::Gc));
                assert!(differs(|r| r.sample.class = crate::CodeClass::Body));
                assert!(differs(|r| r.sample.frames[2].sp ^= 8) && differs(|r| r.sample.frames[0].pc ^= 1));
                assert!(!differs(|r| r.sample.frames[3].pc ^= 1), "a frame that does not count");
            });
        }
    }

    #[test]
    fn torn_length_is_read_as_a_record_that_is_not_intact() {
        let ring = Ring::new();
        let mut intact = Vec::new();
        // SAFETY: no other thread writes or reads.
        unsafe {
            assert!(ring.put(0, &sample(3, 7)));
            ring.change_oldest(false, |record| record.sample.len = usize::MAX);
            ring.drain(&mut |record| intact.push(record.is_intact()));
        }
        assert_eq!(intact, [false]);
    }

    #[test]
    fn reader_on_another_processor_gets_every_kept_record() {
        const SAMPLES: usize = 200_000;
        let ring = Ring::new();
        ring.reset(8);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for index in 0..SAMPLES {
                    // SAFETY: the only thread that writes.
                    unsafe { ring.put(0, &sample(index % 5, index)) };
                }
                done.store(true, Ordering::SeqCst);
            });
            let (mut read, mut next) = (0, 0);
            loop {
                let last = done.load(Ordering::SeqCst);
                for (sequence, pc) in drain(&ring) {
                    assert_eq!(sequence, pc as u64, "another sample's record");
                    assert!(sequence >= next, "{sequence} comes again, or late");
                    next = sequence + 1;
                    read += 1;
                }
                if last {
                    break;
                }
            }
            assert_eq!(read + ring.dropped(), SAMPLES as u64);
            assert!(read > 0);
        });
    }
}
