//! Samples: what the handler records of one signal.

use super::rate::RateEpoch;
use crate::stack::lock_word::Owner;
use crate::unwind::rows::CodeClass;
use crate::unwind::walk_error::WalkError;

/// Most frames of a sample.
pub const MAX_FRAMES: usize = 64;

crate::named_codes! {
    /// The reason why a sample has no traceback.
    pub enum SkipReason {
        /// The goroutine's stack lock is held.
        LockHeld = 1, "lock-held";
        /// The thread has no machine.
        ForeignThread = 2, "foreign-thread";
        /// The profiling rate is zero.
        ProfilerOff = 3, "profiler-off";
        /// The goroutine is in code that is in no table.
        UnknownCode = 4, "unknown-code";
    }
}

crate::named_codes! {
    /// The pseudo-frame: a sample's innermost part, if that is not a frame.
    pub enum Pseudo {
        /// There is none: the goroutine itself was interrupted.
        None = 0, "none";
        /// The runtime, on the thread's own stack.
        System = 1, "system";
        /// The collector.
        Gc = 2, "gc";
        /// Code in no table: on the goroutine's stack, or foreign code on the thread's own.
        External = 3, "external";
    }
}

/// The outcome of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete traceback, or its first [`MAX_FRAMES`] frames.
    Traceback,
    /// There was no goroutine to walk.
    NoGoroutine,
    /// No traceback, for this reason; with the holder if the lock was held.
    Skipped(SkipReason, Option<Owner>),
    /// The walk began and failed, which is never right.
    Failed(WalkError),
}

/// A frame of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleFrame {
    /// Program counter.
    pub pc: usize,
    /// SP at that PC.
    pub sp: usize,
}

/// One sample.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The outcome of the signal.
    pub outcome: Outcome,
    /// The pseudo-frame.
    pub pseudo: Pseudo,
    /// The rate at which it was taken, which says what it is worth.
    pub rate: RateEpoch,
    /// The interrupted PC.
    pub pc: usize,
    /// The interrupted SP.
    pub sp: usize,
    /// The class of the interrupted code.
    pub class: CodeClass,
    /// The goroutine's number; zero if there was none.
    pub goroutine: u8,
    /// The number of frames that count.
    pub len: usize,
    /// The frames, innermost first.
    pub frames: [SampleFrame; MAX_FRAMES],
}

impl Sample {
    /// The value before there is a sample.
    pub const NONE: Sample = Sample {
        outcome: Outcome::NoGoroutine,
        pseudo: Pseudo::None,
        rate: RateEpoch { hz: 0, epoch: 0 },
        pc: 0,
        sp: 0,
        class: CodeClass::Runtime,
        goroutine: 0,
        len: 0,
        frames: [SampleFrame { pc: 0, sp: 0 }; MAX_FRAMES],
    };

    /// Returns the frames that count.
    #[inline]
    pub fn frames(&self) -> &[SampleFrame] {
        &self.frames[..self.len]
    }

    /// Copies `other`, and of its frames those that count. A length that was torn is copied as it is,
    /// for the checksum to show, and does not lead out of the frames.
    pub(crate) fn copy_from(&mut self, other: &Sample) {
        let Sample { outcome, pseudo, rate, pc, sp, class, goroutine, len, ref frames } = *other;
        let count = len.min(MAX_FRAMES);
        self.frames[..count].copy_from_slice(&frames[..count]);
        (self.outcome, self.pseudo, self.rate, self.pc, self.sp) = (outcome, pseudo, rate, pc, sp);
        (self.class, self.goroutine, self.len) = (class, goroutine, len);
    }
}

/// The disposition of a sample: where the handler has put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum SampleDisposition {
    /// It was discarded: profiling was off.
    Off = 0,
    /// It is in the buffer.
    Kept = 1,
    /// The buffer was full.
    Dropped = 2,
}
