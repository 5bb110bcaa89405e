//! The command line, from outside: whatever is typed and whatever a file holds, it says
//! something that helps and exits as it promises. No panic, no hang.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TEXT: &str = "# sigstorm schedule 1\nm1 g1 call small\ngc mark; scan g1\n";

/// The result of a run.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The last line of `--json`, every line of which must be an object.
    fn summary(&self) -> serde_json::Value {
        let objects: Vec<serde_json::Value> =
            self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = objects.last().expect("a summary").clone();
        assert_eq!(last["type"], "summary", "{last}");
        last
    }
}

fn sigstorm(args: &[&str], stdin: &[u8]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    // It need not read any of it.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    Ran { code: status.code(), stdout, stderr }
}

fn file(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().into()
}

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
    let ran = sigstorm(&[], b"");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for part in ["hunt", "replay", "Exit status", "--help"] {
        assert!(ran.text().contains(part), "{part}");
    }
    for command in ["hunt", "replay", "show", "pack", "shrink", "museum", "storm", "collect"] {
        let ran = sigstorm(&[command, "--help"], b"");
        assert_eq!(ran.code, Some(0));
        assert!(ran.text().contains("Examples:"), "{command}");
    }
    let listed = sigstorm(&["--help"], b"");
    assert!(!listed.text().contains("worker") && !listed.text().contains("stormer"));
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
            let ran = sigstorm(&[command, path], b"");
            assert_eq!(ran.code, Some(2), "{command} {path}: {ran:?}");
            assert!(
                ran.stderr.contains(says) && ran.stderr.contains(path),
                "{command} {path}: {}",
                ran.stderr
            );
            assert!(ran.stdout.is_empty(), "{command} {path}");
        }
    }
    assert!(sigstorm(&["show", &bad], b"").stderr.contains("did you mean `call`?"));
}

#[test]
fn show_and_pack_convert_both_forms_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let text = file(dir.path(), "a.txt", TEXT.as_bytes());
    let packed = sigstorm(&["pack", &text], b"");
    assert_eq!((packed.code, packed.stdout.len()), (Some(0), 4 * 8));
    let shown = sigstorm(&["show", "-"], &packed.stdout);
    assert_eq!(sigstorm(&["pack", "-"], &shown.stdout).stdout, packed.stdout);

    let out = dir.path().join("out.bin");
    let ran = sigstorm(&["pack", &text, "-o", out.to_str().unwrap()], b"");
    assert!(ran.code == Some(0) && ran.stdout.is_empty());
    assert_eq!(fs::read(&out).unwrap(), packed.stdout);

    let json = sigstorm(&["show", &text, "--json"], b"").summary();
    assert_eq!((&json["command"], &json["steps"]), (&"show".into(), &4.into()));
    assert_eq!(json["text"].as_str().unwrap().as_bytes(), shown.stdout);
    let json = sigstorm(&["--json", "pack", &text], b"").summary();
    assert_eq!(json["hex"].as_str().unwrap().len(), 4 * 16);
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let text = file(dir.path(), "a.txt", TEXT.as_bytes());
    let nowhere = dir.path().join("no/such/folder");
    for out in [dir.path(), &nowhere, Path::new("/dev/full")] {
        let ran = sigstorm(&["show", &text, "-o", out.to_str().unwrap()], b"");
        assert_eq!(ran.code, Some(2), "{}", out.display());
        assert!(ran.stderr.contains("cannot write"), "{}", ran.stderr);
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let binary = env!("CARGO_BIN_EXE_sigstorm");
    let status = Command::new(binary).args(["show", &text]).stdout(full).stderr(Stdio::null()).status();
    assert_eq!(status.unwrap().code(), Some(2));
}

#[test]
fn closed_standard_output_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let noise = file(dir.path(), "noise", &noise());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
    command.args(["show", &noise]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert!(!String::from_utf8(ran.stderr).unwrap().contains("panicked"));
}

#[test]
fn any_bytes_are_a_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, noise) = (file(dir.path(), "empty", b""), file(dir.path(), "noise", &noise()));
    assert_eq!(sigstorm(&["show", &empty], b"").text(), "# sigstorm schedule 1\n");
    assert_eq!(sigstorm(&["pack", &empty], b"").stdout, b"");
    let shown = sigstorm(&["show", &noise], b"");
    assert_eq!(shown.code, Some(0));
    assert!(shown.stderr.contains("4096 steps"), "{}", shown.stderr);
    let packed = sigstorm(&["pack", &noise], b"");
    assert_eq!((packed.code, packed.stdout.len()), (Some(0), 4096 * 8));
    assert_eq!(sigstorm(&["pack", "-"], &shown.stdout).stdout, packed.stdout);
}

