//! A test's body in a process of its own.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output, Stdio, exit};
use std::thread::sleep;
use std::time::{Duration, Instant};

const NAME: &str = "SIGSTORM_TEST_CHILD";
/// Printed once the body has ended. A child that ran no test at all does not print it.
const DONE: &str = "the body has ended";
const LIMIT: Duration = Duration::from_secs(180);

/// Runs `body` in a child, which must reach its end. `name` is the test's full name.
#[track_caller]
pub fn passes(name: &str, body: fn()) {
    let output = run(name, body);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stdout.contains(DONE),
        "{name}: {}\n--- its output\n{stdout}\n--- its errors\n{stderr}",
        output.status,
    );
}

/// Runs `body` in a child, which must abort. Returns its standard error.
#[track_caller]
pub fn aborts(name: &str, body: fn()) -> String {
    let output = run(name, body);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{name}: {}\n{stderr}", output.status);
    stderr
}

/// Runs `body` in a child, which must not reach its end. Returns its exit status.
#[track_caller]
pub fn ends(name: &str, body: fn()) -> ExitStatus {
    let output = run(name, body);
    assert!(!String::from_utf8_lossy(&output.stdout).contains(DONE), "{name}: the body has ended");
    output.status
}

fn run(name: &str, body: fn()) -> Output {
    if env::var(NAME).is_ok_and(|child| child == name) {
        body();
        println!("{DONE}");
        exit(0);
    }
    let program = env::current_exe().expect("the test's own path");
    let mut child = Command::new(program)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(NAME, name)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child process");
    let end = Instant::now() + LIMIT;
    while child.try_wait().expect("the child's state").is_none() {
        if Instant::now() > end {
            child.kill().expect("to end the child");
            let output = child.wait_with_output().expect("the child's output");
            panic!("{name}: hangs\n{}", String::from_utf8_lossy(&output.stderr));
        }
        sleep(Duration::from_millis(2));
    }
    child.wait_with_output().expect("the child's output")
}
