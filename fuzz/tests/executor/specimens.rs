//! Every planted defect is caught by its own schedule, with the verdict that the museum
//! expects, and that schedule finds nothing in the healthy core.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sigstorm::generate::Generator;
use sigstorm::outcome::Verdict;
use sigstorm::schedule::{Actor, Op, Schedule};
use sigstorm_runtime::{Defect, instrument::canary};

use crate::common::{describe, harness, in_child, run_clean};

/// The museum's table.
fn expected(defect: Defect) -> &'static [Verdict] {
    use Verdict::*;
    match defect {
        Defect::InstallUnlocked => &[BadTraceback],
        Defect::SigprofSpins => &[Deadlock],
        Defect::RemoveUnlocked => &[BadTraceback],
        Defect::RecoverUnwindUnlocked => &[BadTraceback],
        Defect::BulkUnwindUnlocked => &[BadTraceback],
        Defect::TrampolineNotSimulated => &[BadTraceback],
        Defect::CopystackStatusCheckOnly => &[BadTraceback, Fault],
        Defect::CgoTracebackUnlocked => &[BadTraceback],
        Defect::LockFollowsWrongG => &[BadTraceback],
        Defect::CgoSampleDiscarded => &[UnjustifiedSkip],
        Defect::BarrierInCallbackFrame => &[BarrierOutOfOrder, BadTraceback],
        Defect::CopystackUnlocked => &[BadTraceback, Fault],
        Defect::TraceEventUnlocked => &[BadTraceback],
        Defect::ExitKeepsBarriers => &[BarrierLost, BadTraceback],
        Defect::ScanFromSchedSp => &[BarrierOverflow],
        Defect::BulkWriteSkipsUnwind => &[LiveObjectFreed],
        Defect::UnwindLeavesTrampolines => &[BarrierOutOfOrder, BadTraceback],
        Defect::UnknownPcDereferenced => &[Fault],
        Defect::RateChangeKeepsTimer => &[Deadlock],
        Defect::ForeignThreadSignal => &[Fault],
        Defect::SwitchWindowWalked => &[BadTraceback],
        Defect::DoubleScan => &[BarrierLost, DoubleInstall],
        Defect::WriteBarriersLate => &[LiveObjectFreed],
        Defect::ShrinkIgnoresGuard => &[StackOverflow],
        Defect::PreemptibleLock => &[Deadlock],
        Defect::SetNextBarrierUnlocked | Defect::OrderCheckInverted => SILENT,
    }
}

/// No verdict: the code is safe after all, or a check is missing and there is nothing to check.
const SILENT: &[Verdict] = &[];

/// The defects that must be caught, or those that must not, by name.
fn specimens(silent: bool) -> impl Iterator<Item = &'static str> {
    let wanted = move |defect: &&Defect| expected(**defect).is_empty() == silent;
    Defect::ALL.iter().filter(wanted).map(|defect| defect.name())
}

/// `corpus/schedule/`, by name.
fn corpus() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/schedule");
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files
        .map(|entry| entry.expect("an entry of the corpus").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| {
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name in UTF-8");
            (name.to_owned(), fs::read_to_string(&path).expect("a schedule in text"))
        })
        .collect()
}

#[test]
fn every_defect_has_its_schedule_and_every_schedule_its_defect() {
    let mut defects: Vec<&str> = Defect::ALL.iter().map(|defect| defect.name()).collect();
    defects.sort_unstable();
    assert_eq!(corpus().into_keys().collect::<Vec<_>>(), defects);
}

#[test]
fn every_schedule_survives_its_own_text_and_bytes() {
    for (name, text) in corpus() {
        let schedule = Schedule::parse(&text).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(!schedule.steps.is_empty(), "{name}");
        assert_eq!(schedule, schedule.canonical(), "{name}");
        assert_eq!(Schedule::parse(&schedule.to_text()).as_ref(), Ok(&schedule), "{name}");
        assert_eq!(Schedule::decode(&schedule.encode()), schedule, "{name}");
    }
}

#[test]
fn every_defect_is_caught_by_its_own_schedule() {
    for name in specimens(false) {
        let verdict = in_child("specimens::every_defect_is_caught_by_its_own_schedule", name, |name| {
            let defect = Defect::from_name(name).expect("a defect's name");
            let schedule = Schedule::parse(&corpus()[name]).expect("a schedule");
            let run = harness(&[defect]).run(&schedule, true);
            let finding = run.finding.as_ref().unwrap_or_else(|| panic!("{name} is not caught"));
            let verdict = run.verdict().expect("a verdict of the table");
            assert!(expected(defect).contains(&verdict), "{name}: {}", describe(finding));
            // It is shown, and not only said.
            assert!(finding.step < schedule.steps.len(), "{name}: {}", describe(finding));
            assert!(!finding.summary.is_empty() && !finding.dump.is_empty(), "{}", describe(finding));
            assert!(!run.events.is_empty(), "{name}");
            verdict.name().to_owned()
        });
        assert!(Verdict::from_name(&verdict).is_some(), "{name}: {verdict}");
    }
}

