//! The marked code of this process, and the recording of every instruction that a step reaches.
//!
//! In a recorded run the whole region is armed, and every visit is noted with the step that led to
//! it. A signal's handler takes the ladder away from the instruction that it interrupted, which then
//! traps a second time as the handler returns: that visit is not counted.

use sigstorm_inject::{self as inject, Ladder, Region};
use sigstorm_runtime::FuncId;

use crate::outcome::Visit;

/// A function's number in the region.
pub(crate) fn number(function: FuncId) -> usize {
    FuncId::ALL.binary_search(&function).unwrap_or(usize::MAX)
}

/// The marked code, with the means to stop in it.
#[derive(Debug)]
pub(crate) struct Code {
    region: Option<&'static Region>,
    /// Found by the trap handler, so it lives as long as the process.
    ladder: Option<&'static Ladder>,
    recording: Option<Recording>,
}

/// A recorded run.
#[derive(Debug)]
struct Recording {
    steps: usize,
    /// The region's boundaries.
    width: usize,
    /// The first boundary of each function.
    first: Vec<usize>,
    /// A row for each step, and one for what comes after the last.
    visits: Vec<Visits>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Visits {
    count: u16,
    masked: u8,
}

impl Code {
    pub(super) const fn new() -> Self {
        Code { region: None, ladder: None, recording: None }
    }

    /// Stops are named by `built`, the code as it was built, and breakpoints are put back as `runs`, the code
    /// that runs: a planted defect may have changed it.
    pub(super) fn set(&mut self, built: &'static Region, runs: &Region) {
        self.ladder = Some(Box::leak(Box::new(Ladder::new(runs))));
        self.region = Some(built);
    }

    pub(super) fn ladder(&self) -> Option<&'static Ladder> {
        self.ladder
    }

    /// Whether the run is recorded.
    #[inline]
    pub(super) fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// Takes every breakpoint out of the code.
    pub(super) fn clear_all(&self) {
        inject::clear_breakpoint();
        if let Some(ladder) = self.ladder {
            ladder.disarm();
        }
    }

    /// The address of an instruction; none if it is not there or is another one. Without a check value the
    /// index counts round and round.
    pub(super) fn resolve(&self, function: FuncId, index: u16, check: Option<u8>) -> Option<usize> {
        let region = self.region?;
        let function = number(function);
        let count = region.count(function);
        let index = match check {
            None => usize::from(index) % count.max(1),
            Some(_) => usize::from(index),
        };
        let boundary = region.boundaries(function).get(index)?;
        if check.is_some_and(|check| check != boundary.check) {
            return None;
        }
        region.address(function, index)
    }

    // -- recording ------------------------------------------------------------------------

    /// The next run is recorded: it has so many steps.
    pub(super) fn start_recording(&mut self, steps: usize) {
        let (Some(region), Some(ladder)) = (self.region, self.ladder) else { return };
        let mut first = Vec::new();
        let mut width = 0;
        for f in 0..region.functions().len() {
            first.push(width);
            width += region.count(f);
        }
        let visits = vec![Visits::default(); (steps + 1) * width];
        self.recording = Some(Recording { steps, width, first, visits });
        inject::clear_breakpoint();
        // SAFETY: the marked code, writable for the process's life; only the thread with the baton runs it.
        unsafe { ladder.arm_all() };
    }

    /// Ends the recording; returns the instructions that the run reached.
    pub(super) fn stop_recording(&mut self) -> Vec<Visit> {
        self.clear_all();
        let (Some(recording), Some(region)) = (self.recording.take(), self.region) else { return Vec::new() };
        let mut visits = Vec::new();
        for (step, row) in recording.visits.chunks(recording.width.max(1)).enumerate() {
            for (f, function) in FuncId::ALL.iter().enumerate() {
                for index in 0..region.count(f) {
                    let Visits { count, masked } = row[recording.first[f] + index];
                    if count != 0 {
                        let (step, function) = (step as u32, function.code());
                        visits.push(Visit { step, function, index: index as u16, count, masked });
                    }
                }
            }
        }
        visits
    }

    /// Notes a visit under `step`. Does not allocate.
    pub(super) fn visit(&mut self, step: u32, pc: usize, masked: bool) {
        let (Some(recording), Some(region)) = (&mut self.recording, self.region) else { return };
        let Some(location) = region.locate(pc) else { return };
        let step = (step as usize).min(recording.steps);
        let at = step * recording.width + recording.first[location.function] + location.index;
        if let Some(visits) = recording.visits.get_mut(at) {
            if visits.count < 8 {
                visits.masked |= u8::from(masked) << visits.count;
            }
            visits.count = visits.count.saturating_add(1);
        }
    }
}
