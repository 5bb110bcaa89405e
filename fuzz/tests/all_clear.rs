//! No false all-clear: each way in which "nothing found" once meant that nothing was run, or
//! something else than was meant.

mod command;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use command::{Ran, children_of, command, interrupt, is_worker, sigstorm, with_input, within_seconds};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sigstorm::schedule::{Schedule, checks};

const HEADER: &str = "# sigstorm schedule 1\n";
/// It shows its defect with a stop at an instruction.
const LEAF: &str = "m1 call leaf @ leaf#2; signal\n";
const LEAF_DEFECT: &str = "unknown-pc-dereferenced";

/// A folder, and the paths of files in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().into()
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self.path(name)
    }
}

fn corpus(name: &str) -> String {
    format!("{}/../corpus/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Every command that takes a schedule, with this one.
fn on_each_command(folder: &Folder, file: &str, mut check: impl FnMut(&str, Ran)) {
    let reports = folder.path("reports");
    for name in ["replay", "show", "pack", "shrink", "sweep", "collect"] {
        let with_reports = ["sweep", "collect"].contains(&name);
        let args: &[&str] = if with_reports { &[name, file, "--reports", &reports] } else { &[name, file] };
        check(name, sigstorm(args));
    }
}

#[test]
fn a_text_without_its_first_line_is_refused_by_every_command() {
    let folder = Folder::new();
    let headless = folder.file("headless.txt", "# a comment\nm1 g1 call small\ngc mark; scan g1\n");
    let late = folder.file("late.txt", "\n# sigstorm schedule 1\nm1 g1 call small\n");
    let prose = folder.file("prose.txt", "What is this?\n");
    for (file, says) in [
        (&headless, "put `# sigstorm schedule 1` at its head"),
        (&late, "remove what stands before"),
        (&prose, "this is a text"),
    ] {
        on_each_command(&folder, file, |name, ran| {
            assert_eq!(ran.code, Some(2), "{name} {file}: {ran:?}");
            assert!(
                ran.stderr.contains(says) && ran.stderr.contains(file.as_str()),
                "{name}: {}",
                ran.stderr
            );
        });
    }
    assert!(!Path::new(&folder.path("reports/sweep")).exists());
    // Bytes stay bytes, and a schedule in bytes is never taken for a text.
    let packed = sigstorm(&["pack", &corpus("schedule/sigprof-spins.txt")]).stdout;
    fs::write(folder.path("packed"), packed).unwrap();
    assert_eq!(sigstorm(&["replay", &folder.path("packed")]).code, Some(0));
}

#[test]
fn a_report_is_refused_and_its_schedule_named() {
    let folder = Folder::new();
    let schedule = folder.file("schedule.txt", &format!("{HEADER}m1 g1 call small\n"));
    let report =
        folder.file("report.txt", "deadlock: a\n===========\n\nThe schedule\n---\n# sigstorm schedule 1\n");
    let json = folder.file("report.json", "{\n  \"sigstorm\": \"0.1.0\",\n  \"verdict\": \"deadlock\"\n}\n");
    for file in [&report, &json] {
        on_each_command(&folder, file, |name, ran| {
            assert_eq!(ran.code, Some(2), "{name} {file}: {ran:?}");
            assert!(
                ran.stderr.contains("this is a report") && ran.stderr.contains(&schedule),
                "{}",
                ran.stderr
            );
        });
    }
}

#[test]
fn a_replay_without_the_defects_says_so_and_how_to_plant_them() {
    let folder = Folder::new();
    let kept = corpus("schedule/sigprof-spins.txt");
    let without = sigstorm(&["replay", &kept, "--json"]);
    assert_eq!(without.code, Some(0));
    assert!(without.stderr.contains("add --defect sigprof-spins"), "{}", without.stderr);
    assert!(without.summary()["notes"][0].as_str().unwrap().contains("--defect sigprof-spins"));
    assert!(sigstorm(&["replay", &kept]).text().contains("no violation, but see the notes"));
    let with = sigstorm(&["replay", &kept, "--defect", "sigprof-spins"]);
    assert_eq!((with.code, with.stderr.as_str()), (Some(1), ""));

    // A report's text has the defects and the build, and its bytes are told apart by it.
    let crash = folder.path("crash-1");
    assert_eq!(sigstorm(&["pack", &kept, "-o", &crash]).code, Some(0));
    let reports = folder.path("reports");
    let collected = sigstorm(&["collect", &crash, "--defect", "sigprof-spins", "--reports", &reports]);
    assert_eq!(collected.code, Some(1), "{collected:?}");
    let report: PathBuf = fs::read_dir(&reports).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(report.join("schedule.txt")).unwrap();
    assert!(text.contains("\n# defect sigprof-spins\n") && text.contains("\n# build "), "{text}");
    for name in ["schedule.txt", "schedule.bin", "original.bin"] {
        let file = report.join(name);
        let ran = sigstorm(&["replay", file.to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "{name}");
        assert!(ran.stderr.contains("add --defect sigprof-spins"), "{name}: {}", ran.stderr);
    }
    // The output of `show` keeps them.
    let shown = sigstorm(&["show", report.join("schedule.txt").to_str().unwrap()]);
    let shown = shown.text();
    assert!(shown.contains("# defect sigprof-spins\n# build "), "{shown}");
    let other = folder.file("other.txt", &text.replace("# build ", "# build 0.0.0-"));
    assert!(sigstorm(&["replay", &other]).stderr.contains("it was made by build 0.0.0-"));
}

#[test]
fn kept_schedules_have_check_values() {
    let folder = Folder::new();
    let file = folder.file("leaf.txt", &format!("{HEADER}{LEAF}"));
    let out = folder.path("small.txt");
    let shrunk = sigstorm(&["shrink", &file, "--defect", LEAF_DEFECT, "-o", &out]);
    assert_eq!(shrunk.code, Some(0), "{shrunk:?}");
    let reports = folder.path("reports");
    let collected = sigstorm(&["collect", &file, "--defect", LEAF_DEFECT, "--reports", &reports]);
    assert_eq!(collected.code, Some(1), "{collected:?}");
    let report = fs::read_dir(&reports).unwrap().next().unwrap().unwrap().path();
    let swept = sigstorm(&["sweep", &file, "--json", "--defect", LEAF_DEFECT, "--reports", &reports]);
    let violation: Value = serde_json::from_str(swept.text().lines().next().unwrap()).unwrap();
    let kept = [
        fs::read(&out).unwrap(),
        fs::read(report.join("schedule.txt")).unwrap(),
        fs::read(report.join("schedule.bin")).unwrap(),
        fs::read(report.join("original.bin")).unwrap(),
        violation["schedule"].as_str().unwrap().as_bytes().to_vec(),
        sigstorm(&["show", &file]).stdout,
        sigstorm(&["pack", &file]).stdout,
    ];
    for bytes in kept {
        let schedule = Schedule::from_file_bytes(&bytes).unwrap();
        assert!(schedule.steps.iter().any(|step| step.stop.is_some()), "{schedule}");
        assert_eq!(checks::unchecked(&schedule), 0, "{schedule}");
    }
}

#[test]
fn a_stop_with_a_wrong_check_value_is_noted_by_every_command() {
    let folder = Folder::new();
    let shown = with_input(&["show", "-"], format!("{HEADER}{LEAF}").as_bytes());
    let shown = shown.text();
    let check = u8::from_str_radix(&shown.split('/').nth(1).unwrap()[..2], 16).unwrap();
    let wrong = shown.replace(&format!("/{check:02x}"), &format!("/{:02x}", check ^ 1));
    let gone = shown.replace("leaf#2/", "leaf#2000/");
    let beyond = format!("{HEADER}{}", LEAF.replace("#2", "#2000"));
    for (name, text, says) in [
        ("wrong.txt", &wrong, "this build has another instruction there"),
        ("gone.txt", &gone, "so the thread is not held"),
        ("beyond.txt", &beyond, "the thread is held at #"),
    ] {
        let file = folder.file(name, text);
        on_each_command(&folder, &file, |command, ran| {
            assert!(ran.stderr.contains(says), "{command} {name}: {}", ran.stderr);
        });
        let reports = folder.path("r");
        for args in [&["replay", &file, "--json"][..], &["sweep", &file, "--json", "--reports", &reports]] {
            let summary = sigstorm(args).summary();
            assert_eq!(summary["doubtful_stops"], 1, "{name}: {summary}");
            assert!(summary["notes"].to_string().contains(says), "{name}: {summary}");
        }
    }
    // A wrong value says what was meant, so it is never replaced.
    let wrong = folder.path("wrong.txt");
    assert!(sigstorm(&["show", &wrong]).text().contains(&format!("leaf#2/{:02x}", check ^ 1)));
    let unchecked = folder.file("unchecked.txt", &format!("{HEADER}{LEAF}"));
    assert!(sigstorm(&["replay", &unchecked]).stderr.contains("1 stop without a check value"));
}

#[test]
fn steps_without_effect_and_stops_that_were_not_reached_are_shown_and_counted() {
    let folder = Folder::new();
    let text = format!("{HEADER}m1 call tiny @ copystack.begin; resume; recover\ngc scan g1\nm1 ret\n");
    let file = folder.file("inert.txt", &text);
    let traced = sigstorm(&["replay", &file, "--trace"]);
    let traced = traced.text();
    for part in [
        "not reached: @ copystack.begin",
        "no effect: resume",
        "no effect: recover",
        "no effect: scan g1",
        "steps 1, 2, 3 had no effect; the stop of step 0 was not reached",
    ] {
        assert!(traced.contains(part), "{part}:\n{traced}");
    }
    let reports = folder.path("reports");
    for args in [&["replay", &file, "--json"][..], &["sweep", &file, "--json", "--reports", &reports]] {
        let summary = sigstorm(args).summary();
        assert_eq!(
            (&summary["inert_steps"], &summary["unreached_stops"]),
            (&3.into(), &1.into()),
            "{summary}"
        );
    }
    // A stop in the handler of a thread that waits in the kernel is reached.
    let kernel = sigstorm(&["replay", &corpus("schedule/install-unlocked.txt"), "--json"]).summary();
    assert_eq!((&kernel["inert_steps"], &kernel["unreached_stops"]), (&0.into(), &0.into()));
}

#[test]
fn a_replay_of_nothing_has_no_answer() {
    let folder = Folder::new();
    let empty = folder.file("empty", "");
    let inert = folder.file("inert.txt", &format!("{HEADER}m1 resume; recover\n"));
    for file in [&empty, &inert, "/dev/null"] {
        let ran = sigstorm(&["replay", file, "--json"]);
        let summary = ran.summary();
        assert_eq!((ran.code, &summary["inconclusive"]), (Some(3), &"no-steps".into()), "{file}: {ran:?}");
        assert_eq!((&summary["verdict"], &summary["violations"]), (&Value::Null, &0.into()));
        let said = sigstorm(&["replay", file]);
        let said = said.text();
        assert!(said.contains("inconclusive") && !said.contains("no violation"), "{said}");
    }
    // A violation in another file is an answer.
    let found = sigstorm(&[
        "replay",
        &empty,
        &corpus("schedule/sigprof-spins.txt"),
        "--defect",
        "sigprof-spins",
        "--json",
    ]);
    assert_eq!((found.code, &found.summary()["inconclusive"]), (Some(1), &Value::Null), "{found:?}");
    assert_eq!(sigstorm(&["replay", &empty, &folder.path("missing")]).code, Some(2));
}

/// The worker of a command that has one.
fn worker_of(parent: &Child) -> Pid {
    within_seconds(|| children_of(parent).into_iter().find(|pid| is_worker(*pid)))
}

/// Runs a command whose worker gets nothing of a core: it is stopped.
fn starved(args: &[&str]) -> Ran {
    let parent = command(args).spawn().unwrap();
    kill(worker_of(&parent), Signal::SIGSTOP).unwrap();
    Ran::end_of(parent)
}

fn is_reason(reason: &Value) -> bool {
    // However far it got before it was stopped.
    *reason == "no-schedules" || *reason == "no-core-time"
}

#[test]
fn a_hunt_whose_worker_does_not_run_has_no_answer_and_ends() {
    let folder = Folder::new();
    let ran = starved(&["hunt", "--seconds", "1", "--jobs", "1", "--json", "--reports", &folder.path("r")]);
    let summary = ran.summary();
    assert!(ran.code == Some(3) && is_reason(&summary["inconclusive"]), "{ran:?}");
    assert_eq!((&summary["verdict"], &summary["violations"]), (&Value::Null, &0.into()));
    assert!(summary["overrun"].as_f64().unwrap() >= 1.0, "{summary}");
    let said = starved(&["hunt", "--seconds", "1", "--jobs", "1", "--reports", &folder.path("r")]);
    assert!(said.text().contains("longer than it should"), "{}", said.text());
    assert!(
        said.text().contains("inconclusive: ") && !said.text().contains("nothing found"),
        "{}",
        said.text()
    );
}

#[test]
fn a_museum_trial_that_does_not_run_has_no_answer() {
    let ran =
        starved(&["museum", "--json", "--trials", "1", "--jobs", "1", "--budget", "1", "--defect", "none"]);
    let summary = ran.summary();
    assert!(ran.code == Some(3) && is_reason(&summary["inconclusive"]), "{ran:?}");
    assert_eq!((&summary["silent"], &summary["must_be_silent"]), (&0.into(), &1.into()), "{summary}");
    let trial = ran.text().lines().find(|line| line.contains("\"type\":\"trial\"")).unwrap();
    assert!(is_reason(&serde_json::from_str::<Value>(trial).unwrap()["inconclusive"]), "{trial}");
}

#[test]
fn a_sweep_of_nothing_leaves_no_page() {
    let folder = Folder::new();
    let reports = folder.path("reports");
    let page = folder.file("reports/sweep/coverage.txt", "2975 of 2987");
    let missing = folder.path("typo.txt");
    let empty = folder.file("empty", "");
    for (file, says) in [(&missing, "no schedule could be read"), (&empty, "no step of these schedules")] {
        let ran = sigstorm(&["sweep", file, "--json", "--reports", &reports]);
        let summary = ran.summary();
        assert!(ran.code == Some(2) && ran.stderr.contains(says), "{ran:?}");
        assert_eq!((&summary["listing"], &summary["injected"]), (&Value::Null, &0.into()), "{summary}");
    }
    // An instruction that is reached while the profiler is off cannot be interrupted.
    let off = folder.file("off.txt", &format!("{HEADER}m1 rate off; g1 call small\n"));
    let ran = sigstorm(&["sweep", &off, "--json", "--reports", &reports]);
    let summary = ran.summary();
    assert_eq!((ran.code, &summary["inconclusive"]), (Some(3), &"no-injections".into()), "{ran:?}");
    assert_eq!(summary["listing"], Value::Null);
    assert_eq!(fs::read_to_string(page).unwrap(), "2975 of 2987");
}

#[test]
fn a_collect_of_nothing_says_what_it_looks_for() {
    let folder = Folder::new();
    let reports = folder.path("reports");
    folder.file("findings/foo.bin", "\x05");
    let ran = sigstorm(&["collect", &folder.path("findings"), "--reports", &reports]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("crashes/id:*") && ran.stderr.contains("crash-*"), "{}", ran.stderr);
    // An engine that has found nothing yet is another matter.
    folder.file("out/main/crashes/README.txt", "no schedule");
    let ran = sigstorm(&["collect", &folder.path("out"), "--reports", &reports]);
    assert!(ran.code == Some(0) && ran.stderr.contains("no findings yet"), "{ran:?}");
}

#[test]
fn a_corpus_with_texts_is_refused_before_the_hunt() {
    let folder = Folder::new();
    let text = folder.file("corpus/a.txt", &format!("{HEADER}m1 g1 call small\n"));
    let args = [
        "hunt",
        "--runs",
        "10",
        "--jobs",
        "1",
        "--corpus",
        &folder.path("corpus"),
        "--reports",
        &folder.path("r"),
    ];
    let ran = sigstorm(&args);
    assert!(ran.code == Some(2) && ran.stderr.contains(&text) && ran.stderr.contains("pack"), "{ran:?}");
    assert_eq!(fs::read_dir(folder.path("corpus")).unwrap().count(), 1, "nothing was added");
    assert_eq!(sigstorm(&["pack", &text, "-o", &folder.path("corpus/a")]).code, Some(0));
    fs::remove_file(&text).unwrap();
    // Ten schedules may find nothing because too little was run, but they find nothing.
    let ran = sigstorm(&[&args[..], &["--json"]].concat());
    let summary = ran.summary();
    assert!(matches!(ran.code, Some(0 | 3)), "{ran:?}");
    assert_eq!((&summary["verdict"], &summary["violations"]), (&Value::Null, &0.into()), "{summary}");
    assert_eq!(summary["schedules"], 10, "{summary}");
}

/// A hunt of one worker that knows of no others than those of this realm.
fn hunt_in(realm: &str, folder: &Folder) -> Child {
    let mut hunt = command(&["hunt", "--jobs", "1", "--json", "--reports", &folder.path("r")]);
    hunt.env("SIGSTORM_CORES", realm).spawn().unwrap()
}

/// The numbers of the cores on which a process may run; process 0 is the caller.
fn cores_of(process: Pid) -> Option<Vec<usize>> {
    let set = sched_getaffinity(process).ok()?;
    Some((0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).collect())
}

/// The cores of this process, all of which its children may choose.
fn allowed_cores() -> Vec<usize> {
    cores_of(Pid::from_raw(0)).unwrap()
}

#[test]
fn two_hunts_at_once_take_different_cores() {
    let folder = Folder::new();
    let realm = format!("-test-{}", std::process::id());
    let allowed = allowed_cores();
    let hunts = [hunt_in(&realm, &folder), hunt_in(&realm, &folder)];
    // Until it has pinned itself, a worker may use all of them.
    let pinned = |worker| cores_of(worker).filter(|cores| cores.len() == 1);
    let pinned = hunts.each_ref().map(|hunt| {
        let worker = worker_of(hunt);
        within_seconds(|| pinned(worker))
    });
    for (hunt, pinned) in hunts.into_iter().zip(&pinned) {
        interrupt(&hunt);
        let summary = Ran::end_of(hunt).summary();
        assert_eq!(summary["cores"], serde_json::json!(pinned), "{summary}");
        assert!(allowed.contains(&pinned[0]), "{pinned:?} of {allowed:?}");
    }
    assert_eq!(pinned[0] == pinned[1], allowed.len() == 1, "{pinned:?} of {allowed:?}");
}

#[test]
fn more_workers_than_cores_are_warned_of() {
    let folder = Folder::new();
    let jobs = (allowed_cores().len() + 1).to_string();
    let args = ["hunt", "--runs", "300", "--jobs", &jobs, "--reports", &folder.path("r")];
    let ran = sigstorm(&args);
    assert!(ran.code == Some(0) && ran.stderr.contains("starve each other"), "{ran:?}");
    let summary = sigstorm(&[&args[..], &["--json"]].concat()).summary();
    assert!(summary["notes"][0].as_str().unwrap().contains("starve each other"), "{summary}");
    assert_eq!(summary["core_share"].as_array().unwrap().len().to_string(), jobs);
}
