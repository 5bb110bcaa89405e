//! The cause of a finding, as a key: findings of one mistake have the same, whatever their schedules' hashes.
//!
//! Two hunts that find one mistake shrink to different schedules: a call more or less, another
//! function on the stack, the other of two machines, the writer held and the reader free, or the reader held and
//! the writer free. The key keeps what the mistake decides and drops the rest:
//!
//! 1. the **verdict**;
//! 2. the **code place**: the kind of code that the evidence names first, which is where the sampled or the
//!    failing thread was (or else that of the run's last event). All functions that are ordinary frames are
//!    one place, `frame`, and so are the stubs that leave Go code, `stub`; others are themselves. Offsets are dropped,
//!    since neighbouring instructions of one window are one cause;
//! 3. the **shape** of the shrunk schedule: the set of protocol activities in it, such as `install` (barriers
//!    go in), `remove`, `unwind`, `copystack`, `traceback`, `rate`. A step has the activity of its operation, and
//!    that of the point at which it is held. The actor, operands, repetitions and order are dropped, and so
//!    are steps that only build the stack, allocate or switch. A deadlock names `lock` for all activities that hold
//!    the stack lock: which of them its holder was at is chance.
//!
//! For example `bad-traceback in frame: install traceback`. A storm has no schedule, so its shape is `storm`;
//! verdict and place can still be compared with those of a hunt.
//!
//! The key is a heuristic, and coarse: mistakes of one activity share it. It groups findings to look at, and
//! never replaces the schedule.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

use sigstorm_runtime::FuncId;

use super::FoundSchedule;
use crate::outcome::{Event, Finding, Verdict};
use crate::schedule::{Op, Schedule, Step, Stop, Work};

/// Activities that hold the stack lock.
const UNDER_LOCK: [&str; 5] = ["copystack", "install", "remove", "setpc", "unwind"];

/// The key of a cause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    /// The verdict's name.
    pub verdict: String,
    /// The kind of code where it was found, if the finding names one.
    pub place: Option<&'static str>,
    /// The protocol activities in the schedule; none of a storm.
    pub shape: Option<BTreeSet<&'static str>>,
}

impl Cause {
    /// The cause of a finding, which this schedule shows, or a storm.
    pub fn of(finding: &Finding, schedule: Option<&FoundSchedule>) -> Cause {
        let events = schedule.map_or(&[][..], |schedule| &schedule.events);
        let deadlock = finding.verdict == Verdict::Deadlock.name();
        let activity = |name| if deadlock && UNDER_LOCK.contains(&name) { "lock" } else { name };
        Cause {
            verdict: finding.verdict.clone(),
            place: place(finding).or_else(|| last_place(events)).map(kind_of_code),
            shape: schedule.map(|found| activities(&found.schedule).map(activity).collect()),
        }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        if let Some(place) = &self.place {
            write!(f, " in {place}")?;
        }
        match &self.shape {
            None => write!(f, ": storm"),
            Some(shape) => {
                write!(f, ":")?;
                shape.iter().try_for_each(|activity| write!(f, " {activity}"))
            }
        }
    }
}

/// The function that a finding's text names first, as `FUNCTION+OFFSET`.
fn place(finding: &Finding) -> Option<FuncId> {
    std::iter::once(&finding.summary).chain(&finding.evidence).find_map(|line| function_in(line))
}

/// The function of the last event whose place is known.
fn last_place(events: &[Event]) -> Option<FuncId> {
    events.iter().rev().find_map(|event| function_in(&event.pc))
}

fn function_in(text: &str) -> Option<FuncId> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+-_.".contains(c)));
    words.filter_map(|word| word.split_once('+')).find_map(|(name, _)| FuncId::from_name(name))
}

fn kind_of_code(function: FuncId) -> &'static str {
    use FuncId::*;
    match function {
        Entry | Nosplit | Tiny | Small | Medium | Large | Huge | Deferring | Leaf | Gopanic | Goexit
        | Callback => "frame",
        Syscall | Cgocall => "stub",
        SwitchIn | SwitchOut => "switch",
        other => other.name(),
    }
}

