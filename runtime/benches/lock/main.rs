//! The stack lock against `std`, `parking_lot` and `spin`, alone; and, with two other ways
//! to keep a handler from walking a stack that changes, under threads that change one stack
//! and real profiling signals that sample it.

mod peers;
mod storm;
mod timer;

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sigstorm_compare::{Bench, Case, Line, time};
use sigstorm_runtime::unwind::fault;

use peers::{Masking, Ours, ParkingLot, Peer, Sequence, Spin, Std};
use storm::Round;

/// Rates of the signal, a second; zero is none.
const RATES: [u32; 5] = [0, 100, 1_000, 10_000, 20_000];
/// Machines, which is how many threads a core can have that change stacks.
const THREADS: [usize; 3] = [1, 2, 3];

fn alone<P: Peer>() -> Case {
    let peer = P::of(0);
    Case::new(P::NAME, move || peer.locked(|| ()))
}

fn tried<P: Peer>() -> Case {
    let peer = P::of(0);
    Case::new(P::NAME, move || assert!(peer.tried(|| ()).is_some(), "no other thread holds it"))
}

fn tried_in_vain<P: Peer>() -> Case {
    let peer = P::of(0);
    Case::timed(P::NAME, move |times| {
        P::of(1).locked(|| time(times, || assert!(peer.tried(|| ()).is_none(), "it is held")))
    })
}

/// The yardstick: one atomic exchange.
fn exchange() -> Case {
    let word = AtomicU32::new(0);
    Case::new("one exchange", move || black_box(&word).swap(1, Ordering::Acquire))
}

/// One way, under threads and signals.
type Way = (&'static str, fn(usize, u32, Duration) -> Round);

const WAYS: [Way; 6] = [
    (Ours::NAME, storm::round::<Ours>),
    (Std::NAME, storm::round::<Std>),
    (ParkingLot::NAME, storm::round::<ParkingLot>),
    (Spin::NAME, storm::round::<Spin>),
    (Sequence::NAME, storm::round::<Sequence>),
    (Masking::NAME, storm::round::<Masking>),
];

fn storms(bench: &mut Bench) {
    let (rounds, length) = bench.choose((5, Duration::from_millis(80)), (1, Duration::from_millis(20)));
    let threads_of = bench.choose(&THREADS[..], &[1, 2]);
    let rates = bench.choose(&RATES[..], &[0, 1_000, 20_000]);
    let (mut sheet, mut plot) =
        (Vec::new(), WAYS.map(|(name, _)| Line { name: name.to_owned(), points: vec![] }));
    for &threads in threads_of {
        for &hz in rates {
            let mut taken: Vec<Vec<Round>> = vec![Vec::new(); WAYS.len()];
            for _ in 0..rounds {
                for ((_, way), taken) in WAYS.iter().zip(&mut taken) {
                    taken.push(way(threads, hz, length));
                }
            }
            let name = format!("barriers of {} frames, {threads} threads, {hz} Hz", peers::FRAMES);
            let figures = |rounds: &[Round]| rounds.iter().map(|r| r.per_operation).collect::<Vec<f64>>();
            let ours = figures(&taken[0]);
            // The sheet has them all.
            let shown = matches!(hz, 0 | 10_000) || rates.len() < RATES.len();
            for ((peer, _), theirs) in WAYS.iter().zip(&taken).skip(1).filter(|_| shown) {
                bench.row(&name, peer, &ours, &figures(theirs), None);
            }
            for (index, ((way, _), taken)) in WAYS.iter().zip(taken).enumerate() {
                let per_second =
                    taken.iter().map(|r| 1e9 / r.per_operation).sum::<f64>() / taken.len() as f64;
                let mut all = Round::default();
                taken.iter().for_each(|round| all.merge(round));
                let [median, p99, greatest] = all.latencies();
                let [runs, skipped] = all.handlers;
                if threads == 2 && hz != 0 && runs != 0 {
                    plot[index].points.push((f64::from(hz), p99 as f64));
                }
                let lost = if runs == 0 {
                    "-".to_owned()
                } else {
                    format!("{:.1} %", 100.0 * skipped as f64 / runs as f64)
                };
                sheet.push(
                    [
                        (*way).to_owned(),
                        threads.to_string(),
                        hz.to_string(),
                        format!("{:.0}", per_second / 1e3),
                        median.to_string(),
                        p99.to_string(),
                        greatest.to_string(),
                        runs.to_string(),
                        lost,
                    ]
                    .to_vec(),
                );
            }
        }
    }
    bench.sheet(
        "Writers under signals: each installs and removes a barrier in every frame, again and again; from asking \
         for the lock to having given it back",
        &["way", "threads", "Hz", "1,000 operations/s", "median, ns", "p99, ns", "max, ns", "handlers", "skipped"],
        sheet,
    );
    bench.plot(
        "lock",
        "Writers' latency, two threads, 99th percentile",
        ["signals a second", "ns"],
        plot.to_vec(),
    );
}

fn main() {
    let mut bench = Bench::new("lock", !cfg!(any(feature = "points", feature = "defects")));
    fault::install().expect("the fault handlers: a torn walk may read anywhere");
    let within = |case: Case| (case, Some(1.2));
    bench.compare_goals(
        "lock and unlock",
        alone::<Ours>(),
        vec![
            within(alone::<Std>()),
            within(alone::<ParkingLot>()),
            within(alone::<Spin>()),
            (alone::<Sequence>(), None),
            (alone::<Masking>(), None),
            (exchange(), None),
        ],
    );
    bench.compare(
        "try and unlock",
        tried::<Ours>(),
        vec![
            tried::<Std>(),
            tried::<ParkingLot>(),
            tried::<Spin>(),
            tried::<Sequence>(),
            tried::<Masking>(),
            exchange(),
        ],
    );
    bench.compare_goals(
        "try a held lock",
        tried_in_vain::<Ours>(),
        vec![
            (tried_in_vain::<Std>(), None),
            (tried_in_vain::<ParkingLot>(), None),
            (tried_in_vain::<Spin>(), None),
            (tried_in_vain::<Sequence>(), None),
            (exchange(), Some(1.0)),
        ],
    );
    if bench.measures() {
        storms(&mut bench);
    }
    bench.note(
        "Try-lock: a sample is lost when the handler meets a writer, its own thread's or another's. The skipped \
         share here is that of threads that do little else; it is bounded by the time for which the lock is held.",
    );
    bench.note(
        "Sequence lock: the handler's walk holds up no writer, and is thrown away if one came by; it walks stacks \
         in the middle of a change, so each load must survive any address and each loop be bounded.",
    );
    bench.note(
        "Signal masking: no sample is lost, but each writer pays two system calls, the sample comes late, at the \
         place where the mask is lifted, several that were due count as one, and the handler waits for other \
         threads' writers.",
    );
    bench.end();
}
