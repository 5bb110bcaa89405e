//! The cause of a finding, as a key: findings of one mistake have the same, whatever their schedules' hashes.
//!
//! Two hunts that find one mistake shrink to different schedules: a call more or less, another
//! function on the stack, the other of two machines, a neighbouring instruction. The key keeps what the
//! mistake decides and drops the rest:
//!
//! 1. the **verdict**;
//! 2. the **code place**: the function that the evidence names first, which is where the sampled or the
//!    failing thread was (or else that of the run's last event). Its offset is dropped, since neighbouring
//!    instructions of one window are one cause;
//! 3. the **shape** of the shrunk schedule: the set of its steps, each as the class of its actor (`m` for either
//!    machine, `gc`, `ext`), the name of its operation, and the function or the point at which it is held.
//!    Operands, goroutines, visits, indices, repetitions and order are dropped, and so are the steps that
//!    only set options (a barrier in every frame, a stack's size) or only build the stack
//!    (`call` and `ret` that are not held).
//!
//! For example `bad-traceback at small: gc.mark gc.scan@install.slot m.signal`. A storm has no
//! schedule, so its shape is `storm`; verdict and place can still be compared with those of a hunt.
//! The key is a heuristic: it joins what is likely one cause, and never replaces the schedule.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

use sigstorm_runtime::Function;

use super::FoundSchedule;
use crate::outcome::{Event, Finding};
use crate::schedule::{Actor, Op, Schedule, Step, Stop};

/// The key of a cause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    /// The verdict's name.
    pub verdict: String,
    /// The function where it was found, if the finding names one.
    pub place: Option<String>,
    /// The steps of the schedule that matter; none of a storm.
    pub shape: Option<BTreeSet<String>>,
}

impl Cause {
    /// The cause of a finding, which this schedule shows, or a storm.
    pub fn of(finding: &Finding, schedule: Option<&FoundSchedule>) -> Cause {
        let events = schedule.map_or(&[][..], |schedule| &schedule.events);
        Cause {
            verdict: finding.verdict.clone(),
            place: place(finding).or_else(|| last_place(events)).map(|function| function.name().to_owned()),
            shape: schedule.map(|schedule| shape(&schedule.schedule)),
        }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        if let Some(place) = &self.place {
            write!(f, " at {place}")?;
        }
        match &self.shape {
            None => write!(f, ": storm"),
            Some(shape) => {
                write!(f, ":")?;
                shape.iter().try_for_each(|step| write!(f, " {step}"))
            }
        }
    }
}

/// The function that a finding's text names first, as `FUNCTION+OFFSET`.
fn place(finding: &Finding) -> Option<Function> {
    std::iter::once(&finding.summary).chain(&finding.evidence).find_map(|line| function_in(line))
}

/// The function of the last event whose place is known.
fn last_place(events: &[Event]) -> Option<Function> {
    events.iter().rev().find_map(|event| function_in(&event.pc))
}

fn function_in(text: &str) -> Option<Function> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+-_.".contains(c)));
    words.filter_map(|word| word.split_once('+')).find_map(|(name, _)| Function::from_name(name))
}

fn shape(schedule: &Schedule) -> BTreeSet<String> {
    schedule.steps.iter().filter_map(shape_of).collect()
}

/// A step in the shape; nothing for one that does not count.
fn shape_of(step: &Step) -> Option<String> {
    let actor = match step.actor {
        Actor::M1 | Actor::M2 => "m",
        Actor::Gc => "gc",
        Actor::Ext => "ext",
        Actor::World => return None,
    };
    let op = Op::names().nth(step.op.kind())?;
    let held = match step.stop {
        Some(Stop::Point { point, .. }) => format!("@{}", point.name()),
        Some(Stop::Instr { function, .. }) => format!("@{}", function.name()),
        // A switch between goroutines comes with nearly every step, and says nothing.
        None if matches!(step.op, Op::Call { .. } | Op::Ret { .. } | Op::Run { .. }) => return None,
        None => String::new(),
    };
    Some(format!("{actor}.{op}{held}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Verdict;

    fn cause(text: &str, evidence: &str) -> Cause {
        let text = format!("# sigstorm schedule 1\n{text}\n");
        let schedule = Schedule::parse(&text).unwrap();
        let finding = Finding::new(Verdict::BadTraceback, "g1: wrong".into(), vec![evidence.into()]);
        Cause::of(&finding, Some(&FoundSchedule::found(&schedule.encode(), 1)))
    }

    #[test]
    fn schedules_of_one_mistake_have_one_key() {
        let one = cause(
            "m1 g1 call small; call tiny\ngc mark; scan g1 @ install.slot:2\nm1 signal",
            "at small+0x4",
        );
        let other = cause(
            "every_frame\nm2 g3 call huge*2\ngc mark; scan g3 @ install.slot\nm2 signal",
            "at small+0x7",
        );
        assert_eq!(one, other);
        assert_eq!(one.to_string(), "bad-traceback at small: gc.mark gc.scan@install.slot m.signal");
    }

    #[test]
    fn keys_of_other_verdicts_places_and_shapes_differ() {
        let schedule = "m1 g1 call small\ngc mark; scan g1 @ install.slot\nm1 signal";
        let one = cause(schedule, "at small+0x4");
        assert_ne!(one, cause(schedule, "at huge+0x4"));
        assert_ne!(one, cause("m1 g1 call small\ngc mark; scan g1\nm1 signal", "at small+0x4"));
        assert_ne!(one, Cause { verdict: "fault".into(), ..one.clone() });
    }

    #[test]
    fn cause_of_a_storm_has_no_shape() {
        let finding = Finding::new(Verdict::Deadlock, "m1 waits in small+0x10 (x)".into(), Vec::new());
        assert_eq!(Cause::of(&finding, None).to_string(), "deadlock at small: storm");
    }
}
