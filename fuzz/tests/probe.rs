//! `sigstorm probe` before the programs of `corpus/programs`: each planted mistake is found, and each control is
//! silent. The programs are compiled here; the probe needs a kernel that lets it trace them.

#[allow(dead_code, reason = "other tests use the rest")]
mod command;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use command::{Ran, sigstorm};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    program: Vec<Program>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    name: String,
    build: Vec<String>,
    args: Vec<String>,
    at: Vec<String>,
    signal: String,
    deliver: String,
    fresh: bool,
    expect: String,
    function: Option<String>,
    note: Option<String>,
    twin: Option<String>,
    #[serde(default)]
    reported: Vec<String>,
    what: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/programs")
}

fn programs() -> Vec<Program> {
    let path = folder().join("programs.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str::<Manifest>(&text).unwrap().program
}

fn program(name: &str) -> Program {
    programs().into_iter().find(|program| program.name == name).unwrap_or_else(|| panic!("no program {name}"))
}

impl Program {
    /// Compiles it. Returns the path of the executable.
    fn compile(&self) -> String {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("probed-{}", self.name));
        let out = out.to_str().unwrap().to_owned();
        // Another test may be running the file: it is replaced when it is whole.
        let partial = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap().into_temp_path();
        let mut words = self.build.iter().map(|word| word.replace("{out}", partial.to_str().unwrap()));
        let compiler = words.next().unwrap();
        let output = Command::new(&compiler)
            .args(words)
            .current_dir(folder().join(&self.name))
            .output()
            .unwrap_or_else(|error| panic!("{compiler} cannot be started: {error}"));
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        partial.persist(&out).unwrap();
        out
    }

    fn probe(&self, seconds: u32, more: &[&str]) -> (Ran, tempfile::TempDir) {
        let (out, reports) = (self.compile(), tempfile::tempdir().unwrap());
        let (seconds, folder) = (seconds.to_string(), reports.path().to_str().unwrap().to_owned());
        let mut args = vec!["probe", "--json", "--seconds", &seconds, "--reports", &folder];
        for at in &self.at {
            args.extend(["--at", at]);
        }
        args.extend(["--signal", &self.signal]);
        if !more.contains(&"--deliver") {
            args.extend(["--deliver", &self.deliver]);
        }
        args.extend(self.fresh.then_some("--fresh"));
        args.extend(more);
        args.extend(["--", &out]);
        args.extend(self.args.iter().map(String::as_str));
        (sigstorm(&args), reports)
    }
}

fn findings(ran: &Ran) -> Vec<Value> {
    ran.objects().into_iter().filter(|object| object["type"] == "finding").collect()
}

