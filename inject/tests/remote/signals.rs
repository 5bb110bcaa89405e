//! The program's own signals, and signals to threads in system calls.

use std::time::Duration;

use sigstorm_inject::remote::{Event, Lifetime, Origin, Sent, Waited};

use crate::victim::{Victim, undisturbed};

#[test]
fn ends_are_as_undisturbed() {
    for how in ["0", "7", "255", "abort", "segv", "kill", "term", "rt"] {
        let args = ["exit", how];
        let mut victim = Victim::start(&args);
        victim.lay(&["attacked", "mix"], Lifetime::Stays);
        victim.resume();
        victim.run(|_, _| {});
        assert_eq!(
            victim.status.map(|status| status.to_string()),
            Some(undisturbed(&args).status.to_string())
        );
    }
}

#[test]
fn fault_is_reported_with_its_address_at_the_instruction() {
    let mut victim = Victim::start(&["exit", "segv"]);
    victim.resume();
    let event = victim.run_to(|event| matches!(event, Event::Signal { .. }));
    let Event::Signal { info, .. } = &event else { unreachable!() };
    assert_eq!((info.signal, info.address), (libc::SIGSEGV, 16));
    victim.pass(&event);
    victim.run(|_, _| {});
    assert!(victim.status.is_some_and(|status| !status.success()));
}

#[test]
fn programs_own_breakpoints_and_sigtrap_are_its_own() {
    for lifetime in [Lifetime::OneShot, Lifetime::Stays] {
        let mut victim = Victim::start(&["trap"]);
        let (pid, marker) = (victim.pid(), victim.address("marker"));
        victim.tracer.lay(pid, [marker], Lifetime::OneShot).expect("it is code");
        victim.resume();
        victim.run_to(|event| matches!(event, Event::Breakpoint { .. }));
        // One lies on the program's own `int3`.
        victim.lay(&["own_trap", "attacked", "mix"], lifetime);
        victim.resume();
        let (mut hits, mut own) = (0, 0);
        victim.run(|_, event| match event {
            Event::Breakpoint { .. } => hits += 1,
            Event::Signal { info, .. } => {
                assert_eq!(info.signal, libc::SIGTRAP);
                own += 1;
            }
            _ => {}
        });
        assert!(hits > 30, "{hits}");
        if lifetime == Lifetime::OneShot {
            assert_eq!(own, 102);
        }
        assert!(victim.tracer.sigtrap_restored() > 0);
        victim.assert_undisturbed(&["trap"]);
    }
}

/// Waits until a thread sleeps in a system call.
fn wait_until_asleep(victim: &mut Victim, tid: i32) {
    crate::cleanup::wait_until(|| {
        victim.tracer.kernel_state(tid) == Some('S')
            && std::fs::read_to_string(format!("/proc/{tid}/syscall"))
                .is_ok_and(|text| !text.starts_with("running"))
    });
}

#[test]
fn futex_wait_at_a_breakpoint_is_woken_by_another_thread() {
    let mut victim = Victim::start(&["futex"]);
    victim.lay(&["attacked", "mix", "wait_word"], Lifetime::Stays);
    let waits: Vec<u64> = victim.boundaries("wait_word");
    let (mut sent, mut returned) = (0, 0);
    victim.resume();
    victim.run(|victim, event| match event {
        // A signal at every boundary on the way, the `syscall` among them.
        Event::Breakpoint { tid, address, .. } if waits.contains(address) => {
            let result = victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Tkill)).expect("a boundary");
            assert_eq!(result, Sent::Delivered);
            sent += 1;
        }
        Event::HandlerReturned { .. } => returned += 1,
        _ => {}
    });
    assert!(sent == returned && sent == waits.len(), "{sent} {returned} of {}", waits.len());
    let expected = String::from_utf8_lossy(&undisturbed(&["futex"]).stdout)
        .replace("signals 0", &format!("signals {sent}"));
    assert_eq!(victim.output(), expected);
}

