//! Waits with a limit, and what they leave of the host's signals.

use std::time::Duration;

use sigstorm_inject::remote::{Event, Lifetime, Waited};

use crate::victim::Victim;

const SHORT: Option<Duration> = Some(Duration::from_millis(60));

/// A program that sleeps for ever.
fn sleeper() -> Victim {
    let mut victim = Victim::start(&["wait"]);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    victim.tracer.lay(pid, [marker], Lifetime::OneShot).expect("it is code");
    victim.resume();
    victim.run_to_marker_and_child();
    victim.resume();
    victim
}

fn wait(victim: &mut Victim) -> Waited {
    victim.tracer.next_event(SHORT).expect("no error")
}

#[test]
fn longest_limit_is_no_limit() {
    let mut victim = Victim::start(&["signal"]);
    let waited = victim.tracer.next_event(Some(Duration::MAX)).expect("no error");
    assert_eq!(waited, Waited::AllHeld);
    victim.resume();
    let waited = victim.tracer.next_event(Some(Duration::MAX)).expect("no error");
    assert!(matches!(waited, Waited::Event(Event::ProcessExited { .. })), "{waited:?}");
}

#[test]
fn limit_ends_the_wait_of_a_thread_that_blocks_every_signal() {
    // SAFETY: The record is live; this thread is the test's own.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
    let mut victim = sleeper();
    assert_eq!(wait(&mut victim), Waited::TimedOut);
    drop(victim);
    // SAFETY: as above.
    let blocked = unsafe {
        let mut now: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut now);
        (libc::SIGRTMIN()..=libc::SIGRTMAX()).all(|signal| libc::sigismember(&now, signal) == 1)
    };
    assert!(blocked, "the mask is as before");
}

#[test]
fn host_is_not_interrupted_after_a_wait() {
    let mut victim = sleeper();
    assert_eq!(wait(&mut victim), Waited::TimedOut);
    let nap = || {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        // SAFETY: The record is live; nothing is stored.
        unsafe { libc::nanosleep(&time, std::ptr::null_mut()) }
    };
    // The last tick may be on its way yet.
    nap();
    assert_eq!((nap(), nap()), (0, 0));
    assert_eq!(wait(&mut victim), Waited::TimedOut, "it ticks again");
}
