//! System calls that a stopped thread is made to make, and what else happens to the thread meanwhile.

use std::time::Duration;

use sigstorm_inject::remote::{Error, Event, Lifetime, Origin, Sent, Waited};

use crate::victim::{Victim, undisturbed};

/// Runs to the marker's first visit, with a breakpoint there that stays. A thread that goes on from
/// there must map a scratch area first.
fn at_marker(args: &[&str]) -> Victim {
    let mut victim = Victim::start(args);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    victim.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
    victim.resume();
    victim.run_to(|event| matches!(event, Event::Breakpoint { .. }));
    victim
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: The call sends a signal to our child.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn thread_at_the_end_of_its_stack_is_asked_for_an_action() {
    // The program catches SIGTRAP, so the breakpoint itself asks, too.
    let mut victim = at_marker(&["narrow"]);
    let pid = victim.pid();
    let action = victim.tracer.action(pid, libc::SIGTRAP).expect("at an instruction");
    assert_eq!(action.handler, victim.address("on_trap"));
    victim.run_on();
    victim.assert_undisturbed(&["narrow"]);
}

#[test]
fn stop_signal_that_is_pending_during_an_injected_call_arrives_once_after_it() {
    let mut victim = at_marker(&["signal"]);
    let pid = victim.pid();
    kill(pid, libc::SIGSTOP);
    victim.resume();
    let (mut signals, mut stops) = (0, 0);
    victim.run(|_, event| match event {
        Event::Signal { info, .. } if info.signal == libc::SIGSTOP => signals += 1,
        Event::GroupStopped { signal: libc::SIGSTOP, .. } => {
            stops += 1;
            kill(pid, libc::SIGCONT);
        }
        Event::Breakpoint { .. } => panic!("a second visit"),
        _ => {}
    });
    assert_eq!((signals, stops), (1, 1));
    victim.assert_undisturbed(&["signal"]);
}

#[test]
fn interruption_of_a_held_thread_is_reported_although_the_thread_first_maps_memory() {
    let mut victim = at_marker(&["signal"]);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    victim.tracer.interrupt(pid).expect("it lives");
    victim.resume();
    let event = victim.next().expect("it lives");
    assert_eq!(event, Event::Interrupted { tid: pid });
    assert_eq!(victim.tracer.registers(pid).expect("held").pc(), marker);
    victim.pass(&event);
    victim.run(|_, event| match event {
        Event::Interrupted { .. } | Event::Breakpoint { .. } => panic!("{event:?}"),
        _ => {}
    });
    victim.assert_undisturbed(&["signal"]);
}

#[test]
fn thread_whose_process_was_stopped_while_it_was_held_stays_stopped_after_it_mapped_memory() {
    let mut victim = Victim::start(&["pair"]);
    let other = victim.hold_pair();
    let pid = victim.pid();
    victim.resume();
    kill(pid, libc::SIGSTOP);
    victim.run_to(|event| matches!(event, Event::GroupStopped { .. }));
    assert!(victim.tracer.is_held(other));
    victim.tracer.resume(other).expect("held");
    let event = victim.next().expect("it lives");
    assert_eq!(event, Event::GroupStopped { tid: other, signal: libc::SIGSTOP });
    let wait = victim.tracer.next_event(Some(Duration::from_millis(200))).expect("no error");
    assert_eq!(wait, Waited::TimedOut, "it is stopped");
    kill(pid, libc::SIGCONT);
    let mut visits = 0;
    victim.run(|_, event| visits += usize::from(matches!(event, Event::Breakpoint { .. })));
    assert_eq!(visits, 1, "the marker's second visit");
    victim.assert_undisturbed(&["pair"]);
}

#[test]
fn thread_in_a_group_stop_that_is_asked_for_an_action_stays_stopped() {
    let mut victim = at_marker(&["signal"]);
    let pid = victim.pid();
    kill(pid, libc::SIGSTOP);
    victim.resume();
    victim.run_to(|event| matches!(event, Event::GroupStopped { .. }));
    victim.tracer.interrupt(pid).expect("it lives");
    victim.run_to(|event| matches!(event, Event::Interrupted { .. }));
    let handler = victim.tracer.action(pid, libc::SIGUSR1).expect("at an instruction").handler;
    assert_eq!(handler, victim.address("on_signal"));
    victim.resume();
    let wait = victim.tracer.next_event(Some(Duration::from_millis(200))).expect("no error");
    assert_eq!(wait, Waited::TimedOut, "it is stopped");
    kill(pid, libc::SIGCONT);
    victim.run_on();
    victim.assert_undisturbed(&["signal"]);
}

/// Runs until the signal that has just been sent is reported.
fn run_to_signal(victim: &mut Victim, signal: i32) {
    victim.run_to(|event| matches!(event, Event::Signal { info, .. } if info.signal == signal));
}

#[test]
fn signal_that_holds_a_thread_is_delivered_with_its_record_after_an_action_was_asked_for() {
    let mut victim = at_marker(&["signal"]);
    let pid = victim.pid();
    kill(pid, libc::SIGUSR1);
    victim.resume();
    run_to_signal(&mut victim, libc::SIGUSR1);
    victim.tracer.action(pid, libc::SIGUSR1).expect("at an instruction");
    let sent = victim.tracer.deliver(pid, libc::SIGUSR1, None).expect("a signal's stop");
    assert_eq!(sent, Sent::Delivered);
    let event = victim.next().expect("it lives");
    assert!(matches!(event, Event::HandlerEntered { .. }), "{event:?}");
    victim.pass(&event);
    // The next one is another signal.
    let event = victim.next().expect("it lives");
    assert!(matches!(event, Event::HandlerReturned { .. }), "{event:?}");
    kill(pid, libc::SIGUSR1);
    victim.pass(&event);
    let event = victim.next().expect("it lives");
    assert!(matches!(event, Event::Signal { .. }), "{event:?}");
    victim.pass(&event);
    victim.run_on();
    let output = victim.output();
    let codes: Vec<&str> = output.lines().skip(1).filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(codes, ["0", "0"], "SI_USER: {output}");
}

#[test]
fn signal_that_is_dropped_after_an_action_was_asked_for_leaves_the_next_one_alone() {
    let mut victim = at_marker(&["signal"]);
    let pid = victim.pid();
    kill(pid, libc::SIGUSR1);
    victim.resume();
    run_to_signal(&mut victim, libc::SIGUSR1);
    victim.tracer.action(pid, libc::SIGUSR1).expect("at an instruction");
    kill(pid, libc::SIGUSR1);
    victim.tracer.resume_without_signal(pid).expect("held");
    run_to_signal(&mut victim, libc::SIGUSR1);
    victim.resume();
    victim.run_on();
    assert_eq!(victim.output().lines().count(), 2, "one signal");
}

#[test]
fn programs_own_signal_keeps_its_record_when_another_one_is_delivered_first() {
    let mut victim = Victim::start(&["nested"]);
    let pid = victim.pid();
    victim.lay(&["attacked"], Lifetime::OneShot);
    victim.resume();
    victim.run_to(|event| matches!(event, Event::Breakpoint { .. }));
    // SAFETY: The call sends a signal to our child.
    let queued = unsafe { libc::sigqueue(pid, libc::SIGUSR1, libc::sigval { sival_ptr: 77 as *mut _ }) };
    assert_eq!(queued, 0);
    victim.resume();
    run_to_signal(&mut victim, libc::SIGUSR1);
    victim.tracer.deliver(pid, libc::SIGUSR2, Some(Origin::Tkill)).expect("a signal's stop");
    let event = victim.next().expect("it lives");
    assert!(
        matches!(&event, Event::HandlerEntered { delivery, .. } if delivery.signal == libc::SIGUSR2),
        "{event:?}"
    );
    victim.pass(&event);
    let event = victim.next().expect("it lives");
    let Event::Signal { info, .. } = &event else { panic!("{event:?}") };
    assert_eq!((info.signal, info.code), (libc::SIGUSR1, libc::SI_QUEUE));
    victim.pass(&event);
    victim.run_to(|event| matches!(event, Event::HandlerReturned { .. }));
    // The program's own list, of a PC and an `si_code` each.
    let seen = victim.address("seen");
    let code = |index: u64| victim.tracer.read_word(pid, seen + 16 * index + 8).expect("mapped") as i32;
    assert_eq!([code(0), code(1)], [libc::SI_QUEUE, -6], "SIGUSR1's handler ran first");
    victim.resume();
    victim.run_on();
}

/// Sets how much memory the program may have mapped.
fn limit_memory(pid: i32, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: The kernel reads the record, which is live.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_AS, &limit, std::ptr::null_mut()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn thread_that_cannot_go_on_for_want_of_memory_is_as_before_and_goes_on_later() {
    let mut victim = at_marker(&["signal"]);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    limit_memory(pid, 1 << 20);
    for _ in 0..2 {
        let error = victim.tracer.resume(pid).expect_err("it may map nothing");
        assert!(matches!(error, Error::Scratch { address, .. } if address == marker), "{error}");
        let error = victim.tracer.step(pid).expect_err("it may map nothing");
        assert!(matches!(error, Error::Scratch { .. }), "{error}");
        assert_eq!(victim.tracer.registers(pid).expect("held").pc(), marker);
    }
    limit_memory(pid, libc::RLIM_INFINITY);
    victim.resume();
    victim.run(|_, event| match event {
        Event::Breakpoint { .. } | Event::Stepped { .. } => panic!("{event:?}"),
        _ => {}
    });
    victim.assert_undisturbed(&["signal"]);
}

#[test]
fn injected_call_that_a_filter_refuses_is_an_error_and_leaves_no_trace() {
    let mut victim = at_marker(&["filter"]);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    let before = victim.tracer.signal_sets(pid).expect("it lives").blocked;
    let error = victim.tracer.resume(pid).expect_err("it may map nothing");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(victim.tracer.signal_sets(pid).expect("it lives").blocked, before);
    victim.tracer.lift(pid, [marker]).expect("it is code");
    victim.resume();
    victim.run(|_, event| assert!(!matches!(event, Event::Signal { .. }), "{event:?}"));
    let expected = undisturbed(&["filter"]);
    assert_eq!(victim.output(), String::from_utf8_lossy(&expected.stdout));
}
