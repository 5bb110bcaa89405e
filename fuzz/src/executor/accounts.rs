//! What became of every signal: the executor's own books, beside the core's.
//!
//! A signal that a step sends is pending until its handler begins; one that is sent while
//! another is pending is coalesced by the kernel, which keeps one for each thread. A sample
//! that a handler has taken must lie in its machine's buffer until somebody reads it, once,
//! unchanged, after those before it; unless that buffer was full, which these books know,
//! since they know what was put there and what was read. At the end of every run
//!
//! ```text
//!   sent = read + dropped + off + foreign + coalesced
//! ```
//!
//! and each of the core's own counts agrees.

use sigstorm_runtime::profiler::buffer::{DEFAULT_BUFFER, MAX_BUFFER, Record};
use sigstorm_runtime::profiler::rate::RateEpoch;
use sigstorm_runtime::profiler::{self, Outcome, Sample, SampleDisposition, SkipReason};
use sigstorm_runtime::sched::runtime::MACHINES;
use sigstorm_runtime::{Config, Point};

use super::state::{CONTROLLER, M1, SEATS, State, Violation};

/// The samples of a machine that nobody has read yet.
#[derive(Debug)]
struct Unread {
    /// Number and digest of each; a ring.
    samples: [(u64, u64); MAX_BUFFER],
    first: usize,
    len: usize,
    /// How many samples its handler has accounted.
    numbered: u64,
    dropped: u64,
}

impl Unread {
    const fn new() -> Self {
        Unread { samples: [(0, 0); MAX_BUFFER], first: 0, len: 0, numbered: 0, dropped: 0 }
    }
}

/// The books of a run.
#[derive(Debug)]
pub(crate) struct Accounts {
    /// Of each machine, the guest's last.
    unread: [Unread; MACHINES + 1],
    capacity: usize,
    /// The rate, and how often it was changed.
    tick: RateEpoch,
    /// What the core had counted before this run.
    foreign: u64,
}

impl Accounts {
    pub(crate) const fn new() -> Self {
        Accounts {
            unread: [const { Unread::new() }; MACHINES + 1],
            capacity: DEFAULT_BUFFER,
            tick: RateEpoch { hz: 0, epoch: 0 },
            foreign: 0,
        }
    }

    /// Starts over, for a core that was reset so.
    pub(crate) fn begin(&mut self, config: &Config, hz: u32) {
        for unread in &mut self.unread {
            // What lies beyond the length is never looked at.
            (unread.first, unread.len, unread.numbered, unread.dropped) = (0, 0, 0, 0);
        }
        self.capacity = config.buffer;
        self.tick = RateEpoch { hz, epoch: 0 };
        self.foreign = profiler::foreign_signals();
    }

    /// The rate as it is.
    pub(crate) fn tick(&self) -> RateEpoch {
        self.tick
    }

    /// The rate was changed.
    pub(crate) fn changed(&mut self, hz: u32) {
        self.tick = RateEpoch { hz, epoch: self.tick.epoch + 1 };
    }

    /// True where somebody's samples wait to be read.
    pub(crate) fn has_unread(&self) -> bool {
        self.unread.iter().any(|unread| unread.len != 0)
    }
}

/// What tells a sample from another. None of the core's sums is used.
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

impl State {
    /// The books. Not to be kept over anything that may pass the baton on.
    #[expect(clippy::mut_from_ref, reason = "whoever holds the baton is alone")]
    pub(crate) fn accounts(&self) -> &mut Accounts {
        // SAFETY: the caller holds the baton and lets go of the reference before it passes it.
        unsafe { &mut *self.accounts.get() }
    }

    /// True where a signal for this thread can come: its machine's timer is armed as the core
    /// sees it. A thread without a machine has none; what comes there comes from outside,
    /// while the program is being profiled.
    pub(crate) fn is_signalled(&self, seat: usize) -> bool {
        match self.threads[seat].machine.get() {
            Some(m) => m.profile_hz() != 0,
            None => self.accounts().tick.hz != 0,
        }
    }

    /// A profiling signal is about to be sent to `seat`.
    pub(crate) fn sends(&self, seat: usize) {
        self.counts().sent += 1;
        if self.threads[seat].pending.replace(true) {
            self.counts().coalesced += 1;
        }
    }

    /// Sends `seat` a profiling signal from the thread `me`.
    pub(crate) fn send(&self, me: usize, seat: usize) {
        let thread = &self.threads[seat];
        self.sends(seat);
        // Where it is this thread's own, and not masked, its handler has run when this returns.
        if sigstorm_inject::tgkill(thread.tid.get(), libc::SIGPROF).is_err() {
            self.fail(me, Violation::Harness("the kernel refused to send a signal"));
        }
    }

    /// A handler begins on `seat`.
    pub(crate) fn delivered(&self, seat: usize) {
        if !self.threads[seat].pending.replace(false) {
            self.fail(seat, Violation::Harness("a signal came that nobody has sent"));
        }
        self.counts().signals += 1;
    }

