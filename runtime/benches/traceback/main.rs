//! A traceback by depth: without barriers, with a few, with one in every frame; against a
//! bare frame-pointer walk over the same stack, and against `framehop` and `backtrace`.
//!
//! Goroutine frames carry no CFI, so those two walk a native stack of the same depth, of
//! four functions with frames of different sizes. A figure is for one frame.

#[path = "../goroutine/mod.rs"]
mod goroutine;
mod native;

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;

use sigstorm_compare::{Bench, Case, lines};
use sigstorm_runtime::sched::g::G;
use sigstorm_runtime::unwind::traceback::{Unwinder, saved};
use sigstorm_runtime::{Config, instrument::bench_api, unwind::fault};

use goroutine::Machines;

const DEPTHS: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// The depth that the goals are for.
const GOAL: usize = 64;
/// Frames that a barrier of the few is for.
const FEW: usize = 16;

/// The buffer that walks write frames into.
type Frames = Rc<RefCell<Vec<usize>>>;

/// A walk by the table.
#[inline]
fn walk(g: &'static G, frames: &mut [usize]) -> usize {
    let start = saved(g).expect("the goroutine is stopped");
    let mut walk = Unwinder::begin(g, start).expect("a known place");
    let mut len = 0;
    while let Some(frame) = walk.step().expect("a healthy stack") {
        frames[len] = frame.pc;
        len += 1;
    }
    len
}

/// A walk by the frame pointers, which checks nothing.
#[inline]
fn bare(g: &'static G, frames: &mut [usize]) -> usize {
    frames[0] = g.sched.pc.get();
    let mut bp = g.sched.bp.get();
    let mut len = 1;
    loop {
        // SAFETY: every frame of a stopped goroutine keeps its caller's frame pointer there,
        // with the return address above it; zero ends the chain.
        let (up, pc) = unsafe { (*(bp as *const usize), *((bp + 8) as *const usize)) };
        if up == 0 {
            return len;
        }
        frames[len] = pc;
        len += 1;
        bp = up;
    }
}

fn ours(g: &'static G, depth: usize, frames: &Frames) -> Case {
    let frames = Rc::clone(frames);
    Case::new("sigstorm", move || assert_eq!(walk(g, black_box(&mut frames.borrow_mut())), depth)).per(depth)
}

fn by_frame_pointers(g: &'static G, depth: usize, frames: &Frames) -> Case {
    let frames = Rc::clone(frames);
    Case::new("frame pointers", move || assert_eq!(bare(g, black_box(&mut frames.borrow_mut())), depth))
        .per(depth)
}

fn main() {
    let mut bench = Bench::new("traceback", !cfg!(any(feature = "points", feature = "defects")));
    // The largest stack, with the list of barriers elsewhere: 1,024 frames and as many barriers.
    let w = Machines::new(Config { initial_stack: 64 * 1024, ..Config::default() });
    fault::install().expect("the fault handlers");
    let deepest = DEPTHS[DEPTHS.len() - 1];
    let list: &'static mut [usize] = vec![0; 2 * deepest].leak();
    let list = list.as_ptr() as usize;
    let frames: Frames = Rc::new(RefCell::new(vec![0; deepest]));
    let framehop = native::Framehop::new();
    for (each, barriers) in [(0, "no barrier"), (FEW, "a barrier in 16 frames"), (1, "a barrier in each")] {
        for depth in DEPTHS {
            w.descend(depth);
            let g = w.g();
            if each != 0 {
                // SAFETY: leaked memory; fresh frames have no barriers, and it does not move.
                unsafe { bench_api::list_at(g, list, deepest) };
                // The outermost frame has no return address to replace.
                assert_eq!(bench_api::install(w.m, g, each), (depth - 1).div_ceil(each));
            }
            let (pcs, mut checked) = (walk(g, &mut frames.borrow_mut()), vec![0; depth]);
            assert_eq!((pcs, bare(g, &mut checked)), (depth, depth));
            if each == 0 {
                assert_eq!(frames.borrow()[..depth], checked, "both walks see the same");
            }
            let goal = |goal: f64| (depth == GOAL).then_some(goal);
            let mut theirs = vec![(by_frame_pointers(g, depth, &frames), goal(3.0))];
            if each == 0 {
                theirs.push((framehop.case(depth, &frames), goal(1.0 / 3.0)));
                theirs.push((native::backtrace(depth, &frames), goal(1.0 / 20.0)));
            }
            bench.compare_goals(
                &format!("a frame, {barriers}, depth {depth}"),
                ours(g, depth, &frames),
                theirs,
            );
            bench_api::remove(w.m, g);
        }
    }
    let mut plot = lines(bench.rows(), "a frame, no barrier, depth ", "sigstorm");
    for barriers in ["a barrier in 16 frames", "a barrier in each"] {
        let mut more = lines(bench.rows(), &format!("a frame, {barriers}, depth "), barriers);
        plot.push(more.swap_remove(0));
    }
    if bench.measures() {
        bench.plot("traceback", "A traceback, for one frame", ["frames", "ns a frame"], plot);
        let at_goal = bench
            .rows()
            .iter()
            .find(|row| row.name == format!("a frame, no barrier, depth {GOAL}"))
            .map_or(f64::NAN, |row| row.ours_ns);
        let met = if at_goal <= 3.0 { "met" } else { "missed" };
        bench.note(format!("A frame costs {at_goal:.2} ns at depth {GOAL}, with 3 ns as the goal: {met}."));
    }
    bench.note(
        "`framehop` (with a warm cache) and `backtrace` (which only walks here, without symbols) walk a native \
         stack of the same depth, since goroutine frames carry no CFI; frame pointers are walked on the same \
         stack as ours, and nothing is checked.",
    );
    bench.note(format!(
        "Up to depth 128 the frames are of four kinds in a random order (48 to 256 bytes), beyond it of two \
         kinds of 48 bytes: more does not fit the largest stack. A few barriers are one in {FEW} frames."
    ));
    bench.end();
}
