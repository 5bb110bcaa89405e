//! Simpler steps: fewer bits in operands, the first visit for a later one, another goroutine.

use crate::schedule::{Goroutine, Op, Step, Stop};

/// The step with one goroutine for another.
pub(super) fn with_goroutine(step: Step, from: Goroutine, to: Goroutine) -> Step {
    let new = |g| if g == from { to } else { g };
    let op = match step.op {
        Op::Run { g } => Op::Run { g: new(g) },
        Op::Scan { g } => Op::Scan { g: new(g) },
        Op::Shrink { g } => Op::Shrink { g: new(g) },
        Op::Spawn { g } => Op::Spawn { g: new(g) },
        Op::Ready { g } => Op::Ready { g: new(g) },
        Op::Preempt { g } => Op::Preempt { g: new(g) },
        op => op,
    };
    Step { op, ..step }
}

/// Steps that are simpler than this one, the simplest first.
pub(super) fn simpler(step: Step) -> Vec<Step> {
    let ops = simpler_ops(step).into_iter().map(|op| Step { op, ..step });
    let stops = step.stop.into_iter().flat_map(simpler_stops).map(|stop| Step { stop: Some(stop), ..step });
    ops.chain(stops).collect()
}

/// Operands are numbered from the simplest on, in bits of their own: fewer bits are simpler.
pub(super) fn simpler_ops(step: Step) -> Vec<Op> {
    let class = step.actor.class();
    let (Some(code), Some(arg)) = (step.op.code(class), step.op.arg()) else { return Vec::new() };
    if arg == 0 {
        return Vec::new();
    }
    let bits = (0..8).rev().map(|bit| arg & !(1 << bit)).filter(|&simpler| simpler != arg);
    let fewer = std::iter::once(0).chain(bits).filter_map(|arg| Op::from_code(class, code, arg));
    // From 5 frames no bit leads to 4.
    let less = |count: u8| count.max(2) - 1;
    let one_less = match step.op {
        Op::Ret { frames } => Op::Ret { frames: less(frames) },
        Op::Bulk { frames } => Op::Bulk { frames: less(frames) },
        Op::Drain { objects } => Op::Drain { objects: less(objects) },
        Op::Up { frames, src, dst } => Op::Up { frames: less(frames), src, dst },
        Op::Ref { dst, frames, to } => Op::Ref { dst, frames: less(frames), to },
        op => op,
    };
    fewer.chain((one_less != step.op).then_some(one_less)).collect()
}

fn simpler_stops(stop: Stop) -> Vec<Stop> {
    let with = |new: u8| match stop {
        Stop::Point { point, .. } => Stop::Point { point, hit: new },
        Stop::Instr { function, index, check, .. } => Stop::Instr { function, index, hit: new, check },
    };
    let (Stop::Point { hit, .. } | Stop::Instr { hit, .. }) = stop;
    if hit > 1 { vec![with(1), with(hit - 1)] } else { Vec::new() }
}
