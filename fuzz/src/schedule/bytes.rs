//! The byte form: what any engine mutates, splices and trims.
//!
//! Steps have a fixed width, so that a mutation of one leaves the others what they
//! were, and every byte string means something, so that none is wasted. The layout
//! is in [the module's prose](super). Bits that a step has no use for are ignored
//! here and written as zero, so that equal schedules have equal bytes.

use super::{Actor, MAX_STEPS, Op, STEP_BYTES, Schedule, Step, Stop};
use sigstorm_runtime::{FuncId, Point};

/// The values of byte 3's low two bits that say that there is a stop.
const STOP_POINT: u8 = 2;
const STOP_INSTR: u8 = 3;

/// In byte 7: there is a check value.
const CHECKED: u8 = 0x80;

/// "The same actor again", in byte 0.
const SAME: u8 = 0;

/// Reads any bytes.
pub(super) fn decode(bytes: &[u8]) -> Schedule {
    let (chunks, _partial) = bytes.as_chunks::<STEP_BYTES>();
    let mut same = Actor::M1;
    let mut steps = Vec::with_capacity(chunks.len().min(MAX_STEPS));
    for chunk in chunks {
        if steps.len() == MAX_STEPS {
            break;
        }
        if let Some(step) = decode_step(chunk, same) {
            if step.actor != Actor::World {
                same = step.actor;
            }
            steps.push(step);
        }
    }
    Schedule { steps }
}

/// Reads one step; `same` is who "the same again" is. Nothing if the operation is unassigned.
fn decode_step(chunk: &[u8; STEP_BYTES], same: Actor) -> Option<Step> {
    let [actor, op, arg, stop @ ..] = *chunk;
    let actor = Actor::from_code(actor & 0x07).unwrap_or(same);
    let op = Op::from_code(actor.class(), op & 0x3f, arg)?;
    let stop = match actor {
        Actor::World => None,
        _ => decode_stop(stop),
    };
    Some(Step { actor, op, stop })
}

fn decode_stop([how, place, low, high, check]: [u8; 5]) -> Option<Stop> {
    let hit = (how >> 2 & 0x07) + 1;
    let place = place & 0x3f;
    match how & 0x03 {
        STOP_POINT => Some(Stop::Point { point: Point::from_code(place | (low & 1) << 6)?, hit }),
        STOP_INSTR => Some(Stop::Instr {
            function: FuncId::from_code(place)?,
            index: u16::from_le_bytes([low, high]),
            hit,
            check: (check & CHECKED != 0).then_some(check & !CHECKED),
        }),
        _ => None,
    }
}

/// Writes the canonical bytes.
pub(super) fn encode(schedule: &Schedule) -> Vec<u8> {
    let mut same = Actor::M1;
    let mut bytes = Vec::with_capacity(schedule.steps.len().min(MAX_STEPS) * STEP_BYTES);
    for step in schedule.canonical_steps() {
        if let Some(chunk) = encode_step(step, same) {
            bytes.extend_from_slice(&chunk);
            if step.actor != Actor::World {
                same = step.actor;
            }
        }
    }
    bytes
}

fn encode_step(step: Step, same: Actor) -> Option<[u8; STEP_BYTES]> {
    let who = if step.actor == same { SAME } else { step.actor.code() };
    let [how, place, low, high, check] = step.stop.map_or([0; 5], encode_stop);
    Some([who, step.op.code(step.actor.class())?, step.op.arg()?, how, place, low, high, check])
}

