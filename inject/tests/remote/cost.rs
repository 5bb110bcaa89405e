//! The cost of a delivery, beside that of a bare stop, measured in the same run. Printed, never
//! asserted: machines are noisy. `cargo test --features remote --test remote cost -- --nocapture`

use std::time::{Duration, Instant};

use sigstorm_inject::remote::{Event, Lifetime, Origin, ReturnBy, Sent};

use crate::stacks::{Kind, Run};
use crate::victim::Victim;

const BOUNDARIES: u32 = 10_000;

fn is_marker(event: &Event) -> bool {
    matches!(event, Event::Breakpoint { lifetime: Lifetime::Stays, .. })
}

/// The median, which other programs on the machine do not move.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The time of one bare stop: the program runs nothing but traps, and each is continued and waited
/// for, and nothing else. The thread is at the marker, and ends behind the last trap.
fn bare_stop(victim: &mut Victim) -> Duration {
    let pid = victim.pid();
    // A step writes the tracer's copy of the registers back.
    victim.tracer.step(pid).expect("held");
    victim.run_to(|event| matches!(event, Event::Stepped { .. }));
    let mut times = Vec::new();
    for _ in 0..BOUNDARIES {
        let start = Instant::now();
        let mut status = 0;
        // SAFETY: The thread is stopped, and traced by this one.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_CONT, pid, 0, 0), 0);
            // The tracer's tick may end a wait.
            while libc::waitpid(pid, &mut status, libc::__WALL) != pid {}
        }
        assert_eq!(status >> 8, libc::SIGTRAP);
        times.push(start.elapsed());
    }
    median(times)
}

#[test]
fn deliveries_and_hits_are_measured_beside_bare_stops() {
    measure(ReturnBy::DebugRegister);
    measure(ReturnBy::Breakpoint);
}

fn measure(by: ReturnBy) {
    let mut victim = Victim::start(&["measure"]);
    victim.tracer.see_returns(by).expect("nothing to change");
    let (pid, marker) = (victim.pid(), victim.address("marker"));
    let start = victim.address("many");
    let all: Vec<u64> = (start..start + u64::from(BOUNDARIES)).collect();
    victim.tracer.pin().expect("the kernel allows it");
    victim.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
    victim.resume();
    victim.run_to(is_marker);
    let bare = bare_stop(&mut victim);
    victim.resume();
    victim.run_to(is_marker);

    let before = Instant::now();
    victim.tracer.lay(pid, all.iter().copied(), Lifetime::OneShot).expect("it is code");
    let laid = before.elapsed();
    victim.resume();
    let mut times = Vec::new();
    let mut start = Instant::now();
    let mut parts: [Vec<Duration>; 3] = Default::default();
    loop {
        let from = Instant::now();
        let event = victim.next().expect("it goes on");
        let part = match &event {
            Event::HandlerEntered { .. } => 0,
            Event::HandlerReturned { .. } => 1,
            _ => 2,
        };
        parts[part].push(from.elapsed());
        match &event {
            event if is_marker(event) => break,
            Event::Breakpoint { tid, .. } => {
                times.push(start.elapsed());
                start = Instant::now();
                let sent = victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Tkill));
                assert_eq!(sent.expect("a boundary"), Sent::Delivered);
                continue;
            }
            _ => {}
        }
        victim.pass(&event);
    }
    let delivery = median(times);
    assert_eq!(parts[1].len(), BOUNDARIES as usize, "each has returned");

    let before = Instant::now();
    victim.tracer.lay(pid, all.iter().copied(), Lifetime::Stays).expect("it is code");
    let laid_to_stay = before.elapsed();
    victim.resume();
    let (mut times, mut start) = (Vec::new(), Instant::now());
    victim.run(|_, event| {
        if matches!(event, Event::Breakpoint { .. }) {
            times.push(start.elapsed());
            start = Instant::now();
        }
    });
    assert_eq!(times.len(), BOUNDARIES as usize);
    let hit = median(times);
    assert_eq!(victim.output(), format!("signals {BOUNDARIES}\n"));

    let ratio = |time: Duration| time.as_secs_f64() / bare.as_secs_f64();
    println!("returns seen by {by:?}: bare stop {bare:?}");
    println!("boundary, delivery and return {delivery:?}: {:.2} bare stops", ratio(delivery));
    let parts = parts.map(median);
    println!("  of which waiting for the handler's entry, its return, the next boundary: {parts:?}");
    println!("hit of a breakpoint that stays, out of line {hit:?}: {:.2} bare stops", ratio(hit));
    println!("{BOUNDARIES} breakpoints laid in {laid:?}, to stay in {laid_to_stay:?}");
}

#[test]
fn stacks_are_measured() {
    let run = Run::to(Kind::Usual, &["calls"], "leaf");
    let pid = run.victim.pid();
    let start = Instant::now();
    let stack = run.stack(pid);
    let first = start.elapsed();
    let again = (0..1000).map(|_| {
        let start = Instant::now();
        assert_eq!(run.stack(pid), stack);
        start.elapsed()
    });
    let again = median(again.collect());
    println!("a stack of {} frames: {first:?} at first, then {again:?}", stack.frames.len());
}
