//! Handlers of delivered signals: nested, left by a long jump, on an alternate stack, blocked.

use sigstorm_inject::remote::{Event, Lifetime, Origin, ReturnBy, Sent};

use crate::victim::Victim;

#[test]
fn handler_that_is_left_by_a_long_jump_is_reported() {
    for args in [&["jump"][..], &["jump", "alternate"]] {
        let mut victim = Victim::start(args);
        victim.lay(&["attacked"], Lifetime::OneShot);
        let (mut sent, mut left) = (0, 0);
        victim.resume();
        victim.run(|victim, event| match event {
            Event::Breakpoint { tid, .. } if sent < 3 => {
                let result =
                    victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Tkill)).expect("a boundary");
                assert_eq!(result, Sent::Delivered);
                sent += 1;
            }
            Event::HandlerEntered { delivery, .. } => assert_eq!(delivery.stack.is_some(), args.len() > 1),
            Event::HandlerReturned { .. } => panic!("it never returns"),
            Event::HandlerLeft { tid, .. } => {
                assert!(victim.tracer.deliveries(*tid).is_empty());
                left += 1;
            }
            _ => {}
        });
        assert_eq!((sent, left), (3, 3));
        assert_eq!(victim.output(), "jumped 3\n");
    }
}

#[test]
fn boundary_at_which_a_handler_that_was_left_had_come_is_visited_again() {
    let mut victim = Victim::start(&["jump"]);
    let (pid, attacked) = (victim.pid(), victim.address("attacked"));
    victim.tracer.lay(pid, [attacked], Lifetime::Stays).expect("it is code");
    let (mut visits, mut left) = (0, 0);
    victim.resume();
    victim.run(|victim, event| match event {
        Event::Breakpoint { tid, .. } => {
            visits += 1;
            if visits == 1 {
                victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Tkill)).expect("a boundary");
            }
        }
        Event::HandlerLeft { .. } => left += 1,
        _ => {}
    });
    // The first round ends with the first of its four calls.
    assert_eq!((visits, left), (1 + 4 * 4, 1));
    assert_eq!(victim.output(), "jumped 1\n");
}

#[test]
fn signal_inside_a_handler_nests_and_returns_in_order() {
    let ways = [ReturnBy::DebugRegister, ReturnBy::Breakpoint];
    for (args, by) in
        [&["nested"][..], &["nested", "alternate"]].into_iter().flat_map(|args| ways.map(|by| (args, by)))
    {
        let mut victim = Victim::start(args);
        victim.tracer.see_returns(by).expect("nothing to change");
        victim.lay(&["attacked", "mix"], Lifetime::Stays);
        let (mut outer, mut inner, mut order) = (0, 0, Vec::new());
        victim.resume();
        victim.run(|victim, event| match event {
            Event::Breakpoint { tid, .. } => match victim.tracer.deliveries(*tid) {
                [] if outer < 4 => {
                    outer += 1;
                    let sent = victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Kernel));
                    assert_eq!(sent.expect("a boundary"), Sent::Delivered);
                }
                // The handler runs the same functions.
                [delivery] if delivery.signal == libc::SIGUSR1 && inner < 100 => {
                    inner += 1;
                    let blocked = victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Kernel));
                    assert_eq!(blocked.expect("a boundary"), Sent::Blocked, "its own signal");
                    let sent = victim.tracer.deliver(*tid, libc::SIGUSR2, Some(Origin::Tkill));
                    assert_eq!(sent.expect("a boundary"), Sent::Delivered);
                }
                _ => {}
            },
            Event::HandlerEntered { delivery, .. } => order.push((delivery.signal, true, delivery.frame)),
            Event::HandlerReturned { delivery, .. } => order.push((delivery.signal, false, delivery.frame)),
            Event::HandlerLeft { .. } | Event::NotHandled { .. } => panic!("{event:?}"),
            _ => {}
        });
        assert_eq!((outer, inner), (4, 100));
        assert_eq!(order.len(), 2 * (4 + 100));
        let mut open = Vec::new();
        for (signal, entered, frame) in order {
            if entered {
                open.push((signal, frame));
            } else {
                assert_eq!(open.pop(), Some((signal, frame)));
            }
        }
        assert!(open.is_empty());
        let undisturbed = crate::victim::undisturbed(&["nested"]);
        let expected = String::from_utf8_lossy(&undisturbed.stdout).replace("signals 0", "signals 104");
        assert_eq!(victim.output(), expected);
    }
}

