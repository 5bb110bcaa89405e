//! The stack lock against `std`, `parking_lot` and `spin`: alone, against a second
//! thread, and against a real profiling signal on its own thread.
//!
//! `cargo bench -p sigstorm-runtime --bench lock`. Criterion measures one lock after the
//! other, and on a shared machine the load changes between two of them. So the table at the
//! end comes from a second measurement in which they take turns every few milliseconds,
//! and its ratios are medians over the turns.

mod peers;
mod table;
mod timer;

use std::env;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;

use peers::{Ours, ParkingLot, Peer, Spin, Std};
use table::{Case, Table};
use timer::{Count, Counts, Timer};

/// The cases of one group: `$make::<Peer>()` for every peer, ours first.
macro_rules! each {
    ($make:ident, $($peer:ty),+) => {
        vec![$(Case::new(<$peer>::NAME, $make::<$peer>())),+]
    };
}

/// A critical section of some nanoseconds.
#[inline]
fn section() {
    for word in 0..16u32 {
        black_box(word);
    }
}

/// How long `times` turns take.
#[inline]
fn time(times: u64, mut turn: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        turn();
    }
    start.elapsed()
}

fn alone<P: Peer>() -> impl FnMut(u64) -> Duration {
    let peer = P::here();
    move |times| time(times, || peer.locked(|| ()))
}

fn tried<P: Peer>() -> impl FnMut(u64) -> Duration {
    let peer = P::here();
    move |times| time(times, || assert!(peer.tried(|| ()).is_some(), "nobody else holds it"))
}

fn tried_in_vain<P: Peer>() -> impl FnMut(u64) -> Duration {
    let peer = P::here();
    move |times| P::there().locked(|| time(times, || assert!(peer.tried(|| ()).is_none(), "it is held")))
}

/// The yardstick: one atomic exchange.
fn exchange() -> Case {
    let word = AtomicU32::new(0);
    Case::new("one exchange", move |times| {
        time(times, || {
            black_box(black_box(&word).swap(1, Ordering::Acquire));
        })
    })
}

/// Per section, of both threads: a lock that starves the other one looks no better for it.
fn contended<P: Peer>() -> impl FnMut(u64) -> Duration {
    let peer = P::here();
    move |times| {
        let [started, stop] = [false; 2].map(AtomicBool::new);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let (peer, mut sections) = (P::there(), 0u64);
                while !stop.load(Ordering::Relaxed) {
                    peer.locked(section);
                    section();
                    sections += 1;
                    started.store(true, Ordering::Relaxed);
                }
                sections
            });
            while !started.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            let took = time(times, || {
                peer.locked(section);
                section();
            });
            stop.store(true, Ordering::Relaxed);
            let theirs = other.join().expect("the second thread");
            took.mul_f64(times as f64 / (times + theirs) as f64)
        })
    }
}

/// The interrupted thread's lock and unlock; the timer runs, its handler tries this lock.
fn interrupted<P: Peer>(count: &Arc<Count>) -> impl FnMut(u64) -> Duration + use<P> {
    let (peer, count) = (P::here(), Arc::clone(count));
    move |times| {
        timer::with_handler(
            &count,
            || P::here().tried(|| ()).is_some(),
            || {
                time(times, || {
                    peer.locked(section);
                    section();
                })
            },
        )
    }
}

fn main() {
    // `cargo test --all-targets` runs every case once, with whatever features the
    // workspace has put together; only figures need the bare core.
    let measures = env::args().any(|arg| arg == "--bench");
    assert!(
        !measures || !cfg!(any(feature = "points", feature = "defects")),
        "figures of a core with scheduling points or planted defects say nothing: \
         run `cargo bench -p sigstorm-runtime`, which builds it with neither"
    );
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(30)
        .nresamples(10_000)
        .configure_from_args();
    let mut table = Table::default();
    let mut group = |name: &str, mut cases: Vec<Case>| {
        table::by_criterion(&mut criterion, name, &mut cases);
        if measures {
            table.by_turns(name, &mut cases);
        }
    };

    let mut cases = each!(alone, Ours, Std, ParkingLot, Spin);
    cases.push(exchange());
    group("lock and unlock", cases);
    let mut cases = each!(tried, Ours, Std, ParkingLot, Spin);
    cases.push(exchange());
    group("try and unlock", cases);
    let mut cases = each!(tried_in_vain, Ours, Std, ParkingLot, Spin);
    cases.push(exchange());
    group("try a held lock", cases);
    group("lock, by two threads", each!(contended, Ours, Std, ParkingLot, Spin));

    let mut counts = Counts::default();
    for hz in [1_000, 10_000] {
        let name = format!("lock, SIGPROF at {} kHz", hz / 1000);
        let timer = Timer::start(hz);
        group(
            &name,
            vec![
                Case::new(Ours::NAME, interrupted::<Ours>(counts.add(&name, Ours::NAME))),
                Case::new(Std::NAME, interrupted::<Std>(counts.add(&name, Std::NAME))),
                Case::new(ParkingLot::NAME, interrupted::<ParkingLot>(counts.add(&name, ParkingLot::NAME))),
            ],
        );
        drop(timer);
    }
    criterion.final_summary();
    if measures {
        print!("\n{table}\n{counts}");
    }
}
