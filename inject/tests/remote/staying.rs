//! Breakpoints that stay: every hit is seen, by any number of threads at once, and the program
//! computes what it computes undisturbed.

use std::collections::BTreeMap;

use sigstorm_inject::remote::{Event, Lifetime};

use crate::cleanup::wait_until;
use crate::victim::{Victim, undisturbed};

const FUNCTIONS: [&str; 4] = ["odd", "odd_helper", "attacked", "mix"];

/// Runs `threads` threads, `rounds` rounds each, with a breakpoint on every instruction.
/// Returns the number of hits.
fn threads_hit_staying_breakpoints(threads: usize, rounds: usize, extra: &[&str]) -> usize {
    let (threads_arg, rounds_arg) = (threads.to_string(), rounds.to_string());
    let args: Vec<&str> =
        ["threads", &threads_arg, &rounds_arg].into_iter().chain(extra.iter().copied()).collect();
    let mut victim = Victim::start(&args);
    victim.lay(&FUNCTIONS, Lifetime::Stays);
    let entries = ["odd", "odd_helper"].map(|name| victim.address(name));
    let mut hits = 0;
    let mut by_thread: BTreeMap<(i32, u64), usize> = BTreeMap::new();
    victim.resume();
    victim.run(|victim, event| match event {
        Event::Breakpoint { tid, address, lifetime } => {
            assert_eq!(*lifetime, Lifetime::Stays);
            assert_eq!(victim.tracer.registers(*tid).expect("held").pc(), *address);
            hits += 1;
            if entries.contains(address) {
                *by_thread.entry((*tid, *address)).or_default() += 1;
            }
        }
        Event::Signal { info, .. } => assert_eq!(info.signal, libc::SIGPROF),
        _ => {}
    });
    // Each thread enters `odd` once a round, and `odd_helper` four times.
    assert_eq!(by_thread.len(), 2 * threads, "{by_thread:?}");
    for ((tid, address), count) in by_thread {
        let times = if address == entries[0] { 1 } else { 4 };
        assert_eq!(count, times * rounds, "thread {tid} at {address:#x}");
    }
    if extra.is_empty() {
        victim.assert_undisturbed(&args);
    } else {
        let plain = undisturbed(&args[..3]);
        assert_eq!(
            victim.output(),
            String::from_utf8_lossy(&plain.stdout),
            "no handler saw the scratch area"
        );
    }
    hits
}

#[test]
fn two_threads_hit_staying_breakpoints_and_compute_the_same() {
    let hits = threads_hit_staying_breakpoints(2, 200, &[]);
    assert!(hits > 30_000, "{hits} hits");
}

#[test]
fn eight_threads_hit_staying_breakpoints_and_compute_the_same() {
    let hits = threads_hit_staying_breakpoints(8, 60, &[]);
    assert!(hits > 30_000, "{hits} hits");
}

#[test]
fn signals_of_the_programs_own_timer_never_see_the_scratch_area() {
    threads_hit_staying_breakpoints(3, 100, &["timer"]);
}

#[test]
fn single_steps_pass_staying_breakpoints() {
    let args = ["threads", "1", "3"];
    let mut victim = Victim::start(&args);
    let all = victim.lay(&FUNCTIONS, Lifetime::Stays);
    let (mut steps, mut hits) = (0, 0);
    victim.resume();
    while let Some(event) = victim.next() {
        match event {
            Event::Breakpoint { tid, .. } => {
                hits += 1;
                victim.tracer.step(tid).expect("it is held");
            }
            Event::Stepped { tid } => {
                steps += 1;
                let pc = victim.tracer.registers(tid).expect("held").pc();
                // The next instruction's own breakpoint comes next.
                assert!(all.contains(&pc) || !all.contains(&(pc - 1)), "{pc:#x}");
                victim.tracer.resume(tid).expect("it is held");
            }
            other => victim.pass(&other),
        }
    }
    assert!(hits > 150 && steps == hits, "{hits} hits, {steps} steps");
    victim.assert_undisturbed(&args);
}