fn encode_stop(stop: Stop) -> [u8; 5] {
    let how = |kind: u8, hit: u8| kind | (hit.wrapping_sub(1) & 0x07) << 2;
    match stop {
        Stop::Point { point, hit } => [how(STOP_POINT, hit), point.code() & 0x3f, point.code() >> 6, 0, 0],
        Stop::Instr { function, index, hit, check } => {
            let [low, high] = index.to_le_bytes();
            let check = check.map_or(0, |check| check | CHECKED);
            [how(STOP_INSTR, hit), function.code(), low, high, check]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(actor: Actor, op: Op) -> Step {
        Step { actor, op, stop: None }
    }

    #[test]
    fn layout_of_a_step_is_as_documented() {
        let schedule = Schedule {
            steps: vec![
                step(Actor::World, Op::Stack { bytes: 8192 }),
                step(Actor::M1, Op::Signal),
                step(Actor::Gc, Op::Drain { objects: 4 }),
                step(Actor::World, Op::EveryFrame),
                Step {
                    stop: Some(Stop::Point { point: Point::TracebackFrame, hit: 3 }),
                    ..step(Actor::Gc, Op::Signal)
                },
                Step {
                    stop: Some(Stop::Instr {
                        function: FuncId::Small,
                        index: 0x1234,
                        hit: 8,
                        check: Some(0x3f),
                    }),
                    ..step(Actor::M2, Op::Resume)
                },
            ],
        };
        let bytes: [[u8; 8]; 6] = [
            [7, 1, 2, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0, 0, 0],
            [5, 4, 3, 0, 0, 0, 0, 0],
            [7, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 0, 2 | 2 << 2, 13, 0, 0, 0],
            [4, 0, 0, 3 | 7 << 2, 3, 0x34, 0x12, 0xbf],
        ];
        assert_eq!(encode(&schedule), bytes.concat());
        assert_eq!(decode(&bytes.concat()), schedule);
    }

    #[test]
    fn unused_bits_of_a_step_do_not_count() {
        let noisy = [0xf8 | 5, 0xc0 | 4, 0xfb, 0xe0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(decode(&noisy).steps, [step(Actor::Gc, Op::Drain { objects: 4 })]);
        // All three small codes mean "the same again", which begins as m1.
        for same in 0..3 {
            assert_eq!(decode(&[same, 1, 0, 0, 0, 0, 0, 0]).steps, [step(Actor::M1, Op::Signal)]);
        }
    }

    #[test]
    fn a_dropped_step_is_as_if_absent() {
        let bytes: [[u8; 8]; 3] =
            [[4, 1, 0, 0, 0, 0, 0, 0], [5, 63, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]];
        let m2 = step(Actor::M2, Op::Signal);
        assert_eq!(decode(&bytes.concat()).steps, [m2, m2]);
        // It takes no room either.
        let mut long = bytes[1].repeat(100);
        long.extend(bytes[0].repeat(MAX_STEPS + 5));
        long.push(0);
        assert_eq!(decode(&long).steps, vec![m2; MAX_STEPS]);
    }

    #[test]
    fn an_unassigned_place_drops_the_stop_alone() {
        let signal = [step(Actor::M1, Op::Signal)];
        assert_eq!(decode(&[3, 1, 0, 2, 0, 0, 0, 0]).steps, signal);
        assert_eq!(decode(&[3, 1, 0, 3, 63, 9, 9, 0x81]).steps, signal);
        assert_eq!(decode(&[3, 1, 0, 1, 13, 9, 9, 0x81]).steps, signal);
        assert_eq!(decode(&[7, 0, 0, 2, 13, 0, 0, 0]).steps, [step(Actor::World, Op::EveryFrame)]);
    }

    #[test]
    fn invalid_steps_are_not_encoded() {
        let hit = |hit| Some(Stop::Point { point: Point::Taken, hit });
        let schedule = Schedule {
            steps: vec![
                step(Actor::M1, Op::Mark),
                step(Actor::M1, Op::Clear { slot: 4 }),
                Step { stop: hit(9), ..step(Actor::M1, Op::Signal) },
                Step { stop: hit(0), ..step(Actor::M1, Op::Signal) },
                Step { stop: hit(1), ..step(Actor::World, Op::EveryFrame) },
            ],
        };
        assert_eq!(encode(&schedule), encode(&schedule.canonical()));
        assert_eq!(
            decode(&encode(&schedule)).steps,
            [step(Actor::M1, Op::Signal), step(Actor::M1, Op::Signal), step(Actor::World, Op::EveryFrame)]
        );
    }
}