fn activities(schedule: &Schedule) -> impl Iterator<Item = &'static str> {
    let of_stop = |step: &Step| match step.stop {
        Some(Stop::Point { point, .. }) => of_point(point.name()),
        _ => None,
    };
    schedule.steps.iter().flat_map(move |step| [of_op(step.op), of_stop(step)]).flatten()
}

/// The protocol activity of an operation; nothing for one that builds the stack, allocates or switches, and
/// for the phases of a cycle that change no stack.
fn of_op(op: Op) -> Option<&'static str> {
    Some(match op {
        Op::Scan { .. } => "install",
        Op::Term | Op::Stw | Op::Collect { work: Work::Term | Work::Stw } => "remove",
        Op::Shrink { .. } => "copystack",
        Op::Bulk { .. } | Op::Recover => "unwind",
        Op::SetPc => "setpc",
        Op::Signal => "traceback",
        Op::Hz { .. } | Op::Rate { .. } => "rate",
        _ => return None,
    })
}

/// The protocol activity of a scheduling point, by the first word of its name.
fn of_point(name: &str) -> Option<&'static str> {
    Some(match name.split('.').next()? {
        "install" => "install",
        "remove" => "remove",
        "unwind" | "bulk" | "recover" => "unwind",
        "copystack" => "copystack",
        "traceback" | "handler" | "sample" | "trace" => "traceback",
        "rate" | "timer" => "rate",
        "setpc" => "setpc",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(verdict: Verdict, text: &str, evidence: &str) -> Cause {
        let text = format!("# sigstorm schedule 1\n{text}\n");
        let schedule = Schedule::parse(&text).unwrap();
        let finding = Finding::new(verdict, "g1: wrong".into(), vec![evidence.into()]);
        Cause::of(&finding, Some(&FoundSchedule::found(&schedule.encode(), 1)))
    }

    #[test]
    fn schedules_of_one_mistake_have_one_key() {
        let key = |text: &str, evidence: &str| cause(Verdict::BadTraceback, text, evidence);
        let one =
            key("m1 g1 call small; call tiny\ngc mark; scan g1 @ install.slot:2\nm1 signal", "at small+0x4");
        let others = [
            key("every_frame\nm2 g3 call huge*2\ngc mark; scan g3 @ install.entry\nm2 signal", "at huge+0x7"),
            key("m1 g1 call tiny; signal @ traceback.frame\ngc mark; scan g1\nm1 resume", "at tiny+0x1"),
        ];
        assert_eq!(others, [one.clone(), one.clone()]);
        assert_eq!(one.to_string(), "bad-traceback in frame: install traceback");
    }

    #[test]
    fn deadlocks_of_any_holder_of_the_stack_lock_have_one_key() {
        let key = |text: &str| cause(Verdict::Deadlock, text, "at small+0x4");
        let one = key("m1 g1 call small; bulk 1 @ lock.release; signal");
        assert_eq!(one, key("m1 g1 call huge @ copystack.bounds; signal"));
        assert_eq!(one.to_string(), "deadlock in frame: lock traceback");
    }

    #[test]
    fn keys_of_other_verdicts_places_and_shapes_differ() {
        let schedule = "m1 g1 call small\ngc mark; scan g1 @ install.slot\nm1 signal";
        let one = cause(Verdict::BadTraceback, schedule, "at small+0x4");
        let other = "m1 g1 call small\ngc term @ remove.slot\nm1 signal";
        assert_ne!(one, cause(Verdict::BadTraceback, other, "at small+0x4"));
        assert_ne!(one, cause(Verdict::BadTraceback, schedule, "at trampoline+0x4"));
        assert_ne!(one, cause(Verdict::Fault, schedule, "at small+0x4"));
    }

    #[test]
    fn cause_of_a_storm_has_no_shape() {
        let finding = Finding::new(Verdict::Deadlock, "m1 waits in small+0x10 (x)".into(), Vec::new());
        assert_eq!(Cause::of(&finding, None).to_string(), "deadlock in frame: storm");
    }
}
