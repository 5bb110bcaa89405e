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

/// What the model for `shuttle` does, step by step: two rounds of eight calls and returns on
/// one thread with a signal at one in four of them, three cycles on another; each step is
/// done by whoever is drawn, and one in four is held half-way, for the other one to go on.
pub fn like_the_model() -> Vec<Schedule> {
    (0..POOL).map(|seed| interleaved(&mut ChaCha8Rng::seed_from_u64(seed))).collect()
}

fn interleaved(rng: &mut ChaCha8Rng) -> Schedule {
    let mut one_in = |n: u32| rng.next_u32().is_multiple_of(n);
    let mut mutator = Vec::new();
    for _ in 0..2 {
        for step in ["call small", "ret"] {
            for _ in 0..8 {
                mutator.push(step);
                if one_in(4) {
                    mutator.push("signal");
                }
            }
        }
    }
    let cycle = ["mark", "scan g1", "drain 8", "term", "sweep"];
    let collector: Vec<&str> = cycle.iter().copied().cycle().take(3 * cycle.len()).collect();
    let mut text = String::from("every_frame\nm1 g1\n");
    let (mut m, mut gc) = (mutator.into_iter().peekable(), collector.into_iter().peekable());
    loop {
        let left = m.len() + gc.len();
        if left == 0 {
            return parse(&text);
        }
        // Each is drawn as often as it has steps, so that both end at about the same time.
        let first = (rng.next_u32() as usize % left) < m.len();
        let (actor, Some(step)) = (if first { ("m1", m.next()) } else { ("gc", gc.next()) }) else {
            continue;
        };
        let stop = if rng.next_u32().is_multiple_of(4) {
            format!(" @ {}", HELD[rng.next_u32() as usize % HELD.len()])
        } else {
            String::new()
        };
        text += &format!("{actor} {step}{stop}\n");
    }
}