#[test]
fn any_schedule_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, noise) = (file(dir.path(), "empty", b""), file(dir.path(), "noise", &noise()));
    let ran = sigstorm(&["replay", &empty, "--times", "3", "--json", "--trace"], b"");
    assert_eq!(ran.code, Some(3), "nothing was run: {ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["runs"], &summary["divergent"]), (&3.into(), &0.into()));
    assert_eq!((&summary["files"], &summary["verdict"]), (&1.into(), &serde_json::Value::Null));

    // Whatever it comes to: it is run, and judged.
    let ran = sigstorm(&["replay", &noise, "--json"], b"");
    let summary = ran.summary();
    let verdict = summary["verdict"].as_str();
    assert!(matches!((ran.code, verdict), (Some(0), None) | (Some(1), Some(_))), "{ran:?}");

    let missing = dir.path().join("missing");
    let ran = sigstorm(&["replay", missing.to_str().unwrap(), &empty, "--json"], b"");
    assert_eq!((ran.code, &ran.summary()["files"]), (Some(2), &1.into()), "the other one is still run");
}

#[test]
fn shrink_says_where_there_is_nothing_to_shrink() {
    let ran = sigstorm(&["shrink", "-"], b"");
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("nothing is violated"), "{}", ran.stderr);
    assert_eq!(sigstorm(&["shrink", "-", "--json"], b"").summary()["verdict"], serde_json::Value::Null);
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
        let ran = sigstorm(args, b"");
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
        let ran = sigstorm(&["hunt", "--seconds", "30", option, folder], b"");
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
    let ran = sigstorm(
        &[&["hunt", "--runs", "20", "--jobs", "3", "--seed", "7", "--json"], &folders[..]].concat(),
        b"",
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["schedules"], &summary["jobs"]), (&20.into(), &3.into()));
    assert_eq!((&summary["violations"], &summary["seed"]), (&0.into(), &7.into()));
    assert!(corpus.is_dir());
}

/// A hunt without a budget, once its workers run, and the workers' process ids.
fn endless_hunt(reports: &Path) -> (std::process::Child, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
    command.args(["hunt", "--jobs", "2", "--json", "--reports"]).arg(reports);
    let hunt = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", hunt.id());
    let workers = within_seconds(|| {
        let pids: Vec<_> = fs::read_to_string(&children).ok()?.split_whitespace().map(String::from).collect();
        // A child that is not yet what it will be cannot yet look after itself.
        let runs = |pid: &String| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sigstorm\0worker"))
        };
        (pids.len() == 2 && pids.iter().all(runs)).then_some(pids)
    });
    (hunt, workers)
}

fn within_seconds<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(result) = what() {
            return result;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Gone, or a zombie for whoever inherits it to bury.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"))
}

#[test]
fn an_interrupt_ends_a_hunt_with_its_summary() {
    let dir = tempfile::tempdir().unwrap();
    let (mut hunt, workers) = endless_hunt(dir.path());
    // Once it has run something: before that there is no answer.
    let mut lines = BufReader::new(hunt.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ran_some = |line: &String| {
        let progress: serde_json::Value = serde_json::from_str(line).unwrap();
        progress["schedules"].as_u64() > Some(0)
    };
    assert!(lines.any(|line| ran_some(&line)));
    let pid = nix::unistd::Pid::from_raw(hunt.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
    let stdout = lines.last().unwrap().into_bytes();
    let ran = Ran { code: hunt.wait().unwrap().code(), stdout, stderr: String::new() };
    assert_eq!((ran.code, &ran.summary()["jobs"]), (Some(0), &2.into()));
    assert!(workers.iter().all(|pid| has_ended(pid)));
}

#[test]
fn workers_do_not_outlive_a_hunt_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut hunt, workers) = endless_hunt(dir.path());
    hunt.kill().unwrap();
    hunt.wait().unwrap();
    within_seconds(|| workers.iter().all(|pid| has_ended(pid)).then_some(()));
}

#[test]
fn the_museum_tabulates_how_soon_a_specimen_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().join("r");
    let args = "museum --json --trials 2 --budget 60 --jobs 2 --seed 5 --defect sigprof-spins --defect exit-keeps-barriers \
                --baseline random --baseline hunt --reports";
    let mut args: Vec<&str> = args.split_whitespace().collect();
    args.push(reports.to_str().unwrap());
    let ran = sigstorm(&args, b"");
    let summary = ran.summary();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for (key, number) in [("specimens", 2), ("caught", 2), ("silent", 0), ("false_alarms", 0), ("seed", 5)] {
        assert_eq!(summary[key], number, "{key}");
    }
    let objects: Vec<serde_json::Value> =
        ran.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
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
    assert_eq!(sigstorm(&again, b"").summary()["verdict"], "deadlock");
}

#[test]
fn the_museum_is_silent_where_it_must_be() {
    let ran = sigstorm(&["museum", "--json", "--trials", "1", "--budget", "1", "--defect", "none"], b"");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.summary();
    assert_eq!(
        (&summary["specimens"], &summary["must_be_silent"], &summary["silent"]),
        (&0.into(), &1.into(), &1.into())
    );
    assert_eq!(sigstorm(&["museum", "--defect", "nothing"], b"").code, Some(2));
}

