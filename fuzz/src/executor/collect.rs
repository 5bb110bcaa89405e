//! What a thread does for others, with or without a goroutine of its own: collecting, and
//! making goroutines, waking them, preempting them.

use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::{G, M, Phase};

use super::state::{State, Violation};
use crate::schedule::{Goroutine, Op, Work};

impl State {
    pub(crate) fn goroutine(&self, g: Goroutine) -> &'static G {
        &self.core().goroutines()[usize::from(g.code())]
    }

    /// True where a thread can do this for others.
    pub(crate) fn can_assist(&self, seat: usize, op: Op) -> bool {
        match op {
            Op::Spawn { g } => matches!(self.goroutine(g).status.get(), status::IDLE | status::DEAD),
            Op::Ready { g } => self.goroutine(g).is_parked(),
            Op::Preempt { g } => {
                let own = self.threads[seat].current.get() == Some(usize::from(g.code()));
                let g = self.goroutine(g);
                !own && g.status.get() == status::RUNNING && !g.yield_requested()
            }
            op => self.can_collect(part_of_a_cycle(op)),
        }
    }

    /// Does it. Nothing where it is none of these; else whether it had an effect.
    pub(crate) fn assist(&self, seat: usize, m: &'static M, op: Op) -> Option<bool> {
        match op {
            Op::Spawn { g } => Some(m.spawn(self.goroutine(g))),
            Op::Ready { g } => Some(m.ready(self.goroutine(g))),
            Op::Preempt { g } => Some(m.preempt(self.goroutine(g))),
            op => {
                let collecting = &self.threads[seat].collecting;
                collecting.set(true);
                let began = (self.cycles.get(), self.ends.get());
                let did = self.collect(m, part_of_a_cycle(op));
                collecting.set(false);
                if let Op::Scan { g } = op
                    && did == Some(false)
                    && self.is_passed_over(usize::from(g.code()), began)
                {
                    self.fail(
                        seat,
                        Violation::Memory("a stack that this cycle has not scanned is passed over"),
                    );
                }
                did
            }
        }
    }

    /// True where a scan should have been made: this cycle still marks, and has not made it. Where a
    /// goroutine has ended since, it may have been this one, and it may be another's turn.
    fn is_passed_over(&self, index: usize, began: (u32, u32)) -> bool {
        let marks = self.phase() == Phase::Mark && (self.cycles.get(), self.ends.get()) == began;
        let status = self.core().goroutines()[index].status.get();
        marks && !self.scanned[index].get() && !matches!(status, status::IDLE | status::DEAD)
    }

    fn collect(&self, m: &'static M, op: Op) -> Option<bool> {
        Some(match op {
            Op::Mark => m.gc_mark(),
            Op::Scan { g } => m.gc_scan(self.goroutine(g)),
            Op::Drain { objects } => m.gc_drain(usize::from(objects)),
            Op::Term => m.gc_terminate(),
            Op::Sweep => m.gc_sweep(),
            Op::Shrink { g } => m.gc_shrink(self.goroutine(g)),
            Op::Stw => m.gc_stop_the_world(),
            _ => return None,
        })
    }
}

/// The collector's own word for it.
fn part_of_a_cycle(op: Op) -> Op {
    match op {
        Op::Collect { work: Work::Mark } => Op::Mark,
        Op::Collect { work: Work::Term } => Op::Term,
        Op::Collect { work: Work::Sweep } => Op::Sweep,
        Op::Collect { work: Work::Stw } => Op::Stw,
        other => other,
    }
}
