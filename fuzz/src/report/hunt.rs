//! The result of a hunt: the line that scripts rely on, and the table that people read.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sigstorm_runtime::profiler::SkipReason;
use sigstorm_runtime::{CodeClass, FuncId};

use super::Inconclusive;
use super::summary::{Machine, overrun, side_by_side};
use super::words::lossy_path;
use crate::campaign::hunt::{HuntPlan, Totals};
use crate::outcome::{Counts, Verdict};
use crate::process::cores;
use crate::schedule::Op;

/// The last line of `hunt --json`. Keys are added, never changed.
#[derive(Debug, Serialize)]
pub struct HuntSummary<'a> {
    r#type: &'static str,
    command: &'static str,
    schedules: u64,
    steps: u64,
    handovers: u64,
    signals: u64,
    seconds: f64,
    jobs: usize,
    schedules_per_second: f64,
    tracebacks: u64,
    skips: BTreeMap<&'static str, u64>,
    interrupted: BTreeMap<&'static str, u64>,
    features: u64,
    violations: u64,
    verdict: Option<&'a str>,
    #[serde(serialize_with = "lossy_path")]
    report: Option<&'a Path>,
    seed: u64,
    alone: u64,
    interrupted_calls: u64,
    events: u64,
    accounting: Accounting,
    steps_by_kind: BTreeMap<&'static str, u64>,
    frames: BTreeMap<&'static str, u64>,
    /// Why there is no answer.
    inconclusive: Option<&'static str>,
    /// By how many seconds the budget was overrun.
    overrun: Option<f64>,
    cores: &'a [usize],
    core_share: &'a [Option<f64>],
    notes: &'a [String],
}

/// Accounting of every signal that was sent. But for the run that ended with a finding, `sent`
/// is the sum of the rest.
#[derive(Debug, Serialize)]
struct Accounting {
    sent: u64,
    tracebacks_read: u64,
    alone_read: u64,
    skips: BTreeMap<&'static str, u64>,
    coalesced: u64,
    dropped: u64,
}

impl Accounting {
    fn new(counts: &Counts) -> Accounting {
        Accounting {
            sent: counts.sent,
            tracebacks_read: counts.read_tracebacks,
            alone_read: counts.read_alone,
            skips: SkipReason::ALL.iter().map(|skip| skip.name()).zip(counts.accounted_skips()).collect(),
            coalesced: counts.coalesced,
            dropped: counts.dropped,
        }
    }
}

/// Schedules a second.
fn rate(schedules: u64, seconds: f64) -> f64 {
    schedules as f64 / seconds.max(1e-3)
}

impl<'a> HuntSummary<'a> {
    /// The summary; `verdict` and `report` are those of the first finding.
    pub fn new(
        plan: &HuntPlan,
        totals: &'a Totals,
        seconds: f64,
        verdict: Option<&'a str>,
        report: Option<&'a Path>,
        machine: &'a Machine,
    ) -> HuntSummary<'a> {
        let counts = &totals.counts;
        HuntSummary {
            r#type: "summary",
            command: "hunt",
            schedules: counts.schedules,
            steps: counts.steps,
            handovers: counts.handovers,
            signals: counts.signals,
            seconds,
            jobs: plan.jobs,
            schedules_per_second: rate(counts.schedules, seconds),
            tracebacks: counts.tracebacks,
            skips: by_reason(counts).collect(),
            interrupted: by_class(counts).collect(),
            features: totals.features,
            // An error of the harness is none of the core's.
            violations: verdict.is_some_and(|verdict| verdict != Verdict::HarnessError.name()).into(),
            verdict,
            report,
            seed: plan.worker.seed,
            alone: counts.alone,
            interrupted_calls: counts.interrupted_calls,
            events: counts.events,
            accounting: Accounting::new(counts),
            steps_by_kind: by_kind(counts).collect(),
            frames: by_function(counts).collect(),
            inconclusive: machine.inconclusive.map(Inconclusive::name),
            overrun: overrun(plan.worker.seconds, seconds),
            cores: &machine.cores,
            core_share: &totals.shares,
            notes: &machine.notes,
        }
    }
}

