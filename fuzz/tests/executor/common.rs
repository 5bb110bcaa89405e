//! A test's body in a process of its own, and the harness there.

use std::env;
use std::io::Read;
use std::process::{Command, Stdio, exit};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm::executor::Harness;
use sigstorm::outcome::{Finding, Run};
use sigstorm::schedule::Schedule;
use sigstorm_runtime::Defect;

const NAME: &str = "SIGSTORM_TEST_CHILD";
const ARGUMENT: &str = "SIGSTORM_TEST_ARGUMENT";
/// Around what a body returns: a child that ran no body at all prints neither.
const BEGINS: &str = "\n--- the body returned\n";
const ENDS: &str = "\n--- and has ended\n";
const LIMIT: Duration = Duration::from_secs(300);

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
    let mut child = Command::new(env::current_exe().expect("the test's own path"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(NAME, name)
        .env(ARGUMENT, argument)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child process");
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child's state") {
            break status;
        }
        if Instant::now() > end {
            child.kill().expect("to end the child");
            break child.wait().expect("the child's state");
        }
        thread::sleep(Duration::from_millis(1));
    };
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("the child's output")).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    let result = stdout.split_once(BEGINS).and_then(|(_, rest)| rest.split_once(ENDS));
    match result {
        Some((result, _)) if status.success() => result.to_owned(),
        _ => panic!("{name} {argument}: {status}\n--- its output\n{stdout}\n--- its errors\n{stderr}"),
    }
}

/// Reads a pipe to its end meanwhile, so that the child never waits for it.
fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("a piped stream");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("to read the child's output");
        bytes
    })
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