#[test]
fn system_call_that_is_restarted_is_no_second_visit() {
    let mut victim = Victim::start(&["futex"]);
    victim.lay(&["wait_word"], Lifetime::Stays);
    let all = victim.boundaries("wait_word");
    let mut visits = Vec::new();
    let (mut sent, mut entered, mut interrupted) = (0, 0, 0);
    let main = victim.pid();
    victim.resume();
    while let Some(event) = victim.next() {
        match &event {
            Event::Breakpoint { tid, address, .. } => {
                visits.push(*address);
                let (tid, last) = (*tid, all[all.len() - 1]);
                victim.pass(&event);
                if *address != last && visits.len() + 1 == all.len() {
                    // It was the `syscall`.
                    wait_until_asleep(&mut victim, tid);
                    victim.tracer.send(tid, libc::SIGUSR1).expect("it lives");
                    sent += 1;
                }
                continue;
            }
            Event::Signal { tid, info } if info.signal == libc::SIGUSR1 => {
                assert_ne!(*tid, main);
                let result = victim.tracer.deliver(*tid, libc::SIGUSR1, None).expect("a signal's stop");
                assert_eq!(result, Sent::Delivered);
                continue;
            }
            Event::HandlerEntered { delivery, .. } => {
                assert_eq!(delivery.resumes_at, delivery.pc - 2, "SA_RESTART");
                entered += 1;
            }
            Event::HandlerReturned { tid, .. } => {
                let tid = *tid;
                victim.pass(&event);
                // It meets the breakpoint again, which is no event.
                let wait = victim.tracer.next_event(Some(Duration::from_millis(100))).expect("no error");
                assert_eq!(wait, Waited::TimedOut);
                wait_until_asleep(&mut victim, tid);
                victim.tracer.interrupt(tid).expect("it lives");
                continue;
            }
            Event::Interrupted { tid } => {
                let regs = victim.tracer.registers(*tid).expect("held");
                assert!(all.contains(&regs.pc()), "out of the scratch area");
                interrupted += 1;
            }
            _ => {}
        }
        victim.pass(&event);
    }
    assert_eq!((sent, entered, interrupted), (1, 1, 1));
    assert_eq!(visits, all, "each instruction once");
    assert!(victim.output().contains("wait 0 signals 1\n"), "{}", victim.output());
}

#[test]
fn signals_reach_threads_asleep_in_system_calls() {
    let mut victim = Victim::start(&["sleep"]);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    victim.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
    let mut returned = 0;
    victim.resume();
    while let Some(event) = victim.next() {
        match &event {
            Event::Breakpoint { .. } => {
                victim.pass(&event);
                wait_until_asleep(&mut victim, pid);
                victim.tracer.send(pid, libc::SIGUSR1).expect("it lives");
            }
            Event::Signal { tid, info } if info.signal == libc::SIGUSR1 => {
                assert_eq!(info.sender, std::process::id() as i32);
                assert!(victim.tracer.registers(*tid).expect("held").restarts_syscall());
                victim.tracer.deliver(*tid, libc::SIGUSR1, None).expect("a signal's stop");
            }
            Event::HandlerReturned { .. } => {
                returned += 1;
                victim.pass(&event);
            }
            _ => victim.pass(&event),
        }
    }
    assert_eq!(returned, 2);
    assert_eq!(victim.output(), "nanosleep -1 EINTR left 1\nread 1 x signals 2\n");
}

#[test]
fn system_call_that_the_program_makes_again_is_a_second_visit_and_one_that_the_kernel_restarts_is_not() {
    for (args, rounds) in [(&["futex"][..], 1), (&["futex", "again"], 2)] {
        let mut victim = Victim::start(args);
        victim.lay(&["wait_word"], Lifetime::Stays);
        let all = victim.boundaries("wait_word");
        let (pid, work) = (victim.pid(), victim.address("attacked"));
        // The first thread is held before it wakes the other one.
        victim.tracer.lay(pid, [work], Lifetime::OneShot).expect("it is code");
        let (mut visits, mut waiter, mut held, mut sent, mut came) = (Vec::new(), 0, false, false, false);
        victim.resume();
        while let Some(event) = victim.next() {
            match &event {
                Event::Breakpoint { tid, .. } if *tid == pid => {
                    held = true;
                    if visits.len() + 1 < all.len() {
                        continue;
                    }
                }
                Event::Breakpoint { tid, address, .. } => {
                    visits.push(*address);
                    waiter = *tid;
                }
                Event::Signal { info, .. } => {
                    assert_eq!(info.signal, libc::SIGUSR1);
                    came = true;
                }
                Event::HandlerEntered { .. } | Event::NotHandled { .. } => panic!("{event:?}"),
                _ => {}
            }
            if event.held() != Some(pid) || !held {
                victim.pass(&event);
            }
            if held && !sent && visits.len() + 1 == all.len() {
                wait_until_asleep(&mut victim, waiter);
                victim.tracer.send(waiter, libc::SIGUSR1).expect("it lives");
                sent = true;
            } else if held && came && visits.len() + 1 == rounds * all.len() {
                let wait = victim.tracer.next_event(Some(Duration::from_millis(100)));
                assert_eq!(wait.expect("no error"), Waited::TimedOut, "no further visit");
                wait_until_asleep(&mut victim, waiter);
                held = false;
                victim.resume();
            }
        }
        assert!(sent);
        assert_eq!(visits, all.repeat(rounds), "{args:?}");
        assert!(victim.output().ends_with(" signals 1\n"), "{}", victim.output());
    }
}

