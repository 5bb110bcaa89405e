//! Tests of reports, of schedules and of storms.

use std::fs;

use super::storm_summary::tests::{blown, plan};
use super::*;
use crate::outcome::Verdict;

fn report() -> Report {
    let schedule = Schedule::parse("# sigstorm schedule 1\nm1 g1 syscall\ngc scan g1\n").unwrap();
    let event = |step, actor: &str, what: &str| Event {
        step,
        actor: actor.into(),
        what: what.into(),
        goroutine: 1,
        pc: "small+0x4".into(),
        sp: "-0x20".into(),
        lock: String::new(),
        barriers: "0/1".into(),
    };
    Report {
        finding: Finding {
            verdict: Verdict::BadTraceback.name().into(),
            summary: "frame 1 is not\nwhere it was".into(),
            evidence: vec!["expected small+0x4".into(), "found    the trampoline".into()],
            dump: vec!["g1: [0x40, 0x80)".into()],
            step: 1,
        },
        source: Source::Schedule(Box::new(FoundSchedule {
            shrunk: true,
            original: [schedule.encode(), schedule.encode()].concat(),
            schedule,
            events: vec![event(0, "m1", "syscall"), event(1, "gc", "scan")],
            schedules: 1234,
        })),
        defects: vec![Defect::InstallUnlocked],
        seed: 7,
        seconds: 1.5,
        notes: vec!["a note".into()],
    }
}

#[test]
fn report_of_a_schedule_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let report = report();
    let source = report.schedule().unwrap();
    let folder = report.write(dir.path()).unwrap();
    let again = report.write(dir.path()).unwrap();
    assert_eq!(folder, again);
    let name = folder.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("bad-traceback-") && name.len() == 22, "{name}");
    for form in ["schedule.txt", "schedule.bin"] {
        let schedule = Schedule::from_file_bytes(&fs::read(folder.join(form)).unwrap()).unwrap();
        assert_eq!(schedule, source.schedule, "{form}");
    }
    assert_eq!(fs::read(folder.join("original.bin")).unwrap(), source.original);
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
    assert_eq!((&json["steps_before"], &json["steps_after"]), (&6.into(), &3.into()));
    assert_eq!((&json["defects"][0], &json["kind"]), (&"install-unlocked".into(), &"schedule".into()));
    assert_eq!(json["cause"], report.cause().to_string());
    let text = fs::read_to_string(folder.join("report.txt")).unwrap();
    for part in
        ["bad-traceback", "the trampoline", "m1 g1 syscall", "[0x40, 0x80)", "--defect install-unlocked"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 5);
}

#[test]
fn name_of_a_report_depends_on_the_schedule_alone() {
    let (a, mut b) = (report(), report());
    b.seed = 8;
    assert_eq!(a.id(), b.id());
    let Source::Schedule(source) = &mut b.source else { panic!("no schedule") };
    source.schedule.steps.pop();
    assert_ne!(a.id(), b.id());
}

#[test]
fn quoted_words_survive_a_shell() {
    assert_eq!(quoted("reports/a-1/schedule.txt"), "reports/a-1/schedule.txt");
    assert_eq!(quoted("my reports/it's"), r"'my reports/it'\''s'");
    assert_eq!(quoted(""), "''");
}

#[test]
fn report_of_a_storm_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let finding = Finding {
        verdict: "deadlock".into(),
        summary: "m1 waits\nfor itself".into(),
        evidence: vec!["m1 in its handler".into()],
        dump: vec!["g1: running".into()],
        step: 0,
    };
    let source = Source::Storm(Box::new(FoundStorm { options: plan(), blown: blown() }));
    let report = Report { finding, source, defects: Vec::new(), seed: 7, seconds: 2.0, notes: Vec::new() };
    let folder = report.write(dir.path()).unwrap();
    assert_eq!(folder, report.write(dir.path()).unwrap());
    let name = folder.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("deadlock-storm-"), "{name}");
    let text = std::fs::read_to_string(folder.join("report.txt")).unwrap();
    for part in ["m1 in its handler", "g1: running", "--seed 7", "--delay 0.001:100", "no schedule to replay"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("report.json")).unwrap()).unwrap();
    assert_eq!((&json["kind"], &json["verdict"]), (&"storm".into(), &"deadlock".into()));
    assert_eq!(json["storm"]["signals"], 1000);
}
