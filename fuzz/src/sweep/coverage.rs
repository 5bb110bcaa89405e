//! Coverage of a sweep: the runs at each instruction of the marked code, and why there were none at others.

use sigstorm_inject::Region;
use sigstorm_runtime::FuncId;

use super::plan::{Injection, Perturbation};
use super::reasons::never;
use crate::executor::number;
use crate::outcome::{Injected, Visit};

/// An instruction and what was done there.
#[derive(Clone, Copy, Debug)]
pub struct InstructionCoverage {
    /// Its function.
    pub function: FuncId,
    /// Which of its instructions.
    pub index: u16,
    /// How often the watched runs came there within a step.
    pub crossed: u64,
    /// How often after the last step.
    pub afterwards: u64,
    /// Signals that came exactly there.
    pub signals: u64,
    /// Times that others went on while a thread was held there.
    pub handovers: u64,
    /// Whether a visit was seen at which signals were not blocked.
    pub open: bool,
    /// Why no run of a quiet core comes there, if none can.
    pub never: Option<&'static str>,
}

/// Why nothing was done at an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreachedReason {
    /// None of the schedules comes there.
    NotCrossed,
    /// The instruction is reached only after a schedule's last step.
    Afterwards,
    /// Signals are blocked there, and no other thread could go on meanwhile.
    Alone,
    /// Signals came later than there.
    Missed,
}

impl UnreachedReason {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            UnreachedReason::NotCrossed => "none of these schedules comes there",
            UnreachedReason::Afterwards => "these schedules come there only after their last step",
            UnreachedReason::Alone => "signals are blocked there, and nobody else could go on meanwhile",
            UnreachedReason::Missed => "no signal arrived there",
        }
    }
}

impl InstructionCoverage {
    /// A signal came there, or, where signals are blocked, others went on.
    pub fn injected(&self) -> bool {
        if self.open { self.signals != 0 } else { self.handovers != 0 }
    }

    /// Why nothing was done there; nothing where something was.
    pub fn why(&self) -> Option<UnreachedReason> {
        match self {
            place if place.injected() => None,
            InstructionCoverage { crossed: 0, afterwards: 0, .. } => Some(UnreachedReason::NotCrossed),
            InstructionCoverage { crossed: 0, .. } => Some(UnreachedReason::Afterwards),
            InstructionCoverage { open: true, .. } => Some(UnreachedReason::Missed),
            _ => Some(UnreachedReason::Alone),
        }
    }
}

/// The marked code and what was done in it.
#[derive(Clone, Debug)]
pub struct Coverage {
    places: Vec<InstructionCoverage>,
    /// The first place of each function.
    first: Vec<usize>,
}

impl Coverage {
    /// Of nothing yet.
    pub fn new(region: &Region) -> Coverage {
        let (mut places, mut first) = (Vec::new(), Vec::new());
        for &function in FuncId::ALL {
            first.push(places.len());
            for (index, never) in never(region, function).into_iter().enumerate() {
                places.push(InstructionCoverage {
                    function,
                    index: index as u16,
                    crossed: 0,
                    afterwards: 0,
                    signals: 0,
                    handovers: 0,
                    open: false,
                    never,
                });
            }
        }
        Coverage { places, first }
    }

    /// Every instruction, function by function.
    pub fn places(&self) -> &[InstructionCoverage] {
        &self.places
    }

    /// The instructions of one function.
    pub fn of(&self, function: FuncId) -> impl Iterator<Item = &InstructionCoverage> {
        self.places.iter().filter(move |place| place.function == function)
    }

    fn place(&mut self, function: FuncId, index: u16) -> Option<&mut InstructionCoverage> {
        let first = *self.first.get(number(function))?;
        self.places.get_mut(first + usize::from(index)).filter(|place| place.function == function)
    }

    /// Notes the visits of a watched run with so many steps.
    pub fn watched(&mut self, visits: &[Visit], steps: usize) {
        for visit in visits {
            let Some(function) = FuncId::from_code(visit.function) else { continue };
            let Some(place) = self.place(function, visit.index) else { continue };
            let count = u64::from(visit.count);
            if (visit.step as usize) < steps {
                place.crossed += count;
                let seen = u8::MAX >> (8 - visit.count.min(8));
                place.open |= visit.masked & seen != seen;
            } else {
                place.afterwards += count;
            }
        }
    }

    /// Notes what became of a run.
    pub fn ran(&mut self, injection: &Injection, injected: &Injected) {
        if injected.held == 0 {
            return;
        }
        if let Some(place) = self.place(injection.function, injection.index) {
            match injection.what {
                Perturbation::Signal => place.signals += injected.samples(),
                _ => place.handovers += u64::from(injected.handed != 0),
            }
        }
    }

    /// The instructions that a run of a quiet core can reach.
    pub fn reachable(&self) -> impl Iterator<Item = &InstructionCoverage> {
        self.places.iter().filter(|place| place.never.is_none() || place.crossed + place.afterwards != 0)
    }

    /// The number of reachable instructions.
    pub fn boundaries(&self) -> usize {
        self.reachable().count()
    }

    /// The number of reachable instructions at which something was done.
    pub fn injected(&self) -> usize {
        self.reachable().filter(|place| place.injected()).count()
    }

    /// The reachable instructions at which nothing was done, with the reason.
    pub fn unreached(&self) -> impl Iterator<Item = (&InstructionCoverage, UnreachedReason)> {
        self.reachable().filter_map(|place| Some((place, place.why()?)))
    }
}
