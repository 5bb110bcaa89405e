//! Schedules to measure with.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sigstorm::generate::Generator;
use sigstorm::schedule::{Schedule, Stop};

/// How many different ones a case goes through.
pub const POOL: u64 = 512;

/// A schedule from its text, without the first line.
pub fn parse(text: &str) -> Schedule {
    Schedule::parse(&format!("# sigstorm schedule 1\n{text}"))
        .unwrap_or_else(|error| panic!("{}:{}: {}\n{text}", error.line, error.column, error.message))
}

/// From the generator that `hunt` uses, all of this length.
pub fn generated(steps: usize, keep: fn(&Stop) -> bool) -> Vec<Schedule> {
    (0..POOL)
        .map(|seed| {
            let mut schedule = Generator::new(seed + 1, Some(steps)).schedule();
            for step in &mut schedule.steps {
                step.stop = step.stop.filter(keep);
            }
            schedule
        })
        .collect()
}

/// Points of the operations below at which a step can be held.
const HELD: [&str; 6] =
    ["lock.acquired", "install.slot:2", "remove.slot", "traceback.frame:2", "lock.release", "install.entry"];

/// The model for `shuttle`, step by step: two rounds of eight calls and returns on
/// one thread with a signal at one in four of them, three cycles on another, one step in four
/// held half-way for the other one to go on. After each step, so many times in ten the same
/// thread goes on; else it is drawn anew.
pub fn like_the_model(same_again: u32) -> Vec<Schedule> {
    (0..POOL).map(|seed| interleaved(&mut ChaCha8Rng::seed_from_u64(seed), same_again)).collect()
}

fn interleaved(rng: &mut ChaCha8Rng, same_again: u32) -> Schedule {
    let mut mutator = Vec::new();
    for _ in 0..2 {
        for step in ["call small", "ret"] {
            for _ in 0..8 {
                mutator.push(step);
                if rng.next_u32().is_multiple_of(4) {
                    mutator.push("signal");
                }
            }
        }
    }
    let cycle = ["mark", "scan g1", "drain 8", "term", "sweep"];
    let mut text = String::from("every_frame\nm1 g1\n");
    let (mut m, mut gc) = (mutator.into_iter(), cycle.repeat(3).into_iter());
    let mut mutates = true;
    while m.len() + gc.len() > 0 {
        if rng.next_u32() % 10 >= same_again {
            // Each is drawn as often as it has steps, so that both end at about the same time.
            mutates = (rng.next_u32() as usize % (m.len() + gc.len())) < m.len();
        }
        let (actor, step) = if mutates { ("m1", m.next()) } else { ("gc", gc.next()) };
        let Some(step) = step else {
            mutates = !mutates;
            continue;
        };
        let stop = if rng.next_u32().is_multiple_of(4) {
            format!(" @ {}", HELD[rng.next_u32() as usize % HELD.len()])
        } else {
            String::new()
        };
        text += &format!("{actor} {step}{stop}\n");
    }
    parse(&text)
}
