//! Writers on several threads and profiling signals on each of them, all for one stack: how
//! long a writer takes from asking for the lock to having given it back, how many barrier
//! operations get through, and how many samples are lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::instrument::bench_api;
use sigstorm_runtime::sched::g::G;
use sigstorm_runtime::unwind::traceback::{Unwinder, saved};

use crate::peers::{FRAMES, Peer, stage};
use crate::timer::{Timer, with_handler};

/// The results of one round.
#[derive(Clone, Default)]
pub struct Round {
    /// Time for one operation, of all threads together, in nanoseconds.
    pub per_operation: f64,
    latencies: Histogram,
    /// Handlers that ran, and those without a sample.
    pub handlers: [u64; 2],
}

/// Walks the stack, as a handler does. Returns false if the walk failed, since the stack changed.
fn sample(g: &'static G) -> bool {
    let Ok(mut walk) = saved(g).and_then(|start| Unwinder::begin(g, start)) else { return false };
    for frames in 0.. {
        match walk.step() {
            Ok(Some(_)) => {}
            Ok(None) => return frames == FRAMES,
            Err(_) => return false,
        }
        if frames > FRAMES {
            break;
        }
    }
    false
}

fn handler<P: Peer>(index: usize) -> bool {
    P::of(index).tried(|| sample(stage().1)).unwrap_or(false)
}

/// One thread's operations until it is told to stop.
fn writer<P: Peer>(index: usize, hz: u32, stop: &AtomicBool) -> Histogram {
    let (peer, g) = (P::of(index), stage().1);
    let _timer = (hz != 0).then(|| Timer::start(index, hz));
    let mut latencies = Histogram::default();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        // SAFETY: under the peer's lock; the handlers walk as it lets them.
        let barriers = peer.locked(|| unsafe { bench_api::install_and_remove(g) });
        latencies.add(start.elapsed());
        assert_eq!(barriers, FRAMES - 1, "the stack is whole again");
        // Another thread's turn: the work between two operations.
        for turn in 0..64u32 {
            std::hint::black_box(turn);
        }
    }
    latencies
}

/// Runs a round.
pub fn round<P: Peer>(threads: usize, hz: u32, length: Duration) -> Round {
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let (latencies, handlers) = with_handler(handler::<P>, || {
        thread::scope(|scope| {
            let stop = &stop;
            let writers: Vec<_> =
                (0..threads).map(|index| scope.spawn(move || writer::<P>(index, hz, stop))).collect();
            thread::sleep(length);
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().fold(Histogram::default(), |mut all, writer| {
                all.merge(&writer.join().expect("a writer"));
                all
            })
        })
    });
    let operations = latencies.count().max(1);
    Round { per_operation: begun.elapsed().as_secs_f64() * 1e9 / operations as f64, latencies, handlers }
}

impl Round {
    /// Adds another's latencies and counts.
    pub fn merge(&mut self, other: &Round) {
        self.latencies.merge(&other.latencies);
        for (mine, theirs) in self.handlers.iter_mut().zip(other.handlers) {
            *mine += theirs;
        }
    }

    /// Returns a writer's latency: median, 99th percentile, greatest, in nanoseconds.
    pub fn latencies(&self) -> [u64; 3] {
        [self.latencies.percentile(50.0), self.latencies.percentile(99.0), self.latencies.greatest]
    }
}

/// Times by powers of two, each cut in 32: within 3 %.
#[derive(Clone)]
struct Histogram {
    counts: Vec<u64>,
    greatest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; 64 * 32], greatest: 0 }
    }
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.greatest = self.greatest.max(ns);
    }

    fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.greatest = self.greatest.max(other.greatest);
    }

    fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn percentile(&self, percent: f64) -> u64 {
        let mut left = (self.count() as f64 * percent / 100.0) as u64;
        for (index, &count) in self.counts.iter().enumerate() {
            if count > left {
                return least(index);
            }
            left -= count;
        }
        self.greatest
    }
}

fn bucket(ns: u64) -> usize {
    let ns = ns.max(32);
    let shift = 58 - ns.leading_zeros() as usize;
    shift * 32 + (ns >> shift) as usize % 32
}

/// The least time that falls into a bucket.
fn least(bucket: usize) -> u64 {
    ((bucket as u64 % 32) | 32) << (bucket / 32)
}
