//! Properties of every schedule, every byte string and every text.

use proptest::collection::vec;
use proptest::prelude::*;
use sigstorm::schedule::{Actor, MAX_STEPS, Op, ParseError, STEP_BYTES, Schedule, Step, Stop};
use sigstorm_runtime::{FuncId, Point};

/// Bytes of which most are steps: noise only where it is ignored, and now and then elsewhere.
fn busy_bytes(steps: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>;
    let op = prop_oneof![9 => 0u8..20, 1 => byte()];
    let place = prop_oneof![9 => 0u8..49, 1 => byte()];
    let step = (byte(), op, byte(), byte(), place, byte(), byte(), byte());
    let step = step.prop_map(|(a, b, c, d, e, f, g, h)| [a, b, c, d, e, f, g, h]);
    (vec(step, steps), vec(byte(), 0..STEP_BYTES)).prop_map(|(steps, partial)| {
        let mut bytes = steps.concat();
        bytes.extend(partial);
        bytes
    })
}

fn stop() -> impl Strategy<Value = Option<Stop>> {
    let point = (prop::sample::select(Point::ALL), 1u8..=8);
    let instr = (prop::sample::select(FuncId::ALL), any::<u16>(), 1u8..=8, prop::option::of(0u8..=127));
    prop_oneof![
        Just(None),
        point.prop_map(|(point, hit)| Some(Stop::Point { point, hit })),
        instr.prop_map(|(function, index, hit, check)| Some(Stop::Instr { function, index, hit, check })),
    ]
}

/// Every operation of every actor, and every stop.
fn step() -> impl Strategy<Value = Step> {
    let assigned: Vec<(Actor, u8)> = Actor::ALL
        .iter()
        .flat_map(|&actor| (0..64).map(move |code| (actor, code)))
        .filter(|(actor, code)| Op::from_code(actor.class(), *code, 0).is_some())
        .collect();
    let op = (prop::sample::select(assigned), any::<u8>(), stop());
    op.prop_map(|((actor, code), arg, stop)| Step {
        actor,
        op: Op::from_code(actor.class(), code, arg).unwrap(),
        stop: stop.filter(|_| actor != Actor::World),
    })
}

fn schedule() -> impl Strategy<Value = Schedule> {
    vec(step(), 0..60).prop_map(|steps| Schedule { steps })
}

/// Any step at all: actors that cannot, payloads and stops out of range.
fn wild_step() -> impl Strategy<Value = Step> {
    let wild = prop_oneof![
        (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(dst, src, field)| Op::Load { dst, src, field }),
        (prop::sample::select(FuncId::ALL), any::<u8>()).prop_map(|(kind, times)| Op::Call { kind, times }),
        any::<u32>().prop_map(|bytes| Op::Stack { bytes }),
        step().prop_map(|step| step.op),
    ];
    let hit = any::<u8>();
    let place = (prop::sample::select(FuncId::ALL), any::<u16>(), hit, any::<Option<u8>>());
    let stop = place.prop_map(|(function, index, hit, check)| Stop::Instr { function, index, hit, check });
    let actor = prop::sample::select(Actor::ALL);
    (actor, wild, prop::option::of(stop)).prop_map(|(actor, op, stop)| Step { actor, op, stop })
}

/// Both forms of this schedule, and back; its byte form is canonical.
fn check_round_trips(schedule: &Schedule) {
    assert!(schedule.steps.iter().all(|step| step.canonical() == Some(*step)));
    assert_eq!(&schedule.canonical(), schedule);
    let bytes = schedule.encode();
    assert_eq!(bytes.len(), schedule.steps.len() * STEP_BYTES);
    assert_eq!(&Schedule::decode(&bytes), schedule);
    assert_eq!(&Schedule::from_file_bytes(&bytes).unwrap(), schedule);
    let text = schedule.to_text();
    let parsed = Schedule::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(&parsed, schedule);
    assert_eq!(&Schedule::from_file_bytes(text.as_bytes()).unwrap(), schedule);
    assert_eq!(parsed.to_text(), text);
    assert!(text.lines().all(|line| line.len() <= 90), "{text}");
}

