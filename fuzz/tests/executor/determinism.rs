//! The same bytes give the same trace and the same counts, whatever ran before them and
//! wherever the process lies in memory.

use sigstorm::generate::Generator;
use sigstorm::schedule::{Actor, Schedule, Stop};
use sigstorm_runtime::FuncId;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::common::{harness, in_child, run_clean};

const TIMES: usize = 10;

/// 800 schedules as an engine makes them, 200 of uniformly random bytes.
fn schedules() -> Vec<Schedule> {
    let mut generator = Generator::new(0xd37, None);
    let mut rng = ChaCha8Rng::seed_from_u64(0xd37);
    let mut schedules: Vec<Schedule> = (0..800).map(|_| generator.schedule()).collect();
    for _ in 0..200 {
        let mut bytes = vec![0; rng.next_u32() as usize % 800];
        rng.fill_bytes(&mut bytes);
        schedules.push(Schedule::decode(&bytes));
    }
    schedules
}

/// The same with a stop at an instruction in half of the steps, wherever that lies.
fn stopped() -> Vec<Schedule> {
    let mut rng = ChaCha8Rng::seed_from_u64(0x57b);
    let mut below = |n: usize| rng.next_u32() as usize % n;
    let mut schedules = schedules();
    for step in schedules.iter_mut().flat_map(|schedule| &mut schedule.steps) {
        if step.actor != Actor::World && below(2) == 0 {
            let function = FuncId::ALL[below(FuncId::ALL.len())];
            let (index, hit) = (below(200) as u16, 1 + below(3) as u8);
            step.stop = Some(Stop::Instr { function, index, hit, check: None });
        }
    }
    schedules
}

/// Runs all of them `times` times, in an order of its own, and gives a line for each.
fn traces(schedules: &[Schedule], times: usize, seed: u64) -> String {
    let mut harness = harness(&[]);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut first = vec![None; schedules.len()];
    let mut order: Vec<usize> = (0..schedules.len()).collect();
    for _ in 0..times {
        for last in (1..order.len()).rev() {
            order.swap(last, rng.next_u32() as usize % (last + 1));
        }
        for &index in &order {
            let run = run_clean(&mut harness, &schedules[index], true);
            let result = (run.trace_hash, run.counts);
            let (first, events) = first[index].get_or_insert((result, run.events.clone()));
            let apart = events.iter().zip(&run.events).find(|(one, other)| one != other);
            assert_eq!(*first, result, "schedule {index} diverges at {apart:#?}\n{}", schedules[index]);
        }
    }
    let lines = first.iter().map(|result| {
        let ((hash, counts), _) = result.as_ref().expect("every schedule has run");
        format!("{hash:016x} {:?}", counts.words())
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Holds runs in one process, in any order, against those in another.
#[track_caller]
fn compare(name: &str, schedules: fn() -> Vec<Schedule>, body: fn(&str) -> String) {
    let often = in_child(name, "often", body);
    let elsewhere = in_child(name, "elsewhere", body);
    let lines = || often.lines().zip(elsewhere.lines());
    assert_eq!((lines().count(), often.lines().count()), (1000, 1000));
    for (index, (one, other)) in lines().enumerate() {
        assert_eq!(one, other, "schedule {index} diverges in another process\n{}", schedules()[index]);
    }
    // Hashes that are all the same would be, too.
    let mut hashes: Vec<&str> = often.lines().map(|line| &line[..16]).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert!(hashes.len() > 900, "only {} different traces", hashes.len());
}

#[test]
fn schedule_always_has_the_same_trace() {
    compare("determinism::schedule_always_has_the_same_trace", schedules, |argument| match argument {
        "often" => traces(&schedules(), TIMES, 1),
        _ => traces(&schedules(), 1, 2),
    });
}

#[test]
fn schedule_with_stops_at_instructions_always_has_the_same_trace() {
    compare(
        "determinism::schedule_with_stops_at_instructions_always_has_the_same_trace",
        stopped,
        |argument| match argument {
            "often" => traces(&stopped(), TIMES, 1),
            _ => traces(&stopped(), 1, 2),
        },
    );
}