/// The probe finds the program's planted mistake, a fresh process shows it again, and the report does, too.
#[track_caller]
fn is_found(name: &str) {
    let program = program(name);
    let (ran, reports) = program.probe(10, &[]);
    let found = findings(&ran);
    let wanted = |finding: &&Value| {
        finding["kind"] == program.expect.as_str()
            && program
                .function
                .as_ref()
                .is_none_or(|part| finding["function"].as_str().unwrap().contains(part))
    };
    let finding =
        found.iter().find(wanted).unwrap_or_else(|| panic!("no {} is found: {ran:?}", program.expect));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(finding["confirmed"], true, "{finding}");
    // A mistake that is there is no other: what else is found is of the same kind.
    for other in &found {
        assert_eq!(other["kind"], program.expect.as_str(), "{other}");
    }
    assert_eq!(ran.summary()["verdict"], program.expect.as_str());
    let folder = PathBuf::from(finding["report"].as_str().unwrap());
    assert!(folder.starts_with(reports.path()));
    let text = std::fs::read_to_string(folder.join("report.txt")).unwrap();
    assert!(text.starts_with(&program.expect), "{text}");
    assert!(program.note.is_none_or(|note| text.contains(&note)), "{text}");
    let report: Value = serde_json::from_slice(&std::fs::read(folder.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["kind"], "probe");
    let again = sigstorm(&["probe", "--json", "--replay", folder.join("probe.json").to_str().unwrap()]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_eq!(again.summary()["verdict"], program.expect.as_str());
}

/// The probe finds nothing in the control, and says so only because it did something.
#[track_caller]
fn is_silent(name: &str) {
    let program = program(name);
    let (ran, _reports) = program.probe(6, &[]);
    assert_eq!((ran.code, findings(&ran)), (Some(0), Vec::new()), "{ran:?}");
    let summary = ran.summary();
    let number = |key: &str| summary[key].as_u64().unwrap();
    assert!(number("injected") + number("masked") > 0 && number("reached") > 0, "{summary}");
    assert_eq!((&summary["verdict"], &summary["inconclusive"]), (&Value::Null, &Value::Null), "{summary}");
}

macro_rules! programs {
    ($check:ident: $($test:ident $name:literal,)*) => {
        pub const NAMES: &[&str] = &[$($name),*];
        $(#[test] fn $test() { super::$check($name) })*
    };
}

mod planted {
    programs! { is_found:
        malloc_in_handler_is_a_deadlock "malloc-in-handler",
        ring_of_two_is_a_deadlock "ring-of-two",
        walk_of_a_changing_list_is_a_crash "list-walk",
        spinning_for_an_interrupted_lock_is_a_livelock "spin-in-handler",
        handler_that_spins_for_another_ones_thread_is_not_blamed "spin-for-another",
        clobbered_errno_is_noticed "errno-clobbered",
        signal_after_its_handler_is_a_crash "stop-window",
        small_alternate_stack_is_a_crash "small-altstack",
        interrupted_read_is_an_exit "eintr-is-exit",
    }
}

mod control {
    programs! { is_silent:
        walk_with_a_try_lock_is_silent "list-walk-trylock",
        try_lock_instead_of_spinning_is_silent "spin-trylock",
        kept_errno_is_silent "errno-kept",
        ignored_late_signal_is_silent "stop-ignored",
        ample_alternate_stack_is_silent "ample-altstack",
        retried_read_is_silent "eintr-retried",
        atomic_counter_is_silent "one-atomic",
        slow_handler_is_silent "slow-handler",
        blocked_read_is_silent "reads",
        exceptions_are_silent "cxx-throw",
        rust_threads_are_silent "rust-threads",
        forks_are_silent "forker",
        loading_of_libraries_is_silent "dl",
        idle_program_is_silent "idle",
    }
}

/// The kinds of findings in a program with other options, all of them confirmed.
#[track_caller]
fn kinds_with(name: &str, more: &[&str]) -> BTreeSet<String> {
    let (ran, _reports) = program(name).probe(8, more);
    let found = findings(&ran);
    for finding in &found {
        assert_eq!(finding["confirmed"], true, "{finding}");
    }
    assert_eq!(ran.code, Some(if found.is_empty() { 0 } else { 1 }), "{ran:?}");
    let summary = ran.summary();
    assert!(summary["injected"].as_u64().unwrap() > 0, "{summary}");
    found.iter().map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn crash_is_found_by_every_way_to_deliver_and_its_twin_is_silent() {
    for more in [&["--fresh"][..], &["--deliver", "held"], &["--deliver", "twice"], &["--visits", "3"]] {
        let crash = BTreeSet::from(["crash".to_owned()]);
        assert_eq!(kinds_with("list-walk", more), crash, "{more:?}");
        assert_eq!(kinds_with("list-walk-trylock", more), BTreeSet::new(), "{more:?}");
    }
}

#[test]
fn other_output_is_found_where_it_is_compared() {
    for more in [&["--same-output"][..], &["--same-output", "--fresh"]] {
        let kinds = kinds_with("errno-clobbered", more);
        assert_eq!(kinds, BTreeSet::from(["exit".to_owned(), "state".to_owned()]), "{more:?}");
        assert_eq!(kinds_with("errno-kept", more), BTreeSet::new(), "{more:?}");
    }
}

#[test]
fn exit_status_that_is_allowed_is_no_finding() {
    assert_eq!(kinds_with("eintr-is-exit", &["--allow-exit", "3"]), BTreeSet::new());
}

#[test]
fn every_program_of_the_manifest_has_a_test_and_every_twin_is_there() {
    let programs = programs();
    let names: BTreeSet<&str> = programs.iter().map(|program| program.name.as_str()).collect();
    let tested: BTreeSet<&str> = planted::NAMES.iter().chain(control::NAMES).copied().collect();
    assert_eq!(names, tested);
    for program in &programs {
        assert!(
            !program.what.is_empty()
                && program.reported.iter().all(|report| report.contains('#') || report.contains("PR"))
        );
        assert_eq!(
            program.expect == "silent",
            control::NAMES.contains(&program.name.as_str()),
            "{}",
            program.name
        );
        if let Some(twin) = &program.twin {
            assert!(planted::NAMES.contains(&twin.as_str()), "{twin}");
        }
    }
}

#[test]
fn programs_that_cannot_be_probed_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().join("r");
    let text = dir.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    let handled = program("one-atomic").compile();
    let probe =
        |more: &[&str]| sigstorm(&[&["probe", "--reports", reports.to_str().unwrap()], more].concat());
    for (args, said) in [
        (&["--", "/no/such/program"][..], "cannot be started"),
        (&["--", text.to_str().unwrap()], "cannot be started"),
        (&[], "which program?"),
        (&["--signal", "KILL", "--", "true"], "cannot have a handler"),
        (&["--signal", "NONE", "--", "true"], "there is no signal"),
        (&["--at", "libc!", "--", "true"], "names no function"),
        (&["--audit", "--", "true"], "does not exist yet"),
        (&["--from", "no_such_function", "--", &handled], "`no_such_function` matches no function"),
        (&["--replay", "/no/such/probe.json"], "cannot read"),
        (&["--replay", text.to_str().unwrap()], "is no probe.json"),
    ] {
        let ran = probe(args);
        assert_eq!(ran.code, Some(2), "{args:?} {ran:?}");
        assert!(ran.stderr.contains(said), "{args:?} {ran:?}");
    }
}

#[test]
fn program_without_a_handler_has_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let ran = sigstorm(&[
        "probe",
        "--json",
        "--seconds",
        "3",
        "--reports",
        dir.path().to_str().unwrap(),
        "--",
        "true",
    ]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(ran.summary()["inconclusive"], "no-handler");
}

#[test]
fn patterns_are_listed_and_misspelt_ones_corrected() {
    let program = program("list-walk").compile();
    let ran = sigstorm(&["probe", "--json", "--list", "*!unlink_sec*", "--", &program]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let functions: Vec<Value> =
        ran.objects().into_iter().filter(|object| object["type"] == "function").collect();
    assert_eq!(functions.len(), 1, "{ran:?}");
    assert_eq!(functions[0]["function"], "unlink_second");
    assert!(functions[0]["boundaries"].as_u64().unwrap() > 5);
    let ran = sigstorm(&["probe", "--list", "unlink_secnd", "--", &program]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("did you mean `unlink_second`"), "{ran:?}");
}