#[test]
fn system_calls_stop_at_entry_and_exit() {
    let mut victim = Victim::start(&["threads", "1", "1"]);
    let (pid, odd) = (victim.pid(), victim.address("odd"));
    victim.tracer.lay(pid, [odd], Lifetime::OneShot).expect("it is code");
    victim.resume();
    let event = victim.run_to(|event| matches!(event, Event::Breakpoint { .. }));
    let tid = event.held().expect("held");
    victim.tracer.trace_syscalls(tid, true).expect("held");
    victim.lay(&["odd"], Lifetime::Stays);
    victim.pass(&event);
    let (mut entered, mut result_of) = (Vec::new(), None);
    victim.run(|victim, event| match event {
        Event::SyscallEntered { tid: at, number, .. } => {
            assert_eq!(*at, tid);
            entered.push(*number);
        }
        Event::SyscallReturned { tid: at, result } if result_of.is_none() => {
            assert_eq!(*at, tid);
            result_of = Some(*result);
            victim.tracer.trace_syscalls(tid, false).expect("held");
        }
        _ => {}
    });
    assert_eq!(entered, [libc::SYS_getpid as u64]);
    assert_eq!(result_of, Some(i64::from(pid)));
    victim.assert_undisturbed(&["threads", "1", "1"]);
}

#[test]
fn stopped_process_stays_stopped_until_it_is_continued() {
    let mut victim = Victim::start(&["stop"]);
    victim.lay(&["attacked", "mix"], Lifetime::Stays);
    let pid = victim.pid();
    victim.resume();
    victim.run_to(|event| matches!(event, Event::GroupStopped { signal: libc::SIGSTOP, .. }));
    let wait = victim.tracer.next_event(Some(Duration::from_millis(300))).expect("no error");
    assert_eq!(wait, Waited::TimedOut, "it is stopped");
    victim.tracer.interrupt(pid).expect("it lives");
    let event = victim.run_to(|event| matches!(event, Event::Interrupted { .. }));
    victim.pass(&event);
    let wait = victim.tracer.next_event(Some(Duration::from_millis(300))).expect("no error");
    assert_eq!(wait, Waited::TimedOut, "it is stopped again");
    // SAFETY: The call sends a signal to our child.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    victim.run(|_, _| {});
    let output = victim.output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    assert_eq!(lines[0].split_once(' ').map(|(_, sum)| sum), lines[1].split_once(' ').map(|(_, sum)| sum));
}

#[test]
fn thread_in_a_restartable_sequence_is_recognised() {
    let mut victim = Victim::start(&["rseq"]);
    let pid = victim.pid();
    let (begin, end) = (victim.address("begin_sequence"), victim.address("end_sequence"));
    // Behind them the signature before the abort handler is data.
    let all: Vec<u64> = victim.boundaries("sequence").into_iter().filter(|&at| at <= end).collect();
    victim.tracer.lay(pid, all.iter().copied(), Lifetime::OneShot).expect("it is code");
    let mut found = Vec::new();
    victim.resume();
    victim.run(|victim, event| {
        if let Event::Breakpoint { tid, address, .. } = event {
            let inside = victim.tracer.in_restartable_sequence(*tid).expect("held");
            assert_eq!(inside, (begin..end).contains(address), "{address:#x}");
            found.push(inside);
        }
    });
    if victim.output() != "none\n" {
        assert!(found.contains(&true) && found.contains(&false));
        // The first breakpoint in the sequence aborts it: that is why it is left out.
        assert_eq!(victim.output(), "77\n");
    }
}

#[test]
fn threads_are_pinned_to_the_tracers_core_and_get_theirs_back() {
    let mut victim = Victim::start(&["futex"]);
    let (pid, wait) = (victim.pid(), victim.address("wait_word"));
    let cores = |tid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{tid}/status")).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.expect("the kernel says so").trim().to_owned()
    };
    let before = cores(pid);
    // SAFETY: The call only asks.
    let own = unsafe { libc::gettid() };
    let own_before = cores(own);
    victim.tracer.pin().expect("the kernel allows it");
    victim.tracer.lay(pid, [wait], Lifetime::OneShot).expect("it is code");
    victim.resume();
    let event = victim.run_to(|event| matches!(event, Event::Breakpoint { .. }));
    let tid = event.held().expect("held");
    assert_ne!(tid, pid);
    let pinned = cores(own);
    assert!(pinned.parse::<usize>().is_ok(), "{pinned}");
    assert_eq!((&cores(pid), &cores(tid)), (&pinned, &pinned));
    victim.tracer.unpin().expect("the kernel allows it");
    assert_eq!((&cores(pid), &cores(tid), &cores(own)), (&before, &before, &own_before));
    victim.pass(&event);
    victim.run(|_, _| {});
}
