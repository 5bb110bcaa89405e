//! System calls that a stopped thread is made to make, and what else happens to the thread meanwhile.

use sigstorm_inject::remote::{Event, Lifetime};

use crate::victim::Victim;

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
