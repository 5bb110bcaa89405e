//! Threads, `fork`, `vfork`, `posix_spawn`, `exec`, `dlopen`.

use sigstorm_inject::remote::{Event, Lifetime};

use crate::programs::compile_shared;
use crate::victim::{Victim, boundaries, lives, program};

const FUNCTIONS: [&str; 4] = ["odd", "odd_helper", "attacked", "mix"];

#[test]
fn forked_children_are_let_go_with_clean_code() {
    for lifetime in [Lifetime::OneShot, Lifetime::Stays] {
        let mut victim = Victim::start(&["fork"]);
        victim.lay(&FUNCTIONS, lifetime);
        let (mut forked, mut let_go, mut hits) = (Vec::new(), Vec::new(), 0);
        let pid = victim.pid();
        victim.resume();
        victim.run(|_, event| match event {
            Event::Forked { child, vfork, .. } => {
                assert!(!vfork);
                forked.push(*child);
            }
            Event::LetGo { pid } => let_go.push(*pid),
            Event::Breakpoint { tid, .. } => {
                assert_eq!(*tid, pid);
                hits += 1;
            }
            _ => {}
        });
        forked.sort_unstable();
        let_go.sort_unstable();
        assert_eq!((forked.len(), &forked), (3, &let_go));
        assert!(hits > 60, "{hits}");
        victim.assert_undisturbed(&["fork"]);
    }
}

#[test]
fn forked_children_that_are_followed_have_breakpoints_of_their_own() {
    let mut victim = Victim::launch(program(), &["fork"], true);
    victim.lay(&FUNCTIONS, Lifetime::Stays);
    let entry = victim.address("odd");
    let parent = victim.pid();
    let (mut in_parent, mut in_children, mut ended) = (0, 0, Vec::new());
    victim.resume();
    victim.run(|victim, event| match event {
        Event::Breakpoint { tid, address, .. } if *address == entry => {
            let pid = victim.tracer.process_of(*tid).expect("it is traced");
            if pid == parent {
                in_parent += 1
            } else {
                in_children += 1
            }
            if pid != parent {
                // Lifting in the child leaves the parent's.
                victim.tracer.lift(pid, [entry]).expect("it is code");
                assert!(!victim.tracer.is_laid(pid, entry) && victim.tracer.is_laid(parent, entry));
            }
        }
        Event::ProcessExited { pid, status } if *pid != parent => ended.push(status.code()),
        Event::LetGo { .. } => panic!("it is followed"),
        _ => {}
    });
    assert_eq!((in_parent, in_children), (2, 3));
    assert_eq!(ended, [Some(7); 3]);
    victim.assert_undisturbed(&["fork"]);
}

#[test]
fn followed_child_passes_a_breakpoint_that_its_parent_first_passed_after_the_fork() {
    let args = ["pair", "fork"];
    let mut victim = Victim::launch(program(), &args, true);
    let pid = victim.pid();
    let other = victim.hold_pair();
    victim.resume();
    // The child is made; then the scratch area is mapped and the slot filled, in the parent alone.
    crate::cleanup::wait_until(|| victim.tracer.kernel_state(pid) == Some('t'));
    victim.tracer.resume(other).expect("held");
    let (mut visits, mut ended) = (0, Vec::new());
    victim.run(|victim, event| match event {
        Event::Breakpoint { tid, .. } => {
            visits += usize::from(victim.tracer.process_of(*tid) != Some(pid));
        }
        Event::Signal { info, .. } => assert_eq!(info.signal, libc::SIGCHLD),
        Event::ProcessExited { pid: child, status } if *child != pid => ended.push(status.code()),
        _ => {}
    });
    assert_eq!((visits, ended), (1, vec![Some(7)]));
    victim.assert_undisturbed(&args);
}

#[test]
fn children_that_share_memory_pass_breakpoints_until_they_exec() {
    let mut victim = Victim::start(&["vfork"]);
    let parent = victim.pid();
    victim.lay(&FUNCTIONS, Lifetime::Stays);
    let (mut vforks, mut let_go, mut exited) = (0, 0, 0);
    victim.resume();
    victim.run(|_, event| match event {
        Event::Forked { vfork, .. } => vforks += usize::from(*vfork),
        Event::LetGo { .. } => let_go += 1,
        Event::Breakpoint { tid, .. } => assert_eq!(*tid, parent, "children are not followed"),
        Event::ProcessExited { pid, .. } if *pid != parent => exited += 1,
        _ => {}
    });
    // Three times `vfork` and `posix_spawn`, and `system`; one of the children ends without `exec`.
    assert_eq!((vforks, let_go, exited), (7, 6, 1));
    victim.assert_undisturbed(&["vfork"]);
}