#[test]
fn one_shot_breakpoint_that_two_threads_reach_stops_one_of_them() {
    let args = ["threads", "2", "40"];
    let mut victim = Victim::start(&args);
    let pid = victim.pid();
    // A push: a thread that goes on behind its first byte has lost a word of its stack.
    let push = victim.boundaries("odd")[2];
    let mut byte = [0];
    victim.tracer.read(pid, push, &mut byte).expect("mapped");
    assert_eq!(byte, [0x53]);
    victim.tracer.lay(pid, [push], Lifetime::OneShot).expect("it is code");
    let (mut started, mut hits) = (0, 0);
    victim.resume();
    victim.run(|victim, event| match event {
        Event::ThreadStarted { tid, .. } => {
            victim.tracer.resume(*tid).expect("held");
            started += 1;
            if started == 2 {
                // Both are at the breakpoint before either trap is looked at.
                let threads = victim.tracer.threads(pid).into_iter().filter(|tid| *tid != pid);
                for tid in threads.collect::<Vec<_>>() {
                    wait_until(|| victim.tracer.kernel_state(tid) == Some('t'));
                }
            }
        }
        Event::Breakpoint { .. } => hits += 1,
        Event::Signal { info, .. } => panic!("{info:?}"),
        _ => {}
    });
    assert_eq!(hits, 1);
    victim.assert_undisturbed(&args);
}

#[test]
fn ten_thousand_breakpoints_are_laid_lifted_and_hit() {
    let mut victim = Victim::start(&["many"]);
    let pid = victim.pid();
    let start = victim.address("many");
    let all: Vec<u64> = (start..start + 10_000).collect();
    victim.tracer.lay(pid, all.iter().copied(), Lifetime::OneShot).expect("it is code");
    assert_eq!(victim.tracer.laid(pid), 10_000);
    let lifted = victim.tracer.lift_within(pid, start..start + 5_000).expect("it is code");
    assert_eq!((lifted.len(), victim.tracer.laid(pid)), (5_000, 5_000));
    let mut byte = [0; 3];
    victim.tracer.read(pid, start + 9_998, &mut byte).expect("mapped");
    assert_eq!(byte, [0x90, 0x90, 0xc3], "breakpoints do not show");
    victim.resume();
    let mut hits = Vec::new();
    victim.run(|_, event| {
        if let Event::Breakpoint { address, .. } = event {
            hits.push(*address);
        }
    });
    assert_eq!(hits, all[5_000..]);
    assert!(victim.status.is_some_and(|status| status.success()));
}

#[test]
fn code_that_was_rewritten_between_lift_and_lay_runs_as_it_is_now() {
    const CARRY: u64 = 1;
    let mut victim = Victim::start(&["many"]);
    let (pid, start) = (victim.pid(), victim.address("many"));
    let (changed, after) = (start + 10, start + 20);
    victim.tracer.lay(pid, [changed, after], Lifetime::Stays).expect("it is code");
    let mut carries = Vec::new();
    victim.resume();
    victim.run(|victim, event| {
        let Event::Breakpoint { tid, address, .. } = event else { return };
        let mut regs = *victim.tracer.registers(*tid).expect("held");
        if *address == changed {
            regs.0.eflags &= !CARRY;
            victim.tracer.set_registers(*tid, regs).expect("held");
            return;
        }
        carries.push(regs.0.eflags & CARRY);
        if carries.len() == 1 {
            victim.tracer.lift(pid, [changed]).expect("it is code");
            // `stc`, where a `nop` was.
            victim.tracer.write(pid, changed, &[0xf9]).expect("mapped");
            victim.tracer.lay(pid, [changed], Lifetime::Stays).expect("it is code");
        }
    });
    assert_eq!(carries, [0, 1]);
}

#[test]
fn instruction_that_cannot_run_out_of_line_is_refused_with_its_address() {
    let mut victim = Victim::start(&["many"]);
    let (pid, start) = (victim.pid(), victim.address("many"));
    // `int 3` in two bytes, where a `nop` was.
    victim.tracer.write(pid, start, &[0xcd, 3]).expect("mapped");
    let error = victim.tracer.lay(pid, [start, start + 8], Lifetime::Stays).expect_err("it is a trap");
    assert!(error.to_string().starts_with(&format!("the instruction at {start:#x} ([cd, 03,")), "{error}");
    let error = victim.tracer.lay(pid, [start + 8, 1 << 46], Lifetime::Stays).expect_err("unmapped");
    assert!(error.to_string().contains("0x400000000000"), "{error}");
    assert_eq!(victim.tracer.laid(pid), 0);
}
