//! Barriers by the stack's depth: what it costs to install, remove, unwind and hit them, and
//! the pause that they are for, that of mark termination.

#[path = "../goroutine/mod.rs"]
mod goroutine;

use std::time::{Duration, Instant};

use sigstorm_compare::{Bench, Case, Line, lines};
use sigstorm_runtime::sched::g::G;
use sigstorm_runtime::unwind::traceback::{Unwinder, saved};
use sigstorm_runtime::{Config, RunResult, instrument::bench_api, unwind::fault};

use goroutine::Machines;

const DEPTHS: [usize; 6] = [4, 16, 64, 256, 512, 1024];
/// Frames that return between two stops of the world.
const RETURNED: usize = 3;

/// Room for a barrier in every frame of the deepest stack.
fn list() -> (usize, usize) {
    let entries = DEPTHS[DEPTHS.len() - 1];
    let memory: &'static mut [usize] = vec![0; 2 * entries].leak();
    (memory.as_ptr() as usize, entries)
}

/// Sums up `body`'s own times.
fn sum(times: u64, mut body: impl FnMut() -> Duration) -> Duration {
    (0..times).map(|_| body()).sum()
}

/// How long `body` takes. Reading the clock is part of it, some 20 ns: what is timed here
/// is long enough, or is so on both sides.
fn clock(body: impl FnOnce()) -> Duration {
    let start = Instant::now();
    body();
    start.elapsed()
}

/// The same stack's walk, which an installation is made of.
fn walk(g: &'static G) -> usize {
    let mut walk = Unwinder::begin(g, saved(g).expect("it is stopped")).expect("a known place");
    let mut frames = 0;
    while walk.step().expect("a healthy stack").is_some() {
        frames += 1;
    }
    frames
}

/// Figures for one barrier: in every frame but the outermost one.
fn single(bench: &mut Bench, w: Machines) {
    let (base, capacity) = list();
    for depth in DEPTHS {
        w.descend(depth);
        let (m, g) = (w.m, w.g());
        // SAFETY: leaked memory; a fresh stack has no barriers, and it does not move.
        unsafe { bench_api::list_at(g, base, capacity) };
        let barriers = depth - 1;
        let walked =
            move || Case::new("walk of the same frames", move || assert_eq!(walk(g), depth)).per(barriers);
        let install = Case::timed("sigstorm", move |times| {
            sum(times, || {
                let took = clock(|| assert_eq!(bench_api::install(m, g, 1), barriers));
                bench_api::remove(m, g);
                took
            })
        });
        bench.compare(&format!("install one, depth {depth}"), install.per(barriers), vec![walked()]);
        let remove = Case::timed("sigstorm", move |times| {
            sum(times, || {
                bench_api::install(m, g, 1);
                clock(|| bench_api::remove(m, g))
            })
        });
        bench.compare(&format!("remove one, depth {depth}"), remove.per(barriers), vec![walked()]);
        let unwind = Case::timed("sigstorm", move |times| {
            sum(times, || {
                bench_api::install(m, g, 1);
                let took = clock(|| bench_api::unwind(m, g, usize::MAX));
                assert_eq!(g.barriers.pending(), 0);
                bench_api::remove(m, g);
                took
            })
        });
        bench.compare(&format!("unwind one, depth {depth}"), unwind.per(barriers), vec![walked()]);
        bench.compare(
            &format!("return of a frame, depth {depth}"),
            returns(w, depth, true),
            vec![returns(w, depth, false)],
        );
        w.descend(depth);
    }
}

/// Every frame but the outermost returns, over a barrier each or not.
fn returns(w: Machines, depth: usize, over_barriers: bool) -> Case {
    let name = if over_barriers { "sigstorm" } else { "return without a barrier" };
    Case::timed(name, move |times| {
        sum(times, || {
            if over_barriers {
                assert_eq!(bench_api::install(w.m, w.g(), 1), depth - 1);
            }
            let took = clock(|| {
                for _ in 1..depth {
                    assert_eq!(w.m.ret(), RunResult::NextOp);
                }
            });
            assert_eq!(w.g().barriers.pending(), 0, "all of them were hit");
            bench_api::remove(w.m, w.g());
            w.call(depth, depth - 1);
            took
        })
    })
    .per(depth - 1)
}

/// The pause of mark termination: the stack was scanned, a few frames have returned since and
/// as many were called, and the world is stopped.
fn pause(w: Machines, depth: usize, barriers: bool) -> Case {
    let name = if barriers { "sigstorm" } else { "without barriers" };
    Case::timed(name, move |times| {
        sum(times, || {
            // The collector scans what is stopped; all of this is one thread.
            w.m.yield_now();
            assert!(w.collector.gc_mark());
            assert!(w.collector.gc_scan(w.g()));
            while w.collector.gc_drain(64) {}
            assert!(w.m.take(w.g()), "it can run again");
            let returned = RETURNED.min(depth - 1);
            for _ in 0..returned {
                assert_eq!(w.m.ret(), RunResult::NextOp);
            }
            w.call(depth, returned);
            if !barriers {
                // As if there never had been any: the whole stack is looked at again.
                bench_api::remove(w.m, w.g());
            }
            w.m.yield_now();
            let took = clock(|| assert!(w.collector.gc_terminate()));
            assert!(w.collector.gc_sweep());
            assert!(w.m.take(w.g()), "it can run again");
            took
        })
    })
}

fn main() {
    let mut bench = Bench::new("barriers", !cfg!(any(feature = "points", feature = "defects")));
    fault::install().expect("the fault handlers");
    let config = Config { initial_stack: 64 * 1024, ..Config::default() };
    single(&mut bench, Machines::new(config));
    // A core with barriers as they are by default: few, twice as far each.
    let w = Machines::new(config);
    for depth in DEPTHS {
        w.descend(depth);
        bench.compare(
            &format!("pause of mark termination, depth {depth}"),
            pause(w, depth, true),
            vec![pause(w, depth, false)],
        );
    }
    if bench.measures() {
        let plot = lines(bench.rows(), "pause of mark termination, depth ", "with barriers");
        bench.plot("pause", "The pause of mark termination", ["frames", "ns"], plot);
        let plot: Vec<Line> = ["install one", "remove one", "unwind one", "return of a frame"]
            .into_iter()
            .map(|what| lines(bench.rows(), &format!("{what}, depth "), what).swap_remove(0))
            .collect();
        bench.plot("barriers", "A barrier in every frame: the cost of one", ["frames", "ns"], plot);
    }
    bench.note(format!(
        "Pause: {RETURNED} frames have returned and as many were called since the scan; barriers are spaced \
         exponentially. Without them every frame is scanned again while the world is stopped."
    ));
    bench.note(
        "A return is of a frame to its caller's next ask: two switches between stacks are in both figures.",
    );
    bench.end();
}
