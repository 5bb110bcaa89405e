//! A test's body in a process of its own, and the harness there.

use std::env;
use std::process::exit;

use sigstorm::executor::Harness;
use sigstorm::outcome::{Finding, Run};
use sigstorm::schedule::Schedule;
use sigstorm_runtime::Defect;

use crate::child;

const NAME: &str = "SIGSTORM_TEST_CHILD";
const ARGUMENT: &str = "SIGSTORM_TEST_ARGUMENT";
/// Around what a body returns: a child that ran no body at all prints neither.
const BEGINS: &str = "\n--- the body returned\n";
const ENDS: &str = "\n--- and has ended\n";

/// Runs `body` in a child, which must come to its end, and gives what it returned there.
/// `name` is the calling test's full name.
#[track_caller]
pub fn in_child(name: &str, argument: &str, body: fn(&str) -> String) -> String {
    if env::var(NAME).is_ok_and(|child| child == name) {
        let argument = env::var(ARGUMENT).expect("the child's argument");
        let result = body(&argument);
        print!("{BEGINS}{result}{ENDS}");
        exit(0);
    }
    let ended = child::run(name, |command| {
        command.env(NAME, name).env(ARGUMENT, argument);
    });
    let result = ended.stdout.split_once(BEGINS).and_then(|(_, rest)| rest.split_once(ENDS));
    match result {
        Some((result, _)) if ended.ended_with(0) => result.to_owned(),
        _ => panic!("{name} {argument}: {}", ended.told()),
    }
}

/// The process's harness.
pub fn harness(defects: &[Defect]) -> Harness {
    Harness::new(sigstorm_inject::nearest(), defects).expect("a harness")
}

/// Runs a schedule that the healthy core must survive.
#[track_caller]
pub fn run_clean(harness: &mut Harness, schedule: &Schedule, trace: bool) -> Run {
    let run = harness.run(schedule, trace);
    if let Some(finding) = &run.finding {
        panic!("a false alarm\n{}\n{schedule}", describe(finding));
    }
    run
}

/// A schedule in its text form, without the first line.
#[track_caller]
pub fn schedule(text: &str) -> Schedule {
    let text = format!("# sigstorm schedule 1\n{text}");
    Schedule::parse(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
}

/// A finding as a person reads it.
pub fn describe(finding: &Finding) -> String {
    let Finding { verdict, summary, evidence, dump, step } = finding;
    format!("{verdict} at step {step}: {summary}\n{}\n{}", evidence.join("\n"), dump.join("\n"))
}