/// Checks the result of decoding any bytes.
fn check_bytes(bytes: &[u8]) {
    let schedule = Schedule::decode(bytes);
    assert!(schedule.steps.len() <= MAX_STEPS.min(bytes.len() / STEP_BYTES));
    check_round_trips(&schedule);
    let canonical = schedule.encode();
    assert_eq!(Schedule::decode(&canonical).encode(), canonical);
}

proptest! {
    #[test]
    fn short_bytes_are_schedules(bytes in vec(any::<u8>(), 0..64)) {
        check_bytes(&bytes);
    }

    #[test]
    fn busy_bytes_are_schedules(bytes in busy_bytes(0..100)) {
        check_bytes(&bytes);
    }

    #[test]
    fn schedules_survive_both_forms(schedule in schedule()) {
        check_round_trips(&schedule);
    }

    #[test]
    fn a_step_means_the_same_after_a_dropped_one(bytes in busy_bytes(0..40), at in any::<prop::sample::Index>()) {
        // An operation that no actor has, by an actor that is not the same again.
        let mut longer = bytes.clone();
        let at = at.index(bytes.len() / STEP_BYTES + 1) * STEP_BYTES;
        longer.splice(at..at, [5, 63, 0, 0, 0, 0, 0, 0]);
        prop_assert_eq!(Schedule::decode(&longer), Schedule::decode(&bytes));
    }

    #[test]
    fn what_is_not_valid_is_left_out(steps in vec(wild_step(), 0..40)) {
        let schedule = Schedule { steps };
        let canonical = schedule.canonical();
        check_round_trips(&canonical);
        prop_assert_eq!(schedule.encode(), canonical.encode());
        prop_assert_eq!(schedule.to_text(), canonical.to_text());
    }

    #[test]
    fn no_text_is_too_strange(text in any::<String>(), file in vec(any::<u8>(), 0..200)) {
        // An error is an answer; a panic is not.
        let show = |result: Result<Schedule, ParseError>| match result {
            Ok(schedule) => schedule.to_text(),
            Err(error) => error.to_string(),
        };
        show(Schedule::parse(&text));
        show(Schedule::parse(&format!("# sigstorm schedule 1\n{text}")));
        show(Schedule::from_file_bytes(&file));
        show(Schedule::from_file_bytes(&[b"# sigstorm schedule 1\n", &file[..]].concat()));
        show(Schedule::from_file_bytes(&[b"# sigstorm schedule ", &file[..]].concat()));
    }

    #[test]
    fn damaged_texts_are_read_or_refused(
        schedule in schedule(),
        damage in vec((any::<prop::sample::Index>(), 0usize..4, "[a-z0-9#@:/;.*= \n\\PC]{0,3}"), 1..4),
    ) {
        let mut text: Vec<char> = schedule.to_text().chars().collect();
        for (at, len, with) in damage {
            let at = at.index(text.len() + 1);
            let end = (at + len).min(text.len());
            text.splice(at..end, with.chars());
        }
        let text: String = text.into_iter().collect();
        match Schedule::parse(&text) {
            Ok(schedule) => check_round_trips(&schedule),
            Err(error) => {
                let lines = text.split('\n').count();
                prop_assert!(error.line <= lines && error.column >= 1, "{}", error);
                let shown = error.to_string();
                prop_assert!(shown.lines().all(|line| line.chars().count() < 500), "{}", shown);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn long_bytes_are_schedules(bytes in vec(any::<u8>(), 0..=40_000)) {
        check_bytes(&bytes);
    }

    #[test]
    fn long_busy_bytes_are_schedules(bytes in busy_bytes(MAX_STEPS - 5..5_000)) {
        check_bytes(&bytes);
    }
}

#[test]
fn only_so_many_steps_count() {
    let bytes = [3, 1, 0, 0, 0, 0, 0, 0].repeat(MAX_STEPS + 1);
    assert_eq!(Schedule::decode(&bytes).steps.len(), MAX_STEPS);
    check_bytes(&bytes);
    // Nor does a form have more than the other reads.
    let step = Schedule::decode(&bytes).steps[0];
    let long = Schedule { steps: vec![step; MAX_STEPS + 1] };
    assert_eq!(long.canonical().steps.len(), MAX_STEPS);
    assert_eq!(Schedule::decode(&long.encode()), long.canonical());
    assert_eq!(long.encode(), long.canonical().encode());
    assert_eq!(Schedule::parse(&long.to_text()), Ok(long.canonical()));
}