#[test]
fn silent_specimens_give_no_verdict() {
    const RUNS: usize = 3_000;
    for name in specimens(true) {
        in_child("specimens::silent_specimens_give_no_verdict", name, |name| {
            let defect = Defect::from_name(name).expect("a defect's name");
            let mut harness = harness(&[defect]);
            let schedule = Schedule::parse(&corpus()[name]).expect("a schedule");
            let own = run_clean(&mut harness, &schedule, false);
            assert!(own.counts.tracebacks >= 2, "{name}: {:?}", own.counts);
            assert!(canary::reached(defect), "{name} does not run");
            let mut generator = Generator::new(0x51e7, None);
            for _ in 0..RUNS {
                run_clean(&mut harness, &generator.schedule(), false);
            }
            String::new()
        });
    }
}

#[test]
fn every_defect_is_caught_without_the_order_check() {
    for name in specimens(false) {
        in_child("specimens::every_defect_is_caught_without_the_order_check", name, |name| {
            let defect = Defect::from_name(name).expect("a defect's name");
            let schedule = Schedule::parse(&corpus()[name]).expect("a schedule");
            let run = harness(&[defect, Defect::OrderCheckInverted]).run(&schedule, false);
            let verdict = run.verdict().unwrap_or_else(|| panic!("{name} is not caught"));
            assert!(verdict != Verdict::HarnessError, "{name}");
            verdict.name().to_owned()
        });
    }
}

#[test]
fn healthy_runtime_is_silent_on_every_specimens_schedule() {
    in_child("specimens::healthy_runtime_is_silent_on_every_specimens_schedule", "", |_| {
        let mut harness = harness(&[]);
        for (name, text) in corpus() {
            let schedule = Schedule::parse(&text).expect("a schedule");
            let first = run_clean(&mut harness, &schedule, true);
            // Not silent for want of doing anything: every step that is no option counts,
            // but for a `resume` of a thread that the healthy core had no reason to hold.
            let steps = schedule.steps.iter().filter(|step| step.actor != Actor::World).count();
            assert!(first.counts.steps + 1 >= steps as u64, "{name}: {} of {steps}", first.counts.steps);
            for _ in 0..3 {
                let again = run_clean(&mut harness, &schedule, true);
                assert_eq!((again.trace_hash, &again.events), (first.trace_hash, &first.events), "{name}");
            }
        }
        String::new()
    });
}

/// Whether this schedule reaches and triggers a defect, as its canary says; the verdict does not matter.
fn canary(defect: Defect, schedule: &Schedule) -> (bool, bool) {
    harness(&[defect]).run(schedule, false);
    (canary::reached(defect), canary::triggered(defect))
}

#[test]
fn every_defect_is_triggered_by_its_own_schedule() {
    for name in corpus().keys() {
        in_child("specimens::every_defect_is_triggered_by_its_own_schedule", name, |name| {
            let defect = Defect::from_name(name).expect("a defect's name");
            let schedule = Schedule::parse(&corpus()[name]).expect("a schedule");
            // A check that cannot fire is missed only where there is something to check.
            let triggered = defect != Defect::OrderCheckInverted;
            assert_eq!(canary(defect, &schedule), (true, triggered), "{name}: reached, triggered");
            String::new()
        });
    }
}

#[test]
fn no_canary_is_triggered_by_an_empty_schedule() {
    for name in corpus().keys() {
        in_child("specimens::no_canary_is_triggered_by_an_empty_schedule", name, |name| {
            let defect = Defect::from_name(name).expect("a defect's name");
            let quiet =
                crate::common::schedule("m1 g1 call small*2; ret 1; call huge; ret 1\nm2 g2 call tiny");
            assert!(!canary(defect, &quiet).1, "{name} was triggered");
            String::new()
        });
    }
}

/// A race needs the other one: without the signals a section without its lock does no harm.
#[test]
fn no_canary_of_an_unlocked_section_is_triggered_by_one_thread() {
    use Defect::*;
    for defect in [
        InstallUnlocked,
        RemoveUnlocked,
        RecoverUnwindUnlocked,
        BulkUnwindUnlocked,
        CopystackUnlocked,
        SetNextBarrierUnlocked,
        CopystackStatusCheckOnly,
        SigprofSpins,
        CgoTracebackUnlocked,
        LockFollowsWrongG,
        TrampolineNotSimulated,
    ] {
        in_child(
            "specimens::no_canary_of_an_unlocked_section_is_triggered_by_one_thread",
            defect.name(),
            |name| {
                let defect = Defect::from_name(name).expect("a defect's name");
                let mut schedule = Schedule::parse(&corpus()[name]).expect("a schedule");
                schedule.steps.retain(|step| step.op != Op::Signal);
                // The stops stay: then whatever the others do happens half-way.
                let (reached, triggered) = canary(defect, &schedule);
                let in_handler = matches!(defect, SigprofSpins | CgoTracebackUnlocked | LockFollowsWrongG);
                assert_eq!((reached, triggered), (!in_handler, false), "{name}: reached, triggered");
                String::new()
            },
        );
    }
}