    /// What happens to a sample after it was judged, up to the handler's end. The handler may be
    /// held anywhere in between, and a reader go on: a sample is in the books before a reader can
    /// see it, and one may be dropped if its buffer was full when it was taken.
    pub(crate) fn file(&self, seat: usize, point: Point, detail: usize) {
        let thread = &self.threads[seat];
        let Some(m) = thread.machine.get() else { return };
        let accounts = self.accounts();
        let unread = &mut accounts.unread[usize::from(m.id)];
        let full = unread.len == accounts.capacity;
        let wrong = |what| self.fail(seat, Violation::Samples(what));
        // SAFETY: this is the machine's own thread, at the end of its handler.
        let sample = unsafe { m.last_sample() };
        let off = matches!(sample.outcome, Outcome::Skipped(SkipReason::ProfilerOff, _));
        match point {
            Point::SampleTaken => {
                thread.found_full.set(full);
                thread.filed.set(false);
                return;
            }
            Point::SampleWritten => {
                if full {
                    wrong("one was written over another that nobody has read");
                }
                unread.samples[(unread.first + unread.len) % MAX_BUFFER] = (unread.numbered, digest(sample));
                unread.len += 1;
                thread.filed.set(true);
            }
            _ => match (detail, off, thread.filed.get()) {
                (d, true, false) if d == SampleDisposition::Off as usize => return,
                (d, false, true) if d == SampleDisposition::Kept as usize => return,
                (d, false, false) if d == SampleDisposition::Dropped as usize => {
                    if !thread.found_full.get() {
                        self.fail(seat, Violation::Skip(seat, "the buffer was not full"));
                    }
                    unread.dropped += 1;
                    self.counts().dropped += 1;
                }
                _ => wrong("one was kept while profiling was off, or not while it was on"),
            },
        }
        unread.numbered += 1;
    }

    /// Reads the buffers and holds every sample against what its handler was seen to take. How
    /// many there were; nothing where somebody else reads them.
    pub(crate) fn read_samples(&self) -> Result<Option<usize>, Violation> {
        let mut wrong = None;
        let read = self.core().profiler().read(|record| {
            if let Err(violation) = self.check(record) {
                wrong.get_or_insert(violation);
            }
        });
        wrong.map_or(Ok(read), Err)
    }

    fn check(&self, record: &Record) -> Result<(), Violation> {
        let unread = &mut self.accounts().unread[usize::from(record.machine)];
        if unread.len == 0 {
            return Err(Violation::Samples("one was read twice, or was never taken"));
        }
        let (number, wanted) = unread.samples[unread.first];
        unread.first = (unread.first + 1) % MAX_BUFFER;
        unread.len -= 1;
        if record.sequence != number {
            return Err(Violation::Samples("one was read out of order, or its number is wrong"));
        }
        if digest(&record.sample) != wanted {
            return Err(Violation::Samples("what was read is not what the handler has taken"));
        }
        match record.sample.outcome {
            Outcome::Skipped(skip, _) => self.counts().read_skips[usize::from(skip.code()) - 1] += 1,
            Outcome::NoGoroutine => self.counts().read_alone += 1,
            Outcome::Traceback | Outcome::Failed(_) => self.counts().read_tracebacks += 1,
        }
        Ok(())
    }

    /// At the end of a run, when what was left has been read: every signal must be accounted for.
    pub(crate) fn settle(&self) -> Option<Violation> {
        let accounts = self.accounts();
        let counts = &*self.counts();
        let skipped = |skip: SkipReason| counts.skips[usize::from(skip.code()) - 1];
        let (off, foreign) = (skipped(SkipReason::ProfilerOff), skipped(SkipReason::ForeignThread));
        if (CONTROLLER..SEATS).any(|seat| self.threads[seat].pending.get()) {
            return Some(Violation::Harness("a signal was sent and never came"));
        }
        if counts.signals + counts.coalesced != counts.sent {
            return Some(Violation::Harness("signals were sent and neither came nor were coalesced"));
        }
        if accounts.has_unread() {
            return Some(Violation::Leak("a sample is in no buffer and was never read", None));
        }
        let profiler = self.core().profiler();
        if profiler::foreign_signals() - accounts.foreign != foreign {
            return Some(Violation::Leak("signals to threads without a machine are miscounted", None));
        }
        if profiler.off() != off {
            return Some(Violation::Leak("signals while profiling was off are miscounted", None));
        }
        let miscounted = |(id, unread): (usize, &Unread)| profiler.dropped(id as u8) != unread.dropped;
        if accounts.unread.iter().enumerate().any(miscounted) {
            return Some(Violation::Leak("dropped samples are miscounted", None));
        }
        (counts.accounted() != counts.sent)
            .then_some(Violation::Leak("not every signal is accounted for", None))
    }
}

/// Sends the calling thread of a run a profiling signal, as a step does: for a trap handler
/// that takes the executor's place.
///
/// # Errors
/// Where the caller is no thread of a run.
pub fn signal_here() -> Result<(), NoThread> {
    let seat = super::hooks::SEAT.get();
    if seat < M1 {
        return Err(NoThread);
    }
    super::state::state().send(seat, seat);
    Ok(())
}

/// The caller is no thread of a run.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("only a thread of a run has a handler to signal")]
pub struct NoThread;
