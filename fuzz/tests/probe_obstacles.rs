//! `sigstorm probe` before programs that cannot be probed, or hardly: each is told in words what stands in the way,
//! and nothing is left behind.

#[allow(dead_code, reason = "other tests use the rest")]
mod command;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command::{Ran, sigstorm};

/// The head of each program: a handler for SIGPROF, and work for the allocator.
const HEAD: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <unistd.h>
static void on_profile(int number) { (void)number; }
static __attribute__((noinline, noclone)) void work(int rounds) {
    for (int i = 0; i < rounds; i++) {
        char *volatile held = malloc(i % 1000);
        free(held);
    }
}
"#;

struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    /// Compiles a program with this `main`.
    fn compile(main: &str, flags: &[&str]) -> Program {
        let program = Program { folder: tempfile::tempdir().unwrap() };
        let source = program.folder.path().join("victim.c");
        fs::write(&source, format!("{HEAD}int main(void) {{ {main} }}\n")).unwrap();
        let mut compiler = Command::new("cc");
        let output =
            compiler.args(["-O1", "-o"]).arg(program.path()).arg(&source).args(flags).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("victim")
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<String> {
        let reports = self.folder.path().join("reports");
        let mut args =
            ["probe", "--json", "--reports", reports.to_str().unwrap()].map(str::to_owned).to_vec();
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.extend(["--".to_owned(), self.path().to_str().unwrap().to_owned()]);
        args
    }

    fn probe(&self, more: &[&str]) -> Ran {
        let args = self.args(more);
        sigstorm(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The processes that run this program.
    fn processes(&self) -> Vec<i32> {
        let runs_it =
            |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.path());
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(runs_it).collect()
    }

    /// Waits until no process runs this program any more.
    #[track_caller]
    fn is_gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "{:?} are left", self.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts a probe, and waits until the program runs.
    fn start(&self, more: &[&str]) -> Child {
        let mut probe = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
        probe.args(self.args(more)).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let child = probe.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.processes().is_empty() {
            assert!(Instant::now() < deadline, "the program does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }
}

const FOR_EVER: &str = "signal(SIGPROF, on_profile); for (;;) work(1000);";

fn notes(ran: &Ran) -> String {
    ran.summary()["notes"].to_string()
}

/// Nothing was injected, and a note says why.
#[track_caller]
fn has_no_answer(program: &Program, reason: &str, note: &str) {
    let ran = program.probe(&["--seconds", "4"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(ran.summary()["inconclusive"], reason, "{ran:?}");
    assert!(notes(&ran).contains(note), "{ran:?}");
    program.is_gone();
}

#[test]
fn program_for_another_machine_is_refused_by_name() {
    let program = Program::compile("return 0;", &[]);
    let mut bytes = fs::read(program.path()).unwrap();
    for (class, machine, name) in [(1, 3, "32-bit x86"), (2, 183, "AArch64"), (2, 8, "machine 8")] {
        (bytes[4], bytes[18]) = (class, machine);
        fs::write(program.path(), &bytes).unwrap();
        let ran = program.probe(&[]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(&format!("it is a program for {name}")), "{ran:?}");
    }
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o600)).unwrap();
    bytes[4..5].copy_from_slice(&[2]);
    bytes[18] = 62;
    fs::write(program.path(), &bytes).unwrap();
    let ran = program.probe(&[]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("cannot be started: Permission denied"), "{ran:?}");
}

#[test]
fn program_that_ignores_the_signal_is_told_apart_from_one_that_never_hears_of_it() {
    has_no_answer(
        &Program::compile("signal(SIGPROF, SIG_IGN); work(1000); return 0;", &[]),
        "no-handler",
        "the program ignores SIGPROF",
    );
    has_no_answer(
        &Program::compile("puts(\"no such file\"); return 7;", &[]),
        "no-handler",
        "before anything could be injected the program ended: exit status: 7, and printed last: no such file",
    );
}

#[test]
fn program_that_wants_to_be_traced_is_noticed() {
    let program = Program::compile(
        "if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0) { perror(\"traceme\"); return 9; } \
         signal(SIGPROF, on_profile); work(1000); return 0;",
        &[],
    );
    has_no_answer(&program, "no-handler", "PTRACE_TRACEME");
    has_no_answer(&program, "no-handler", "printed last: traceme: Operation not permitted");
}

#[test]
fn set_uid_program_that_loses_its_rights_is_noticed() {
    let program = Program::compile("signal(SIGPROF, on_profile); work(100000); return 0;", &[]);
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        // To root nobody else's rights matter less: a file of another user's.
        std::os::unix::fs::chown(program.path(), Some(1), None).unwrap();
    }
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o4755)).unwrap();
    let ran = program.probe(&["--seconds", "3"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let noted = notes(&ran).contains("set-uid");
    assert_eq!(noted, is_root, "{ran:?}");
}

#[test]
fn stripped_programs_are_probed_and_the_way_to_their_symbols_is_told() {
    for flags in [&["-s"][..], &["-s", "-static"]] {
        let program = Program::compile("signal(SIGPROF, on_profile); work(100000); return 0;", flags);
        let ran = program.probe(&["--seconds", "4"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.summary()["injected"].as_u64().unwrap() > 100, "{ran:?}");
        let ran = program.probe(&["--at", "victim!work", "--seconds", "4"]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains("victim is stripped: "), "{ran:?}");
    }
}

#[test]
fn pattern_that_matches_everything_is_served() {
    let program = Program::compile("signal(SIGPROF, on_profile); work(1000); return 0;", &[]);
    let ran = program.probe(&["--at", "*", "--seconds", "12"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.summary();
    assert!(summary["boundaries"].as_u64().unwrap() > 20_000, "{summary}");
    assert!(summary["injected"].as_u64().unwrap() > 500, "{summary}");
}

#[test]
fn each_boundary_is_served_as_often_as_asked() {
    let program = Program::compile(FOR_EVER, &["-g", "-fno-inline"]);
    let ran = program.probe(&["--at", "victim!work", "--visits", "5", "--seconds", "3"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.summary();
    let number = |key: &str| summary[key].as_u64().unwrap();
    let once = 5 * number("reached");
    assert!(number("reached") > 5, "{summary}");
    assert!((once..=once * number("processes")).contains(&number("injected")), "{summary}");
    assert!(number("processes") < 5, "{summary}");
}

#[test]
fn programs_that_fork_without_end_leave_nothing_behind() {
    for main in [
        "signal(SIGPROF, on_profile); for (;;) { work(10); if (fork() > 0) _exit(0); }",
        "signal(SIGPROF, on_profile); for (;;) { work(10); if (fork() == 0) { pause(); _exit(0); } usleep(2000); }",
    ] {
        let program = Program::compile(main, &[]);
        let ran = program.probe(&["--seconds", "3"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.summary()["injected"].as_u64().unwrap() > 0, "{ran:?}");
        program.is_gone();
    }
}

#[test]
fn program_that_runs_for_ever_is_ended_with_its_probe() {
    let program = Program::compile(FOR_EVER, &[]);
    let ran = program.probe(&["--seconds", "3"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(notes(&ran).contains("did not end"), "{ran:?}");
    program.is_gone();
}

#[test]
fn interrupted_probe_ends_its_program_and_says_what_it_has() {
    for more in
        [&["--seconds", "60"][..], &["--seconds", "60", "--fresh"], &["--seconds", "60", "--deliver", "held"]]
    {
        let program = Program::compile(FOR_EVER, &[]);
        let probe = program.start(more);
        std::thread::sleep(Duration::from_millis(1500));
        let before = Instant::now();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(probe.id() as i32),
            nix::sys::signal::Signal::SIGINT,
        )
        .unwrap();
        let output = probe.wait_with_output().unwrap();
        assert!(before.elapsed() < Duration::from_secs(10), "{more:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.lines().last().unwrap().contains("\"type\":\"summary\""), "{more:?} {text}");
        program.is_gone();
    }
}

#[test]
fn killed_probe_takes_its_program_along() {
    for more in [&["--seconds", "60"][..], &["--seconds", "60", "--fresh"]] {
        let program = Program::compile(FOR_EVER, &[]);
        let mut probe = program.start(more);
        std::thread::sleep(Duration::from_millis(1500));
        probe.kill().unwrap();
        probe.wait().unwrap();
        program.is_gone();
    }
}

#[test]
fn reports_that_cannot_be_written_are_an_error_before_anything_runs() {
    let program = Program::compile(FOR_EVER, &[]);
    let file = program.folder.path().join("file");
    fs::write(&file, "").unwrap();
    for folder in [file.join("below"), Path::new("/proc/none").to_owned()] {
        let path = program.path();
        let ran = sigstorm(&["probe", "--reports", folder.to_str().unwrap(), "--", path.to_str().unwrap()]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(folder.to_str().unwrap()), "{ran:?}");
    }
    program.is_gone();
}
