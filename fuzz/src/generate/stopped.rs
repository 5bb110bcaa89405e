//! A schedule with a stop, and a signal there, at a few of the instructions that it crosses.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::stop_sites::functions_of;
use crate::schedule::{MAX_STEPS, Op, Schedule, Step, Stop};

/// The schedule `times` over, each time with one of its steps held at an instruction of the
/// code that it runs, signalled there and resumed. Which is decided by its bytes alone.
/// Fewer where it has no step that runs goroutine-side code.
pub fn stopped(schedule: &Schedule, times: usize) -> Vec<Schedule> {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = schedule.encode().into_iter().fold(0xcbf2_9ce4_8422_2325, hash);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let runs = |step: &Step| !functions_of(step.op).is_empty();
    let places: Vec<usize> =
        schedule.steps.iter().enumerate().filter(|(_, step)| runs(step)).map(|(index, _)| index).collect();
    if places.is_empty() {
        return Vec::new();
    }
    let mut below = |bound: usize| ((u64::from(rng.next_u32()) * bound as u64) >> 32) as usize;
    (0..times)
        .map(|_| {
            let place = places[below(places.len())];
            let step = schedule.steps[place];
            let functions = functions_of(step.op);
            let stop = Stop::Instr {
                function: functions[below(functions.len())],
                // Counted round and round: there is always one.
                index: below(64) as u16,
                hit: 1 + below(8).trailing_zeros().min(1) as u8,
                check: None,
            };
            let mut steps = schedule.steps[..place].to_vec();
            steps.push(Step { stop: Some(stop), ..step });
            steps.push(Step { actor: step.actor, op: Op::Signal, stop: None });
            steps.push(Step { actor: step.actor, op: Op::Resume, stop: None });
            steps.extend_from_slice(&schedule.steps[place + 1..]);
            steps.truncate(MAX_STEPS);
            Schedule { steps }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# sigstorm schedule 1\ngc mark\nm1 g1 call small\nm1 ret\ngc term\n";

    #[test]
    fn stopped_schedule_has_one_stop_with_a_signal_and_is_otherwise_the_same() {
        let schedule = Schedule::parse(TEXT).unwrap();
        let variants = stopped(&schedule, 40);
        assert_eq!(variants.len(), 40);
        for variant in &variants {
            assert_eq!(variant.steps.len(), schedule.steps.len() + 2);
            let at = variant.steps.iter().position(|step| step.stop.is_some()).unwrap();
            assert!(matches!(variant.steps[at].stop, Some(Stop::Instr { .. })));
            assert_eq!(variant.steps[at + 1].op, Op::Signal);
            assert_eq!(variant.steps[at + 1].actor, variant.steps[at].actor);
            assert_eq!(variant.steps[at + 2].op, Op::Resume);
            assert_eq!(variant.canonical(), *variant, "it survives its byte form");
            let mut steps = variant.steps.clone();
            steps[at].stop = None;
            steps.drain(at + 1..at + 3);
            assert_eq!(steps, schedule.steps);
        }
        let different: std::collections::HashSet<_> = variants.iter().map(Schedule::encode).collect();
        assert!(different.len() > 10, "{}", different.len());
    }

    #[test]
    fn stops_are_decided_by_the_schedules_bytes() {
        let schedule = Schedule::parse(TEXT).unwrap();
        assert_eq!(stopped(&schedule, 8), stopped(&schedule, 8));
        assert!(stopped(&Schedule { steps: Vec::new() }, 8).is_empty());
    }
}