#[test]
fn museum_replaces_kept_tables_only_where_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("reports/museum.md");
    let museum = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
        command.args(["museum", "--trials", "1", "--budget", "1", "--defect", "sigprof-spins"]).args(more);
        command.current_dir(dir.path()).output().unwrap()
    };
    let plain = museum(&[]);
    assert!(String::from_utf8_lossy(&plain.stdout).contains("sigprof-spins"), "{plain:?}");
    assert!(!dir.path().join("reports").exists(), "the table is printed, and nothing is written");
    let named = museum(&["--reports", "named"]);
    assert!(dir.path().join("named/museum.md").is_file() && !kept.exists(), "{named:?}");
    let keep = museum(&["--keep"]);
    assert!(kept.is_file() && dir.path().join("reports/museum/sigprof-spins.md").is_file(), "{keep:?}");
    assert_eq!(museum(&["--keep", "--reports", "named"]).status.code(), Some(2));
}

#[test]
fn museum_that_is_ended_early_says_so_in_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
    command.args(["museum", "--budget", "1000", "--jobs", "1", "--defect", "none", "--reports"]);
    let museum = command.arg(dir.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    within_seconds(|| {
        let tasks = fs::read_dir(format!("/proc/{}/task", museum.id())).ok()?.map_while(Result::ok);
        let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        tasks.map(of).any(|children| !children.is_empty()).then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(museum.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
    assert_eq!(museum.wait_with_output().unwrap().status.code(), Some(1));
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
        let ran = sigstorm(&["worker", orders], b"");
        assert!(ran.code == Some(78) && ran.stderr.contains(says), "{orders}: {ran:?}");
    }
    // A child of a process that is not its parent ends at once.
    let orphan = r#"{"parent":1,"task":{"runner":{"core":null,"defects":[]}}}"#;
    let ran = sigstorm(&["runner", orphan], b"");
    assert_eq!((ran.code, ran.text()), (Some(0), ""), "{ran:?}");
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
        let ran = sigstorm(&["sweeper", &orders], b"");
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
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
    command.args(["museum", "--json", "--budget", "1000", "--jobs", "2", "--defect", "none"]);
    let museum = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let children = || -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", museum.id())).unwrap().map_while(Result::ok);
        let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        tasks.map(|task| of(task).split_whitespace().count()).sum()
    };
    within_seconds(|| (children() == 2).then_some(()));
    let pid = nix::unistd::Pid::from_raw(museum.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
    let Output { status, stdout, .. } = museum.wait_with_output().unwrap();
    let ran = Ran { code: status.code(), stdout, stderr: String::new() };
    let summary = ran.summary();
    assert_eq!((ran.code, &summary["complete"], &summary["silent"]), (Some(1), &false.into(), &0.into()));
}

#[test]
fn a_storm_in_the_healthy_core_blows_over() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().to_str().unwrap();
    let ran = sigstorm(&["storm", "--seconds", "5", "--threads", "2", "--json", "--reports", reports], b"");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["verdict"], &summary["violations"]), (&serde_json::Value::Null, &0.into()));
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
    let ran = sigstorm(
        &["storm", "--seconds", "30", "--json", "--reports", reports, "--defect", "sigprof-spins"],
        b"",
    );
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
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["verdict"], "deadlock");
}

#[test]
fn an_interrupt_ends_a_storm_with_its_summary() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
    command.args(["storm", "--threads", "3", "--json", "--reports"]).arg(dir.path());
    let storm = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let pid = nix::unistd::Pid::from_raw(storm.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
    let Output { status, stdout, .. } = storm.wait_with_output().unwrap();
    let ran = Ran { code: status.code(), stdout, stderr: String::new() };
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
    let packed = sigstorm(&["pack", spins], b"").stdout;
    fs::write(crashes.join("id:000000,sig:06"), &packed).unwrap();
    fs::write(crashes.join("README.txt"), "no schedule").unwrap();
    fs::write(dir.path().join("out/crash-00aa"), &packed).unwrap();
    let (out, reports) = (dir.path().join("out"), dir.path().join("reports"));
    let collect = |more: &[&str]| {
        let places = ["collect", out.to_str().unwrap(), "--reports", reports.to_str().unwrap(), "--json"];
        sigstorm(&[&places, more].concat(), b"")
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
    let missing = sigstorm(&["collect", dir.path().join("missing").to_str().unwrap()], b"");
    assert!(missing.code == Some(2) && missing.stderr.contains("missing"), "{missing:?}");
}

#[test]
fn a_hunt_accounts_for_every_signal() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().to_str().unwrap();
    let ran = sigstorm(&["hunt", "--runs", "4000", "--seed", "3", "--json", "--reports", reports], b"");
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
        let ran = sigstorm(&storm, b"");
        assert_eq!(ran.code, Some(0), "{defect}: {}", ran.text());
        assert!(ran.summary()["signals"].as_u64() > Some(0), "{defect}: {}", ran.text());
    }
}