#[test]
fn children_that_share_memory_leave_one_shot_breakpoints_alone() {
    let mut victim = Victim::start(&["vfork"]);
    let parent = victim.pid();
    let all = victim.lay(&FUNCTIONS, Lifetime::OneShot);
    let mut hit = Vec::new();
    victim.resume();
    victim.run(|_, event| {
        if let Event::Breakpoint { tid, address, .. } = event {
            assert_eq!(*tid, parent);
            hit.push(*address);
        }
    });
    assert!(hit.len() > 40 && hit.len() <= all.len());
    victim.assert_undisturbed(&["vfork"]);
}

#[test]
fn children_that_share_memory_can_be_followed_through_exec() {
    let mut victim = Victim::launch(program(), &["vfork"], true);
    let parent = victim.pid();
    victim.lay(&FUNCTIONS, Lifetime::Stays);
    let (mut in_children, mut executed, mut exited) = (0, 0, 0);
    victim.resume();
    victim.run(|_, event| match event {
        Event::Breakpoint { tid, .. } if *tid != parent => in_children += 1,
        Event::Executed { .. } => executed += 1,
        Event::ProcessExited { pid, .. } if *pid != parent => exited += 1,
        _ => {}
    });
    assert!(in_children > 3 * 60 && executed >= 6 && exited >= 7, "{in_children} {executed} {exited}");
    victim.assert_undisturbed(&["vfork"]);
}

#[test]
fn exec_from_a_thread_takes_over_the_process() {
    let mut victim = Victim::start(&["exec"]);
    let pid = victim.pid();
    victim.lay(&FUNCTIONS, Lifetime::Stays);
    let mut hits = [0, 0];
    let mut executed = 0;
    victim.resume();
    victim.run(|victim, event| match event {
        Event::Executed { tid, former } => {
            assert!(*tid == pid && *former != pid);
            assert_eq!(victim.tracer.threads(pid), [pid]);
            assert_eq!(victim.tracer.laid(pid), 0);
            executed += 1;
            // The same program at the same addresses, because they are not randomised.
            if !victim.tracer.is_randomised() {
                victim.lay(&FUNCTIONS, Lifetime::Stays);
            }
        }
        Event::Breakpoint { tid, .. } => {
            assert_eq!(*tid == pid, executed == 1);
            hits[executed] += 1;
        }
        _ => {}
    });
    assert_eq!(executed, 1);
    assert!(hits[0] > 60 && (hits[1] == hits[0] || victim.tracer.is_randomised()), "{hits:?}");
    victim.assert_undisturbed(&["signal"]);
}

#[test]
fn library_is_traced_each_time_that_it_is_loaded() {
    let library = compile_shared("attacked.c", "attacked-remote.so", &["-O1", "-shared", "-fPIC"]);
    let args = ["dlopen", library.to_str().expect("a readable path")];
    let mut victim = Victim::start(&args);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    victim.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
    let (mut range, mut hits, mut loads) = (0..0, 0, 0);
    victim.resume();
    victim.run(|victim, event| {
        let Event::Breakpoint { tid, address, .. } = event else { return };
        if *address != marker {
            hits += 1;
            return;
        }
        let regs = victim.tracer.registers(*tid).expect("held").0;
        if regs.rdx == 1 {
            range = regs.rdi..regs.rsi;
            let code = boundaries(&victim.tracer, pid, "attacked", range.start, range.end);
            let lifetime = if loads == 1 { Lifetime::OneShot } else { Lifetime::Stays };
            victim.tracer.lay(pid, code, lifetime).expect("it is code");
            loads += 1;
        } else {
            assert_eq!(regs.rdi, range.start);
            victim.tracer.forget(pid, range.clone()).expect("it lives");
            assert_eq!(victim.tracer.laid(pid), 1);
        }
    });
    assert!(loads == 3 && hits > 60, "{loads} {hits}");
    victim.assert_undisturbed(&args);
}

#[test]
fn nothing_is_left_when_the_tracer_goes() {
    let mut victim = Victim::start(&["wait"]);
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    victim.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
    victim.resume();
    let child = victim.run_to_marker_and_child();
    assert!(lives(pid) && lives(child));
    drop(victim);
    assert!(!lives(pid), "the program is gone");
    crate::cleanup::wait_until(|| !lives(child));
}
