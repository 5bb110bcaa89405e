//! A storm is not vacuous: whatever it is there for does happen in it.

use sigstorm::outcome::Verdict;
use sigstorm::schedule::{Class, Op};
use sigstorm::storm::StormCounts;
use sigstorm::tamper::Told;
use sigstorm_runtime::CodeClass;
use sigstorm_runtime::profiler::SkipReason;

use crate::common::{Blow, Check};

/// Signals come as fast as a debug build can take them: few find a goroutine's code.
const FAST: Blow = Blow { seconds: 5, threads: 2, rate: 10_000 };
/// Storms that together must do everything. Half of the time the first does: a signal that finds a thread
/// in the barriers' trampoline, or in code that is in no table, is a rare thing.
const STORMS: u64 = 12;

/// The operations that no storm does:
///
/// - `resume` goes on from a stop, and nobody is held in a storm.
/// - `pend` sends a signal to a thread that is held in its handler. That a signal comes while one is handled is
///   counted as coalesced.
/// - `attach` and `detach` make a machine of a thread from outside and undo it. All machines of a storm exist
///   before it begins, and stay: its disturber, which does the foreign thread's other operations, has none.
const NEVER: [Op; 4] = [Op::Resume, Op::Pend, Op::Attach, Op::Detach];

/// The operations of all threads. The options of the world are no operations of a thread.
fn operations() -> impl Iterator<Item = Op> {
    let all = [Class::M, Class::Gc, Class::Ext];
    let all = all.into_iter().flat_map(|class| (0..64).map(move |code| (class, code)));
    all.filter_map(|(class, code)| Op::from_code(class, code, 0)).filter(|op| !NEVER.contains(op))
}

/// Whatever has not happened.
fn missing(counts: &StormCounts) -> Vec<String> {
    let names: Vec<&str> = Op::names().collect();
    let operations =
        operations().map(|op| (counts.kinds[op.kind()], format!("`{}` was done", names[op.kind()])));
    let skips = SkipReason::ALL.iter().zip(counts.skips);
    let skips = skips.map(|(skip, times)| (times, format!("a sample was skipped for {skip}")));
    let classes = CodeClass::ALL.iter().zip(counts.interrupted);
    let classes = classes.map(|(class, times)| (times, format!("code of class {class} was interrupted")));
    let others = [
        (counts.tracebacks, "a traceback was right"),
        (counts.alone, "a thread without a goroutine was sampled"),
        (counts.sent, "a thread sent a signal"),
        (counts.coalesced, "a signal was coalesced with one that was pending"),
        (counts.dropped, "a sample was dropped"),
        (counts.samples_read, "a sample was read"),
        (counts.started, "a goroutine was started"),
        (counts.interrupted_calls, "a system call was interrupted"),
        (counts.events, "an event was traced"),
        (counts.panics, "a panic began"),
        (counts.recoveries, "a panic was recovered"),
        (counts.copies, "a stack was moved"),
        (counts.barriers, "a barrier was laid"),
        (counts.cycles, "the collector ended a cycle"),
        (counts.delays, "a thread was delayed"),
    ];
    let others = others.into_iter().map(|(times, what)| (times, what.to_owned()));
    let all = operations.chain(skips).chain(classes).chain(others);
    all.filter(|(times, _)| *times == 0).map(|(_, what)| what).collect()
}

#[test]
fn storms_do_every_operation_but_those_on_stops_and_on_attachment() {
    let name = "vacuity::storms_do_every_operation_but_those_on_stops_and_on_attachment";
    let check = Check::new(name, Verdict::HarnessError, "", |_, _, _| Told::Yes).blow(FAST);
    let (mut all, mut storms) = (StormCounts::default(), 0);
    while storms < STORMS && (storms == 0 || !missing(&all).is_empty()) {
        storms += 1;
        all.add(&check.blows(storms));
    }
    println!("{storms} storms: {all:?}");
    for op in NEVER {
        assert_eq!(all.kinds[op.kind()], 0, "storms do `{}` by now, so each of them should", op.name());
    }
    let missing = missing(&all);
    assert!(missing.is_empty(), "in {storms} storms it never happened that {}: {all:?}", missing.join(", "));
    assert!(all.rounds > storms, "{} rounds ended in {storms} storms", all.rounds);
    let judged = all.tracebacks + all.alone + all.skips.iter().sum::<u64>();
    assert!(all.unjudged * 10 < judged, "{} samples were not judged, beside {judged}", all.unjudged);
}
