//! The command line, from outside: whatever is typed and whatever a file holds, it says
//! something that helps and exits as it promises. No panic, no hang.

mod command;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use command::{Ran, children_of, command, interrupt, is_worker, sigstorm, with_input, within_seconds};
use nix::unistd::Pid;
use serde_json::Value;

const TEXT: &str = "# sigstorm schedule 1\nm1 g1 call small\ngc mark; scan g1\n";

fn file(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().into()
}

/// The commands in `sigstorm --help`, by name. `mutants` and those of child processes are hidden.
const LISTED: [&str; 10] =
    ["collect", "hunt", "museum", "pack", "probe", "replay", "show", "shrink", "storm", "sweep"];

/// Ten mebibytes of anything.
fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(step).take(10 << 20).collect()
}

#[test]
fn sigstorm_without_a_command_prints_help() {
    let ran = sigstorm(&[]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for part in ["hunt", "replay", "Exit status", "--help"] {
        assert!(ran.text().contains(part), "{part}");
    }
    for command in LISTED.into_iter().chain(["mutants"]) {
        let ran = sigstorm(&[command, "--help"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{command}");
        assert!(ran.text().contains("\nExamples"), "{command}: {}", ran.text());
    }
    for child in ["worker", "stormer", "runner", "sweeper"] {
        let ran = sigstorm(&[child, "--help"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{child}");
        assert!(ran.text().contains("as a child of `") && ran.text().contains("<ORDERS>"), "{}", ran.text());
    }
    let help = sigstorm(&["--help"]);
    let commands = help.text().split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let mut listed: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    listed.sort_unstable();
    assert_eq!(listed, LISTED, "{commands}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let bad = file(dir.path(), "bad.txt", b"# sigstorm schedule 1\nm1 cal small\n");
    let newer = file(dir.path(), "newer.txt", b"# sigstorm schedule 2\n");
    let not_text = file(dir.path(), "latin.txt", b"# sigstorm schedule 1\nm1 \xff\n");
    for command in ["show", "pack", "replay", "shrink"] {
        for (path, says) in [
            (dir.path().to_str().unwrap(), "directory"),
            (missing.to_str().unwrap(), "No such file"),
            ("/dev/zero", "64 MiB"),
            (&bad, "line 2, column 4"),
            (&newer, "version 2"),
            (&not_text, "UTF-8"),
        ] {
            let ran = sigstorm(&[command, path]);
            assert_eq!(ran.code, Some(2), "{command} {path}: {ran:?}");
            assert!(
                ran.stderr.contains(says) && ran.stderr.contains(path),
                "{command} {path}: {}",
                ran.stderr
            );
            assert!(ran.stdout.is_empty(), "{command} {path}");
        }
    }
    assert!(sigstorm(&["show", &bad]).stderr.contains("did you mean `call`?"));
}

#[test]
fn show_and_pack_convert_both_forms_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let text = file(dir.path(), "a.txt", TEXT.as_bytes());
    let packed = sigstorm(&["pack", &text]);
    assert_eq!((packed.code, packed.stdout.len()), (Some(0), 4 * 8));
    let shown = with_input(&["show", "-"], &packed.stdout);
    assert_eq!(with_input(&["pack", "-"], &shown.stdout).stdout, packed.stdout);

    let out = dir.path().join("out.bin");
    let ran = sigstorm(&["pack", &text, "-o", out.to_str().unwrap()]);
    assert!(ran.code == Some(0) && ran.stdout.is_empty());
    assert_eq!(fs::read(&out).unwrap(), packed.stdout);

    let json = sigstorm(&["show", &text, "--json"]).summary();
    assert_eq!((&json["command"], &json["steps"]), (&"show".into(), &4.into()));
    assert_eq!(json["text"].as_str().unwrap().as_bytes(), shown.stdout);
    let json = sigstorm(&["--json", "pack", &text]).summary();
    assert_eq!(json["hex"].as_str().unwrap().len(), 4 * 16);
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let text = file(dir.path(), "a.txt", TEXT.as_bytes());
    let nowhere = dir.path().join("no/such/folder");
    for out in [dir.path(), &nowhere, Path::new("/dev/full")] {
        let ran = sigstorm(&["show", &text, "-o", out.to_str().unwrap()]);
        assert_eq!(ran.code, Some(2), "{}", out.display());
        assert!(ran.stderr.contains("cannot write"), "{}", ran.stderr);
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = Ran::end_of(command(&["show", &text]).stdout(full).spawn().unwrap());
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[test]
fn closed_standard_output_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let noise = file(dir.path(), "noise", &noise());
    let mut child = command(&["show", &noise]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::end_of(child);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn any_bytes_are_a_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, noise) = (file(dir.path(), "empty", b""), file(dir.path(), "noise", &noise()));
    assert_eq!(sigstorm(&["show", &empty]).text(), "# sigstorm schedule 1\n");
    assert_eq!(sigstorm(&["pack", &empty]).stdout, b"");
    let shown = sigstorm(&["show", &noise]);
    assert_eq!(shown.code, Some(0));
    assert!(shown.stderr.contains("4096 steps"), "{}", shown.stderr);
    let packed = sigstorm(&["pack", &noise]);
    assert_eq!((packed.code, packed.stdout.len()), (Some(0), 4096 * 8));
    assert_eq!(with_input(&["pack", "-"], &shown.stdout).stdout, packed.stdout);
}

#[test]
fn any_schedule_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, noise) = (file(dir.path(), "empty", b""), file(dir.path(), "noise", &noise()));
    let ran = sigstorm(&["replay", &empty, "--times", "3", "--json", "--trace"]);
    assert_eq!(ran.code, Some(3), "nothing was run: {ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["runs"], &summary["divergent"]), (&3.into(), &0.into()));
    assert_eq!((&summary["files"], &summary["verdict"]), (&1.into(), &Value::Null));

    // Whatever it comes to: it is run, and judged.
    let ran = sigstorm(&["replay", &noise, "--json"]);
    let summary = ran.summary();
    let verdict = summary["verdict"].as_str();
    assert!(matches!((ran.code, verdict), (Some(0), None) | (Some(1), Some(_))), "{ran:?}");

    let missing = dir.path().join("missing");
    let ran = sigstorm(&["replay", missing.to_str().unwrap(), &empty, "--json"]);
    assert_eq!((ran.code, &ran.summary()["files"]), (Some(2), &1.into()), "the other one is still run");
}

#[test]
fn shrink_says_where_there_is_nothing_to_shrink() {
    let ran = sigstorm(&["shrink", "-"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("nothing is violated"), "{}", ran.stderr);
    assert_eq!(sigstorm(&["shrink", "-", "--json"]).summary()["verdict"], Value::Null);
}

#[test]
fn wrong_usage_is_explained() {
    for (args, says) in [
        (&["hunt", "--defect", "install-unlock"][..], "'install-unlocked'"),
        (&["replay", "-", "--defect", "nonsense"], "copystack-unlocked"),
        (&["hunt", "--jobs", "0"], "1..=256"),
        (&["hunt", "--jobs", "100000000000000000000000"], "jobs"),
        (&["hunt", "--steps", "4097"], "1..=4096"),
        (&["hunt", "--seconds", "0"], "seconds"),
        (&["hunt", "--seconds", "18446744073709551615"], "seconds"),
        (&["hunt", "--seconds", "-1"], "-1"),
        (&["hunt", "--runs", "0"], "runs"),
        (&["hunt", "--seed", "-1"], "-1"),
        (&["replay", "-", "--times", "0"], "times"),
        (&["replay"], "FILE"),
        (&["hnut"], "hunt"),
        (&["storm", "--rate", "1000000"], "1..=20000"),
        (&["storm", "--rate", "0"], "1..=20000"),
        (&["storm", "--threads", "0"], "1..=15"),
        (&["storm", "--threads", "16"], "1..=15"),
        (&["storm", "--clock", "sundial"], "monotonic"),
        (&["storm", "--delay", "0.5"], "PROBABILITY:MICROSECONDS"),
        (&["storm", "--delay", "7:10"], "a number from 0 to 1"),
        (&["storm", "--delay", "0.1:99999999"], "microseconds from 0 to 10000"),
    ] {
        let ran = sigstorm(args);
        assert_eq!(ran.code, Some(2), "{args:?}");
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn folders_are_checked_before_the_hunt() {
    let dir = tempfile::tempdir().unwrap();
    let occupied = file(dir.path(), "occupied", b"");
    let below = format!("{occupied}/below");
    for (option, folder) in [("--reports", &occupied), ("--reports", &below), ("--corpus", &occupied)] {
        let begun = Instant::now();
        let ran = sigstorm(&["hunt", "--seconds", "30", option, folder]);
        assert_eq!(ran.code, Some(2), "{option} {folder}");
        assert!(ran.stderr.contains("directory") && ran.stderr.contains(&occupied), "{}", ran.stderr);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_hunt_ends_with_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let in_dir = |name: &str| -> PathBuf { dir.path().join(name) };
    let (reports, corpus) = (in_dir("reports"), in_dir("corpus"));
    let folders = ["--reports", reports.to_str().unwrap(), "--corpus", corpus.to_str().unwrap()];
    let ran =
        sigstorm(&[&["hunt", "--runs", "20", "--jobs", "3", "--seed", "7", "--json"], &folders[..]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["schedules"], &summary["jobs"]), (&20.into(), &3.into()));
    assert_eq!((&summary["violations"], &summary["seed"]), (&0.into(), &7.into()));
    assert!(corpus.is_dir());
}

/// A hunt without a budget, once its workers run, and the workers.
fn endless_hunt(reports: &Path) -> (Child, Vec<Pid>) {
    let args = ["hunt", "--jobs", "2", "--json", "--reports", reports.to_str().unwrap()];
    let hunt = command(&args).spawn().unwrap();
    let workers = within_seconds(|| {
        let pids = children_of(&hunt);
        (pids.len() == 2 && pids.iter().copied().all(is_worker)).then_some(pids)
    });
    (hunt, workers)
}

/// Gone, or a zombie for whoever inherits it to bury.
fn has_ended(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"))
}

#[test]
fn an_interrupt_ends_a_hunt_with_its_summary() {
    let dir = tempfile::tempdir().unwrap();
    let (mut hunt, workers) = endless_hunt(dir.path());
    // Once it has run something: before that there is no answer.
    let mut lines = BufReader::new(hunt.stdout.take().unwrap()).lines().map(Result::unwrap);
    let ran_some = |line: String| {
        let progress: Value = serde_json::from_str(&line).unwrap();
        progress["schedules"].as_u64() > Some(0)
    };
    assert!(lines.any(ran_some));
    interrupt(&hunt);
    // Whatever it still prints, down to the summary.
    let stdout = lines.map(|line| line + "\n").collect::<String>().into_bytes();
    let ran = Ran { stdout, ..Ran::end_of(hunt) };
    assert_eq!((ran.code, &ran.summary()["jobs"]), (Some(0), &2.into()));
    assert!(workers.into_iter().all(has_ended));
}

#[test]
fn workers_do_not_outlive_a_hunt_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut hunt, workers) = endless_hunt(dir.path());
    hunt.kill().unwrap();
    hunt.wait().unwrap();
    within_seconds(|| workers.iter().copied().all(has_ended).then_some(()));
}

#[test]
fn the_museum_tabulates_how_soon_a_specimen_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().join("r");
    let args = "museum --json --trials 2 --budget 60 --jobs 2 --seed 5 --defect sigprof-spins --defect exit-keeps-barriers \
                --baseline random --baseline hunt --reports";
    let mut args: Vec<&str> = args.split_whitespace().collect();
    args.push(reports.to_str().unwrap());
    let ran = sigstorm(&args);
    let summary = ran.summary();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for (key, number) in [("specimens", 2), ("caught", 2), ("silent", 0), ("false_alarms", 0), ("seed", 5)] {
        assert_eq!(summary[key], number, "{key}");
    }
    let objects = ran.objects();
    let of_type = |name: &str| objects.iter().filter(|o| o["type"] == name).collect::<Vec<_>>();
    assert_eq!((of_type("trial").len(), of_type("specimen").len()), (8, 4));
    for tally in of_type("specimen") {
        for key in ["trials", "reached", "triggered", "detected"] {
            assert_eq!(tally[key], 2, "{key} of {tally}");
        }
        assert!(tally["median_schedules"].as_f64().unwrap() >= 1.0);
        let verdicts = tally["verdicts"].as_object().unwrap();
        assert_eq!(verdicts.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 2);
    }
    // A condition holds once the code has run, and is found once it has held.
    for trial in of_type("trial") {
        let schedules = |key: &str| trial[key][0].as_f64().unwrap();
        assert!(schedules("reached") <= schedules("triggered"), "{trial}");
        assert!(schedules("triggered") <= schedules("detected"), "{trial}");
    }
    let read = |name: &str| fs::read_to_string(reports.join(name)).unwrap();
    assert!(read("museum.md").contains("| [sigprof-spins](museum/sigprof-spins.md) | hunt | 2/2 |"));
    assert!(read("museum/survival.svg").trim_end().ends_with("</svg>"));
    let page = read("museum/sigprof-spins.md");
    for part in ["# 2. sigprof-spins", "9c9d74aba7", "`deadlock`", "waits for the stack lock", "step  m1"] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    // The schedule beside the page shows what the page says.
    let schedule = reports.join("museum/sigprof-spins.txt");
    let again = ["replay", schedule.to_str().unwrap(), "--json", "--defect", "sigprof-spins"];
    assert_eq!(sigstorm(&again).summary()["verdict"], "deadlock");
}

#[test]
fn the_museum_is_silent_where_it_must_be() {
    let ran = sigstorm(&["museum", "--json", "--trials", "1", "--budget", "1", "--defect", "none"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.summary();
    assert_eq!(
        (&summary["specimens"], &summary["must_be_silent"], &summary["silent"]),
        (&0.into(), &1.into(), &1.into())
    );
    assert_eq!(sigstorm(&["museum", "--defect", "nothing"]).code, Some(2));
}

#[test]
fn museum_replaces_kept_tables_only_where_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("reports/museum.md");
    let museum = |more: &[&str]| {
        let args = ["museum", "--trials", "1", "--budget", "1", "--defect", "sigprof-spins"];
        Ran::end_of(command(&args).args(more).current_dir(dir.path()).spawn().unwrap())
    };
    let plain = museum(&[]);
    assert!(plain.text().contains("sigprof-spins"), "{plain:?}");
    assert!(!dir.path().join("reports").exists(), "the table is printed, and nothing is written");
    let named = museum(&["--reports", "named"]);
    assert!(dir.path().join("named/museum.md").is_file() && !kept.exists(), "{named:?}");
    let keep = museum(&["--keep"]);
    assert!(kept.is_file() && dir.path().join("reports/museum/sigprof-spins.md").is_file(), "{keep:?}");
    assert_eq!(museum(&["--keep", "--reports", "named"]).code, Some(2));
}

#[test]
fn museum_that_is_ended_early_says_so_in_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["museum", "--budget", "1000", "--jobs", "1", "--defect", "none", "--reports"];
    let museum = command(&args).arg(dir.path()).spawn().unwrap();
    within_seconds(|| (!children_of(&museum).is_empty()).then_some(()));
    interrupt(&museum);
    let ran = Ran::end_of(museum);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let table = fs::read_to_string(dir.path().join("museum.md")).unwrap();
    assert!(table.contains("ended early, after 0 of 10 trials"), "{table}");
}

#[test]
fn a_child_refuses_orders_that_make_no_sense() {
    for (orders, says) in [
        ("nonsense", "these orders make no sense"),
        (r#"{"parent":1,"task":{"worker":{}}}"#, "missing field"),
        (r#"{"parent":1,"task":{"runner":{"core":null,"defects":["typo"]}}}"#, "no defect `typo`"),
    ] {
        let ran = sigstorm(&["worker", orders]);
        assert!(ran.code == Some(78) && ran.stderr.contains(says), "{orders}: {ran:?}");
    }
}

#[test]
fn a_runner_whose_parent_is_gone_ends_before_it_reads_a_request() {
    let run = |parent: u32| {
        let runner = serde_json::json!({"runner": {"core": null, "defects": []}});
        let orders = serde_json::json!({"parent": parent, "task": runner}).to_string();
        // The empty schedule, and no flags. The runner's parent is the thread that starts it, which lives as
        // long as it runs.
        with_input(&["runner", &orders], &[0; 5])
    };
    let ran = run(std::process::id());
    let answers = ran.objects();
    assert_eq!((ran.code, answers.len()), (Some(0), 1), "{ran:?}");
    assert!(answers[0]["steps"] == 0 && answers[0]["finding"].is_null(), "{ran:?}");
    let orphan = run(1);
    assert_eq!((orphan.code, orphan.text()), (Some(0), ""), "{orphan:?}");
}

#[test]
fn a_sweeper_leaves_the_first_violation_and_counts_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let schedules = dir.path().join("schedules");
    fs::create_dir(&schedules).unwrap();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus/schedule/remove-unlocked.txt");
    fs::copy(kept, schedules.join("a.txt")).unwrap();
    let sweep = |name: &str, defects: &[&str]| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("stats"), [0; 192 * 8]).unwrap();
        let task = serde_json::json!({"sweeper": {
            "dir": folder, "core": 0, "schedules": schedules, "defects": defects,
        }});
        let orders = serde_json::json!({"parent": std::process::id(), "task": task}).to_string();
        // Its parent is the thread that starts it, which lives as long as it runs.
        let ran = sigstorm(&["sweeper", &orders]);
        let stats = fs::read(folder.join("stats")).unwrap();
        let runs = u64::from_le_bytes(stats[..8].try_into().unwrap());
        (ran.code, runs, fs::read_to_string(folder.join("finding.json")).ok())
    };
    let (code, runs, finding) = sweep("healthy", &[]);
    assert!(code == Some(0) && runs > 1 && finding.is_none(), "{code:?} {runs} {finding:?}");
    let (code, runs, finding) = sweep("broken", &["remove-unlocked"]);
    assert!(code == Some(77) && runs >= 1, "{code:?} {runs} {finding:?}");
    assert!(finding.unwrap().contains("bad-traceback"));
}

#[test]
fn an_interrupt_ends_the_museum_with_its_summary() {
    let args = ["museum", "--json", "--budget", "1000", "--jobs", "2", "--defect", "none"];
    let museum = command(&args).spawn().unwrap();
    within_seconds(|| (children_of(&museum).len() == 2).then_some(()));
    interrupt(&museum);
    let ran = Ran::end_of(museum);
    let summary = ran.summary();
    assert_eq!((ran.code, &summary["complete"], &summary["silent"]), (Some(1), &false.into(), &0.into()));
}

#[test]
fn a_storm_in_the_healthy_core_blows_over() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().to_str().unwrap();
    let ran = sigstorm(&["storm", "--seconds", "5", "--threads", "2", "--json", "--reports", reports]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["verdict"], &summary["violations"]), (&Value::Null, &0.into()));
    for what in ["signals", "tracebacks", "cycles", "copies", "recoveries", "barriers", "rounds", "syscalls"]
    {
        assert!(summary[what].as_u64().unwrap() > 0, "{what}: {summary}");
    }
    // Nearly every sample is judged, and by far not every one is skipped.
    let number = |what: &str| summary[what].as_u64().unwrap();
    assert!(number("unjudged") * 20 < number("signals"), "{summary}");
    assert!(summary["skips"]["lock-held"].as_u64().unwrap() < number("tracebacks"), "{summary}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was found, so nothing is left");
}

#[test]
fn a_storm_finds_a_handler_that_waits_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().to_str().unwrap();
    let ran =
        sigstorm(&["storm", "--seconds", "30", "--json", "--reports", reports, "--defect", "sigprof-spins"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["verdict"], &summary["violations"]), (&"deadlock".into(), &1.into()));
    let folder = Path::new(summary["report"].as_str().unwrap());
    let text = fs::read_to_string(folder.join("report.txt")).unwrap();
    for part in
        ["waits for the stack lock", "in its handler", "What each thread was at", "--defect sigprof-spins"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let json = fs::read(folder.join("report.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["verdict"], "deadlock");
}

#[test]
fn an_interrupt_ends_a_storm_with_its_summary() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["storm", "--threads", "3", "--json", "--reports"];
    let storm = command(&args).arg(dir.path()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    interrupt(&storm);
    let ran = Ran::end_of(storm);
    let summary = ran.summary();
    assert_eq!((ran.code, &summary["threads"]), (Some(0), &3.into()), "{summary}");
    assert!(summary["signals"].as_u64().unwrap() > 0, "{summary}");
}

#[test]
fn findings_of_engines_are_collected_into_reports() {
    let dir = tempfile::tempdir().unwrap();
    let crashes = dir.path().join("out/main/crashes");
    fs::create_dir_all(&crashes).unwrap();
    let spins = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus/schedule/sigprof-spins.txt");
    let packed = sigstorm(&["pack", spins]).stdout;
    fs::write(crashes.join("id:000000,sig:06"), &packed).unwrap();
    fs::write(crashes.join("README.txt"), "no schedule").unwrap();
    fs::write(dir.path().join("out/crash-00aa"), &packed).unwrap();
    let (out, reports) = (dir.path().join("out"), dir.path().join("reports"));
    let collect = |more: &[&str]| {
        let places = ["collect", out.to_str().unwrap(), "--reports", reports.to_str().unwrap(), "--json"];
        sigstorm(&[&places, more].concat())
    };
    let ran = collect(&["--defect", "sigprof-spins"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["files"], &summary["violations"]), (&2.into(), &2.into()), "{summary}");
    assert_eq!((&summary["verdict"], &summary["reports"]), (&"deadlock".into(), &1.into()), "{summary}");
    let folder = fs::read_dir(&reports).unwrap().next().unwrap().unwrap().path();
    assert!(folder.join("schedule.txt").is_file() && folder.join("report.txt").is_file());

    let healthy = collect(&[]);
    assert_eq!((healthy.code, &healthy.summary()["violations"]), (Some(0), &0.into()), "{healthy:?}");
    let missing = sigstorm(&["collect", dir.path().join("missing").to_str().unwrap()]);
    assert!(missing.code == Some(2) && missing.stderr.contains("missing"), "{missing:?}");
}

#[test]
fn a_hunt_accounts_for_every_signal() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().to_str().unwrap();
    let ran = sigstorm(&["hunt", "--runs", "4000", "--seed", "3", "--json", "--reports", reports]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let summary = ran.summary();
    let accounting = summary["accounting"].as_object().unwrap();
    let number = |key: &str| accounting[key].as_u64().unwrap();
    let skips = accounting["skips"].as_object().unwrap();
    let parts = ["tracebacks_read", "alone_read", "coalesced", "dropped"].map(number);
    let skipped: u64 = skips.values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(parts.iter().sum::<u64>() + skipped, number("sent"), "{summary}");
    assert!(parts.iter().all(|&part| part > 0) && skips.values().all(|n| *n != 0), "{summary}");
    assert_eq!(number("sent"), summary["signals"].as_u64().unwrap() + number("coalesced"), "{summary}");
}

/// This one changes the code itself, which a storm plants before there is a core.
#[test]
fn a_storm_with_harmless_defects_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().to_str().unwrap();
    for defect in ["order-check-inverted", "set-next-barrier-unlocked"] {
        let storm = ["storm", "--seconds", "1", "--json", "--defect", defect, "--reports", reports];
        let ran = sigstorm(&storm);
        assert_eq!(ran.code, Some(0), "{defect}: {}", ran.text());
        assert!(ran.summary()["signals"].as_u64() > Some(0), "{defect}: {}", ran.text());
    }
}
