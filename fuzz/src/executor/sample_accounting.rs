//! Signal accounting, independent of the runtime's own counters.
//!
//! A signal that a step sends is pending until its handler begins; one that is sent while another is
//! pending is coalesced by the kernel, which keeps one for each thread. At the end of every run
//!
//! ```text
//!   sent = read + dropped + off + foreign + coalesced
//! ```
//!
//! and each of the runtime's own counters agrees. [`SampleLog`] follows each sample in
//! between.

use sigstorm_runtime::profiler::buffer::Record;
use sigstorm_runtime::profiler::rate::RateEpoch;
use sigstorm_runtime::profiler::{self, Outcome, Sample, SkipReason};
use sigstorm_runtime::sched::runtime::MACHINES;
use sigstorm_runtime::{Config, M, Point, Runtime};

use super::thread::{CONTROLLER, THREADS, Thread};
use crate::oracle::ViolationKind;
use crate::oracle::sample_log::{Filed, SampleLog};
use crate::outcome::Counts;

/// The accounts of a run.
#[derive(Debug)]
pub(crate) struct SampleAccounting {
    /// One for each machine, that of the thread from outside last.
    logs: [SampleLog; MACHINES + 1],
    /// The rate, and how often it was changed.
    rate: RateEpoch,
    /// The runtime's `foreign_signals` before this run.
    foreign: u64,
}

impl SampleAccounting {
    pub(super) const fn new() -> Self {
        SampleAccounting {
            logs: [const { SampleLog::new() }; MACHINES + 1],
            rate: RateEpoch { hz: 0, epoch: 0 },
            foreign: 0,
        }
    }

    /// Starts over, for a runtime that was reset with this configuration.
    pub(super) fn begin(&mut self, config: &Config, hz: u32) {
        self.logs.iter().for_each(|log| log.reset(config.buffer));
        self.rate = RateEpoch { hz, epoch: 0 };
        self.foreign = profiler::foreign_signals();
    }

    /// The profiling rate.
    pub(super) fn rate(&self) -> RateEpoch {
        self.rate
    }

    /// The rate was changed.
    pub(super) fn rate_changed(&mut self, hz: u32) {
        self.rate = RateEpoch { hz, epoch: self.rate.epoch + 1 };
    }

    /// Whether samples wait to be read.
    pub(super) fn has_unread(&self) -> bool {
        self.logs.iter().any(|log| log.unread() != 0)
    }

    /// Whether a signal for this thread can come: its machine's timer is armed as the runtime sees it. A
    /// thread without a machine has none; what comes there comes from outside, while the program is being
    /// profiled.
    pub(super) fn is_signalled(&self, thread: &Thread) -> bool {
        match thread.machine {
            Some(m) => m.profile_hz() != 0,
            None => self.rate.hz != 0,
        }
    }

    /// Follows the sample of the machine's handler at a scheduling point.
    ///
    /// # Errors
    /// Where the sample went where it should not have.
    pub(super) fn follow(
        &self,
        m: &M,
        point: Point,
        detail: usize,
        sample: &Sample,
        counts: &mut Counts,
    ) -> Result<(), ViolationKind> {
        let filed = self.logs[usize::from(m.id)].follow(point, detail, sample, false)?;
        counts.dropped += u64::from(filed == Filed::Dropped);
        Ok(())
    }

    /// Holds a sample that was read against what its handler was seen to take.
    ///
    /// # Errors
    /// Where it is another one.
    pub(super) fn read(&self, record: &Record, counts: &mut Counts) -> Result<(), ViolationKind> {
        let log = self.logs.get(usize::from(record.machine));
        log.ok_or(ViolationKind::Samples("one is of no machine"))?.read(record)?;
        match record.sample.outcome {
            Outcome::Skipped(skip, _) => counts.read_skips[usize::from(skip.code()) - 1] += 1,
            Outcome::NoGoroutine => counts.read_alone += 1,
            Outcome::Traceback | Outcome::Failed(_) => counts.read_tracebacks += 1,
        }
        Ok(())
    }

    /// At the end of a run, when what was left has been read: every signal must be accounted for.
    ///
    /// # Errors
    /// The first account that does not balance.
    pub(super) fn settle(
        &self,
        runtime: &Runtime,
        threads: &[Thread; THREADS],
        counts: &Counts,
    ) -> Result<(), ViolationKind> {
        let skipped = |skip: SkipReason| counts.skips[usize::from(skip.code()) - 1];
        let (off, foreign) = (skipped(SkipReason::ProfilerOff), skipped(SkipReason::ForeignThread));
        if threads[CONTROLLER..].iter().any(|thread| thread.signal_pending) {
            return Err(ViolationKind::Harness("a signal was sent and never came"));
        }
        if counts.signals + counts.coalesced != counts.sent {
            return Err(ViolationKind::Harness("signals were sent and neither came nor were coalesced"));
        }
        let profiler = runtime.profiler();
        let dropped = |id: usize, log: &SampleLog| profiler.dropped(id as u8) != log.dropped();
        let unbalanced = [
            (self.has_unread(), "a sample is in no buffer and was never read"),
            (
                profiler::foreign_signals() - self.foreign != foreign,
                "signals to threads without a machine are miscounted",
            ),
            (profiler.off() != off, "signals while profiling was off are miscounted"),
            (
                self.logs.iter().enumerate().any(|(id, log)| dropped(id, log)),
                "dropped samples are miscounted",
            ),
            (counts.accounted() != counts.sent, "not every signal is accounted for"),
        ];
        match unbalanced.into_iter().find(|(is, _)| *is) {
            Some((_, what)) => Err(ViolationKind::Leak(what, None)),
            None => Ok(()),
        }
    }
}

/// A profiling signal is about to be sent to the thread.
pub(super) fn sends(thread: &mut Thread, counts: &mut Counts) {
    counts.sent += 1;
    counts.coalesced += u64::from(core::mem::replace(&mut thread.signal_pending, true));
}

/// A handler begins on the thread.
///
/// # Errors
/// Where nobody has sent it a signal.
pub(super) fn delivered(thread: &mut Thread, counts: &mut Counts) -> Result<(), ViolationKind> {
    if !core::mem::replace(&mut thread.signal_pending, false) {
        return Err(ViolationKind::Harness("a signal came that nobody has sent"));
    }
    counts.signals += 1;
    Ok(())
}
