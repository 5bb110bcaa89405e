//! A signal at every instruction of a function.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use sigstorm_inject::remote::{Event, Lifetime, Origin, ReturnBy, Sent, has_signal};

use crate::victim::{Victim, static_program};

/// SIGUSR1 at every boundary of `attacked` and `mix`, as it is reached: the handler itself writes down
/// the PC that it interrupted.
fn signal_at_every_boundary(victim: &mut Victim, lifetime: Lifetime, by: ReturnBy) {
    victim.tracer.see_returns(by).expect("nothing to change");
    let marker = victim.address("marker");
    let pid = victim.pid();
    victim.tracer.lay(pid, [marker], Lifetime::OneShot).expect("it is code");
    victim.resume();
    victim.run_to(|event| matches!(event, Event::Breakpoint { address, .. } if *address == marker));
    let sets = victim.tracer.signal_sets(pid).expect("it lives");
    assert!(has_signal(sets.caught, libc::SIGUSR1) && !has_signal(sets.caught, libc::SIGUSR2));
    let all = victim.lay(&["attacked", "mix"], lifetime);
    let mut sent = Vec::new();
    let (mut entered, mut returned) = (Vec::new(), Vec::new());
    victim.resume();
    let sp = std::cell::Cell::new(0);
    victim.run(|victim, event| match event {
        Event::Breakpoint { tid, address, .. } => {
            let regs = victim.tracer.registers(*tid).expect("held");
            assert_eq!(regs.pc(), *address);
            sp.set(regs.sp());
            sent.push(*address);
            let result = victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Timer)).expect("a boundary");
            assert_eq!(result, Sent::Delivered);
        }
        Event::HandlerEntered { tid, delivery } => {
            assert_eq!(delivery.sp, sp.get());
            assert_eq!(delivery.resumes_at, delivery.pc);
            assert_eq!(delivery.handler, victim.address("on_signal"));
            assert_eq!(victim.tracer.deliveries(*tid).len(), 1);
            entered.push(delivery.pc);
        }
        Event::HandlerReturned { tid, delivery } => {
            assert_eq!(victim.tracer.registers(*tid).expect("held").pc(), delivery.restorer);
            assert!(victim.tracer.deliveries(*tid).is_empty());
            returned.push(delivery.pc);
        }
        Event::Signal { info, .. } => panic!("{info:?}"),
        _ => {}
    });
    assert_eq!((&entered, &returned), (&sent, &sent));
    let reached: BTreeSet<u64> = sent.iter().copied().collect();
    assert!(reached.len() > 20 && reached.is_subset(&all), "{} reached", reached.len());
    match lifetime {
        Lifetime::OneShot => assert_eq!(reached.len(), sent.len(), "each once"),
        Lifetime::Stays => assert!(sent.len() > 2 * reached.len(), "each as often as it is reached"),
    }
    let output = victim.output();
    let (sum, handled) = output.split_once('\n').expect("lines");
    let expected: String = sent.iter().map(|pc| format!("{pc:x} {}\n", libc::SI_TIMER)).collect();
    assert_eq!(handled, expected, "what the handler found");
    let undisturbed = crate::victim::undisturbed(&["signal"]);
    assert_eq!(format!("{sum}\n"), String::from_utf8_lossy(&undisturbed.stdout));
    assert!(victim.status.is_some_and(|status| status.success()));
}

#[test]
fn signal_lands_once_at_every_boundary_that_is_reached() {
    for by in [ReturnBy::DebugRegister, ReturnBy::Breakpoint] {
        signal_at_every_boundary(&mut Victim::start(&["signal"]), Lifetime::OneShot, by);
    }
}

#[test]
fn signal_lands_at_every_visit_of_boundaries_whose_breakpoints_stay() {
    for by in [ReturnBy::DebugRegister, ReturnBy::Breakpoint] {
        signal_at_every_boundary(&mut Victim::start(&["signal"]), Lifetime::Stays, by);
    }
}

#[test]
fn signal_lands_at_every_boundary_of_a_static_program() {
    for lifetime in [Lifetime::OneShot, Lifetime::Stays] {
        let mut victim = Victim::launch(static_program(), &["signal"], false);
        signal_at_every_boundary(&mut victim, lifetime, ReturnBy::DebugRegister);
    }
}

#[test]
fn restorer_gets_its_own_bytes_back_where_a_debug_register_takes_over() {
    let mut victim = Victim::start(&["signal"]);
    victim.tracer.see_returns(ReturnBy::Breakpoint).expect("nothing to change");
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    victim.tracer.lay(pid, [marker], Lifetime::OneShot).expect("it is code");
    victim.resume();
    victim.run_to(|event| matches!(event, Event::Breakpoint { address, .. } if *address == marker));
    victim.lay(&["attacked"], Lifetime::OneShot);
    // As the program sees it.
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("we trace it");
    let first_byte = |address| {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, address).expect("it is code");
        byte[0]
    };
    let (mut entered, mut returned) = (0, 0);
    victim.resume();
    victim.run(|victim, event| match event {
        Event::Breakpoint { tid, .. } => {
            let sent = victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Tkill));
            assert_eq!(sent.expect("a boundary"), Sent::Delivered);
        }
        Event::HandlerEntered { delivery, .. } => {
            entered += 1;
            match entered {
                1 => assert_eq!(first_byte(delivery.restorer), 0xcc),
                2 => {
                    victim.tracer.see_returns(ReturnBy::DebugRegister).expect("the kernel allows it");
                    assert_eq!(first_byte(delivery.restorer), 0x48, "a REX prefix: mov rax, 15");
                }
                _ => assert_eq!(first_byte(delivery.restorer), 0x48),
            }
        }
        Event::HandlerReturned { .. } => returned += 1,
        _ => {}
    });
    assert!(entered > 10, "{entered}");
    assert_eq!(entered, returned);
    assert!(victim.status.is_some_and(|status| status.success()));
}