#[test]
fn ignored_signal_is_reported_as_not_handled() {
    let mut victim = Victim::start(&["signal"]);
    victim.lay(&["attacked"], Lifetime::Stays);
    let (mut sent, mut dropped, mut hits) = (0, 0, 0);
    victim.resume();
    victim.run(|victim, event| match event {
        // SIGWINCH has no handler and is ignored by default.
        Event::Breakpoint { tid, .. } => {
            hits += 1;
            if hits % 2 == 0 {
                victim.tracer.deliver(*tid, libc::SIGWINCH, Some(Origin::Tkill)).expect("a boundary");
                sent += 1;
            }
        }
        Event::NotHandled { signal, .. } => {
            assert_eq!(*signal, libc::SIGWINCH);
            dropped += 1;
        }
        _ => {}
    });
    assert!(sent > 10 && sent == dropped, "{sent} {dropped}");
    let mut plain = Victim::start(&["signal"]);
    plain.lay(&["attacked"], Lifetime::Stays);
    let mut expected = 0;
    plain.resume();
    plain.run(|_, event| expected += usize::from(matches!(event, Event::Breakpoint { .. })));
    assert_eq!(hits, expected, "no visit is counted twice");
    victim.assert_undisturbed(&["signal"]);
}

#[test]
fn action_of_a_signal_is_asked_for_and_delivery_goes_on_from_there() {
    let mut victim = Victim::start(&["signal"]);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    victim.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
    victim.resume();
    victim.run_to(|event| matches!(event, Event::Breakpoint { .. }));
    let action = victim.tracer.action(pid, libc::SIGUSR1).expect("at an instruction");
    assert_eq!(action.handler, victim.address("on_signal"));
    assert_ne!(action.flags & libc::SA_SIGINFO as u64, 0);
    assert_eq!(victim.tracer.action(pid, libc::SIGUSR2).expect("at an instruction").handler, 0);
    // The stop is no signal's any more; the signal still lands here.
    let sent = victim.tracer.deliver(pid, libc::SIGUSR1, Some(Origin::Timer)).expect("a boundary");
    assert_eq!(sent, Sent::Delivered);
    let mut returned = 0;
    victim.run(|_, event| match event {
        Event::HandlerEntered { delivery, .. } => {
            assert_eq!((delivery.pc, delivery.restorer), (marker, action.restorer));
        }
        Event::HandlerReturned { .. } => returned += 1,
        Event::Breakpoint { .. } | Event::Signal { .. } => panic!("{event:?}"),
        _ => {}
    });
    assert_eq!(returned, 1);
    assert!(victim.output().ends_with(&format!("\n{marker:x} {}\n", libc::SI_TIMER)));
}

#[test]
fn signal_is_refused_where_there_is_no_boundary() {
    let mut victim = Victim::start(&["signal"]);
    let pid = victim.pid();
    let error = victim.tracer.deliver(pid, libc::SIGUSR1, None).expect_err("it is in execve");
    assert!(error.to_string().contains("no boundary"), "{error}");
    let error = victim.tracer.action(pid, libc::SIGUSR1).expect_err("it is in execve");
    assert!(error.to_string().contains("no boundary"), "{error}");
    victim.resume();
    victim.run(|_, _| {});
    victim.assert_undisturbed(&["signal"]);
}
