//! The end of the tracer is the end of what it traces.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_inject::remote::{Event, Launch, Lifetime, Tracer};

use crate::victim::{Victim, lives, program};

const VARIABLE: &str = "SIGSTORM_REMOTE_TRACER";

/// Waits for something that the kernel does when it finds the time.
#[track_caller]
pub fn wait_until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "it never happens");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_tracer_takes_the_program_along() {
    if env::var_os(VARIABLE).is_some() {
        // The tracer that is killed: its program has stopped at a breakpoint, or sleeps.
        let mut victim = Victim::start(&["wait"]);
        let (pid, marker) = (victim.pid(), victim.address("marker"));
        victim.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
        victim.resume();
        let child = victim.run_to_marker_and_child();
        println!("\nvictim {pid} {child}");
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    }
    let name = "cleanup::killed_tracer_takes_the_program_along";
    let mut tracer = Command::new(env::current_exe().expect("our own path"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("this executable runs again");
    let lines = BufReader::new(tracer.stdout.take().expect("a pipe")).lines();
    let line =
        lines.map(|line| line.expect("text")).find(|line| line.starts_with("victim ")).expect("it says so");
    let pids: Vec<i32> = line.split(' ').skip(1).map(|pid| pid.parse().expect("a number")).collect();
    assert!(pids.iter().all(|&pid| lives(pid)));
    tracer.kill().expect("it lives");
    tracer.wait().expect("it was ours");
    for pid in pids {
        wait_until(|| !lives(pid));
    }
}

#[test]
fn program_that_does_not_exist_is_an_error_with_its_name() {
    let error = Tracer::spawn(&Launch::new("/nowhere/at-all")).expect_err("there is none");
    assert_eq!(
        error.to_string(),
        "/nowhere/at-all cannot be started: No such file or directory (os error 2)"
    );
    let error = Tracer::spawn(&Launch::new("sigstorm-no-such-program")).expect_err("there is none");
    assert!(error.to_string().contains("No such file"), "{error}");
    let error = Tracer::spawn(&Launch::new("/etc/passwd")).expect_err("it is no program");
    assert!(error.to_string().contains("Permission denied"), "{error}");
}

#[test]
fn program_is_found_by_its_name() {
    let mut tracer = Tracer::spawn(&Launch::new("true").env([])).expect("every machine has it");
    let pid = tracer.pid();
    assert!(!tracer.is_randomised(), "this machine grants it");
    tracer.resume(pid).expect("it is held");
    let mut ended = false;
    while let sigstorm_inject::remote::Waited::Event(event) =
        tracer.next_event(Some(Duration::from_secs(60))).expect("no error")
    {
        if let Event::ProcessExited { status, .. } = &event {
            ended = status.success();
        }
        if let Some(tid) = event.held() {
            tracer.resume(tid).expect("it is held");
        }
    }
    assert!(ended);
}

#[test]
fn held_threads_are_never_waited_for() {
    use sigstorm_inject::remote::Waited;
    let mut victim = Victim::start(&["signal"]);
    let wait = victim.tracer.next_event(None).expect("no error");
    assert_eq!(wait, Waited::AllHeld);
    let pid = victim.pid();
    assert!(victim.tracer.is_held(pid));
    victim.resume();
    let error = victim.tracer.resume(pid).expect_err("it runs");
    assert!(error.to_string().contains("is not held"), "{error}");
    victim.run(|_, _| {});
    assert_eq!(victim.tracer.next_event(None).expect("no error"), Waited::Ended);
}

#[test]
fn tracer_ends_although_it_heard_of_an_exit_during_an_injected_call() {
    let mut victim = Victim::launch(program(), &["fork"], true);
    let (pid, odd) = (victim.pid(), victim.address("odd"));
    victim.tracer.lay(pid, [odd], Lifetime::Stays).expect("it is code");
    victim.resume();
    let event = victim.run_to(|event| matches!(event, Event::Breakpoint { tid, .. } if *tid != pid));
    let child = event.held().expect("held");
    // SAFETY: The call sends a signal to our child.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    wait_until(|| victim.tracer.kernel_state(pid) == Some('Z'));
    victim.tracer.action(child, libc::SIGUSR1).expect("at an instruction");
    assert!(victim.tracer.kernel_state(pid).is_none(), "it was waited for");
    victim.tracer.kill();
    assert!(!lives(child));
}