/// Remarks about time: that the budget was overrun, and that workers had less than a core.
pub fn pace(plan: &HuntPlan, totals: &Totals, seconds: f64) -> Option<String> {
    let late = overrun(plan.worker.seconds, seconds).filter(|late| *late >= 1.0);
    let late = late.map(|late| format!("took {late:.1} s longer than it should"));
    let short = totals.shares.iter().flatten().any(|share| *share < WHOLE);
    let short = short.then(|| format!("workers had {}", cores::in_words(&totals.shares)));
    let said: Vec<String> = late.into_iter().chain(short).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// A worker with less than this has not had its core for itself.
const WHOLE: f64 = 0.8;

/// One line now and then, for machines.
#[derive(Debug, Serialize)]
pub struct HuntProgress {
    r#type: &'static str,
    seconds: f64,
    schedules: u64,
    schedules_per_second: f64,
    signals: u64,
    tracebacks: u64,
    skips: u64,
    features: u64,
    core_share: Vec<Option<f64>>,
}

impl HuntProgress {
    /// How far it is.
    pub fn new(totals: &Totals, seconds: f64) -> HuntProgress {
        let counts = &totals.counts;
        HuntProgress {
            r#type: "progress",
            seconds,
            schedules: counts.schedules,
            schedules_per_second: rate(counts.schedules, seconds),
            signals: counts.signals,
            tracebacks: counts.tracebacks,
            skips: counts.skips.iter().sum(),
            features: totals.features,
            core_share: totals.shares.clone(),
        }
    }
}

fn by_reason(counts: &Counts) -> impl Iterator<Item = (&'static str, u64)> {
    SkipReason::ALL.iter().map(|reason| reason.name()).zip(counts.skips)
}

fn by_class(counts: &Counts) -> impl Iterator<Item = (&'static str, u64)> {
    CodeClass::ALL.iter().map(|class| class.name()).zip(counts.interrupted)
}

/// Steps that were begun, by the name of what they do.
fn by_kind(counts: &Counts) -> impl Iterator<Item = (&'static str, u64)> {
    Op::names().zip(counts.kinds)
}

/// Frames of right tracebacks, by function: of those that have any. A leaf is in no table.
fn by_function(counts: &Counts) -> impl Iterator<Item = (&'static str, u64)> {
    let has_frames = |function: &&FuncId| {
        function.on_goroutine_stack()
            && !matches!(function, FuncId::Trampoline | FuncId::SwitchIn | FuncId::SwitchOut | FuncId::Leaf)
    };
    let count = |function: &FuncId| (function.name(), counts.frames[usize::from(function.code())]);
    FuncId::ALL.iter().filter(has_frames).map(count)
}

/// The codes that no schedule has reached, in words; nothing where all were.
pub fn never(counts: &Counts) -> Option<String> {
    let none = |of: &mut dyn Iterator<Item = (&'static str, u64)>| {
        of.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    };
    let what = [
        ("steps", none(&mut by_kind(counts))),
        ("frames in tracebacks", none(&mut by_function(counts))),
        ("reasons to skip", none(&mut by_reason(counts))),
        ("interrupted", none(&mut by_class(counts))),
    ];
    let named = what.iter().filter(|(_, names)| !names.is_empty());
    let said: Vec<_> = named.map(|(what, names)| format!("{what}: {names}")).collect();
    (!said.is_empty()).then(|| format!("never: {}", said.join("; ")))
}

/// The counts side by side: what was done, why walks were skipped, what code was interrupted.
pub fn table(plan: &HuntPlan, totals: &Totals, seconds: f64) -> String {
    let counts = &totals.counts;
    let per_core = rate(counts.schedules, seconds) / plan.jobs as f64;
    let done = [
        ("schedules", counts.schedules),
        ("per second and core", per_core as u64),
        ("steps", counts.steps),
        ("hand-overs", counts.handovers),
        ("signals", counts.signals),
        ("right tracebacks", counts.tracebacks),
        ("no goroutine there", counts.alone),
        ("dropped samples", counts.dropped),
        ("coalesced signals", counts.coalesced),
        ("interleavings seen", totals.features),
    ];
    let columns: [Vec<(&str, u64)>; 3] =
        [done.to_vec(), by_reason(counts).collect(), by_class(counts).collect()];
    side_by_side(["done", "walks skipped", "interrupted in"], &columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::WorkerOptions;
    use serde_json::Value;

    fn plan() -> HuntPlan {
        let worker = WorkerOptions { seed: 7, ..WorkerOptions::default() };
        HuntPlan { jobs: 2, worker, ..HuntPlan::default() }
    }

    fn totals() -> Totals {
        let mut counts = Counts { schedules: 1000, tracebacks: 5, ..Counts::default() };
        counts.skips[0] = 3;
        Totals { counts, features: 9, shares: vec![Some(0.9), Some(0.1)] }
    }

    #[test]
    fn hunt_summary_has_the_keys_that_scripts_use() {
        let (totals, machine) = (totals(), Machine::default());
        let summary = HuntSummary::new(&plan(), &totals, 2.0, None, None, &machine);
        let value = serde_json::to_value(summary).unwrap();
        // From the design; more may be added, none may go.
        let keys = "type command schedules steps handovers signals seconds jobs schedules_per_second \
                    tracebacks skips interrupted features violations verdict report \
                    inconclusive overrun cores core_share notes";
        for key in keys.split_whitespace() {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(value["schedules_per_second"], 500.0);
        assert_eq!((&value["verdict"], &value["report"]), (&Value::Null, &Value::Null));
        assert_eq!(value["skips"]["lock-held"], 3);
        let names = |key: &str| value[key].as_object().unwrap().len();
        assert_eq!((names("skips"), names("interrupted")), (SkipReason::ALL.len(), CodeClass::ALL.len()));
    }

    #[test]
    fn harness_error_is_no_violation_in_the_summary() {
        let (totals, machine) = (totals(), Machine::default());
        let violations =
            |verdict| HuntSummary::new(&plan(), &totals, 0.0, verdict, None, &machine).violations;
        assert_eq!(violations(None), 0);
        assert_eq!(violations(Some("fault")), 1);
        assert_eq!(violations(Some("harness-error")), 0);
    }

    #[test]
    fn pace_names_an_overrun_and_a_shared_core() {
        let mut limited = plan();
        limited.worker.seconds = Some(60);
        let mut totals = totals();
        let said = pace(&limited, &totals, 119.0).unwrap();
        assert_eq!(said, "took 59.0 s longer than it should; workers had 90, 10 % of a core");
        totals.shares = vec![Some(0.9), None];
        assert_eq!(pace(&limited, &totals, 60.2), None);
    }

    #[test]
    fn codes_that_were_never_reached_are_named() {
        let mut counts = totals().counts;
        let said = never(&counts).expect("there is much");
        assert!(said.contains("steps: resume, ") && said.contains("frames in tracebacks: entry, "), "{said}");
        assert!(said.contains("foreign-thread") && !said.contains("lock-held"), "{said}");
        counts.kinds.fill(1);
        counts.frames.fill(1);
        counts.skips.fill(1);
        counts.interrupted.fill(1);
        assert_eq!(never(&counts), None);
    }

    #[test]
    fn hunt_table_has_every_name() {
        let table = table(&plan(), &totals(), 2.0);
        for name in SkipReason::ALL.iter().map(|s| s.name()).chain(CodeClass::ALL.iter().map(|c| c.name())) {
            assert!(table.contains(name), "{name}");
        }
        assert!(table.contains("1,000") && table.contains("250"), "{table}");
    }
}
