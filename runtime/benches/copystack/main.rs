//! Moving a stack, by its size, against a bare `memcpy` of the same bytes. Moving also
//! adjusts every frame, poisons the old stack's used part and takes a new one from the pool.

#[path = "../goroutine/mod.rs"]
mod goroutine;

use std::time::{Duration, Instant};

use sigstorm_compare::{Bench, Case, lines};
use sigstorm_runtime::{Config, FuncId, RunResult, instrument::bench_api, unwind::fault};

use goroutine::Machines;

const SIZES: [usize; 6] = [2048, 4096, 8192, 16384, 32768, 65536];
/// Copies between two turns of the pool: what was left is not used again within them.
const BATCH: u64 = 16;

/// Times whole batches; `after` each of them is not timed.
fn batches(times: u64, mut one: impl FnMut(usize), mut after: impl FnMut()) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let batch = left.min(BATCH);
        let start = Instant::now();
        for index in 0..batch {
            one(index as usize);
        }
        took += start.elapsed();
        after();
        left -= batch;
    }
    took
}

fn ours(w: Machines, size: usize) -> Case {
    Case::timed("sigstorm", move |times| {
        batches(times, |_| bench_api::copystack(w.m, w.g(), size), || bench_api::reclaim(w.runtime))
    })
}

fn memcpy(size: usize, used: usize) -> Case {
    let from = vec![1u8; size];
    let mut to: Vec<Vec<u8>> = (0..BATCH).map(|_| vec![2u8; size]).collect();
    Case::timed("memcpy", move |times| {
        batches(
            times,
            |index| to[index][size - used..].copy_from_slice(std::hint::black_box(&from[size - used..])),
            || (),
        )
    })
}

fn main() {
    let mut bench = Bench::new("copystack", !cfg!(any(feature = "points", feature = "defects")));
    fault::install().expect("the fault handlers");
    let mut shape = Vec::new();
    for size in SIZES {
        let w = Machines::new(Config { initial_stack: size, ..Config::default() });
        w.descend(1);
        let used = || w.g().stack.top.get() - w.g().sched.sp.get();
        let mut frames = 1;
        // Three quarters full, so that no call of these grows it.
        while used() < size * 3 / 4 {
            assert_eq!(w.m.call(FuncId::Small), RunResult::NextOp);
            frames += 1;
        }
        assert_eq!(w.g().stack.size(), size, "it was not moved yet");
        shape.push(vec![size.to_string(), used().to_string(), frames.to_string()]);
        bench.compare(&format!("stack of {size}"), ours(w, size), vec![memcpy(size, used())]);
    }
    if bench.measures() {
        let plot = lines(bench.rows(), "stack of ", "sigstorm");
        bench.plot("copystack", "Moving a stack that is three quarters full", ["bytes", "ns"], plot);
    }
    bench.sheet("What is moved", &["stack", "bytes used", "frames"], shape);
    bench.note("`memcpy` copies the used bytes; a move walks and adjusts the frames and poisons what it leaves, too.");
    bench.end();
}
