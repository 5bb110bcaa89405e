//! Which runs a sweep consists of.

use sigstorm_runtime::FuncId;

use crate::outcome::Visit;
use crate::schedule::{Actor, Goroutine, MAX_STEPS, Op, Schedule, Step, Stop};

/// A stop can name so many visits of a step to an instruction.
const MOST_HITS: u16 = 8;
/// Of the schedule's own later steps, so many different ones of others are tried.
const MOST_OWN: usize = 6;

/// The perturbation while a thread is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perturbation {
    /// The thread gets a signal there.
    Signal,
    /// Another does this meanwhile.
    Other(Actor, Op),
    /// Another does this and is held at an instruction in turn; then both go on, the one
    /// that was held last as the first, or as the second.
    Both {
        /// The other actor and its operation.
        other: (Actor, Op),
        /// Where that is held.
        at: (FuncId, u16),
        /// The first goes on first.
        in_order: bool,
    },
}

/// One run of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The step that reaches the instruction.
    pub step: usize,
    /// The instruction's function.
    pub function: FuncId,
    /// Which of its instructions.
    pub index: u16,
    /// At which visit.
    pub hit: u8,
    /// The perturbation there.
    pub what: Perturbation,
    /// Whether the visit was counted. One that was not ends the loop, unless it fires.
    pub counted: bool,
}

/// A schedule and the visits of its steps.
#[derive(Clone, Debug)]
pub struct SweepPlan {
    schedule: Schedule,
    visits: Vec<Visit>,
}

impl SweepPlan {
    /// The plan for a schedule of which these visits were recorded.
    pub fn new(schedule: Schedule, visits: Vec<Visit>) -> SweepPlan {
        SweepPlan { schedule, visits }
    }

    /// The visits.
    pub fn visits(&self) -> &[Visit] {
        &self.visits
    }

    /// Visits beyond those that a stop can name.
    pub fn beyond(&self) -> u64 {
        let beyond = |c: &Visit| u64::from(c.count.saturating_sub(MOST_HITS));
        self.within().map(beyond).sum()
    }

    /// The visits within a step, and not after the last.
    fn within(&self) -> impl Iterator<Item = &Visit> {
        self.visits.iter().filter(|v| (v.step as usize) < self.schedule.steps.len())
    }

    /// Every run of the sweep, in the order of steps and instructions.
    pub fn injections(&self) -> Vec<Injection> {
        let mut all = Vec::new();
        let mut others = (usize::MAX, Vec::new());
        for visit in self.within() {
            let Some(function) = FuncId::from_code(visit.function) else { continue };
            let step = visit.step as usize;
            if others.0 != step {
                others = (step, self.conflicting(step));
            }
            let last = visit.count.min(MOST_HITS);
            for hit in 1..=last {
                let injection = |what| Injection {
                    step,
                    function,
                    index: visit.index,
                    hit: hit as u8,
                    what,
                    counted: true,
                };
                let masked = visit.masked >> (hit - 1) & 1 == 1;
                if !masked {
                    all.push(injection(Perturbation::Signal));
                }
                all.extend(others.1.iter().map(|&(actor, op)| injection(Perturbation::Other(actor, op))));
                if hit == last && last < MOST_HITS && !masked {
                    let next =
                        Injection { hit: hit as u8 + 1, counted: false, ..injection(Perturbation::Signal) };
                    all.push(next);
                }
            }
        }
        all
    }

    /// Every run with two stops: a walk held half-way and a writer held half-way.
    pub fn pairs(&self) -> Vec<Injection> {
        let steps = &self.schedule.steps;
        let mut all = Vec::new();
        for (walk, _) in steps.iter().enumerate().filter(|(_, s)| s.op == Op::Signal) {
            for (write, writer) in steps.iter().enumerate() {
                let is_writer = !matches!(writer.op, Op::Signal | Op::Resume) && writer.actor != Actor::World;
                if !is_writer || writer.actor == steps[walk].actor {
                    continue;
                }
                for (one, other) in self.first_visits(walk, write) {
                    for in_order in [true, false] {
                        all.push(Injection {
                            step: walk,
                            function: one.0,
                            index: one.1,
                            hit: 1,
                            what: Perturbation::Both {
                                other: (writer.actor, writer.op),
                                at: other,
                                in_order,
                            },
                            counted: true,
                        });
                    }
                }
            }
        }
        all
    }

    /// The first visits of two steps, each with each.
    fn first_visits(&self, one: usize, other: usize) -> Vec<((FuncId, u16), (FuncId, u16))> {
        let of = |step: usize| -> Vec<(FuncId, u16)> {
            let visits = self.visits.iter().filter(|v| v.step as usize == step);
            visits.filter_map(|v| Some((FuncId::from_code(v.function)?, v.index))).collect()
        };
        let others = of(other);
        of(one).into_iter().flat_map(|one| others.iter().map(move |&other| (one, other))).collect()
    }

    /// The operations of others while this step's thread is held: those that follow in the
    /// schedule, and what changes the stack that it works on.
    fn conflicting(&self, step: usize) -> Vec<(Actor, Op)> {
        let steps = &self.schedule.steps;
        let held = steps[step].actor;
        let mut all: Vec<(Actor, Op)> = Vec::new();
        let mut add = |actor: Actor, op: Op| {
            if actor != held && actor != Actor::World && !all.contains(&(actor, op)) {
                all.push((actor, op));
            }
        };
        for later in &steps[step + 1..] {
            add(later.actor, later.op);
        }
        all.truncate(MOST_OWN);
        let mut add = |actor: Actor, op: Op| {
            if !all.contains(&(actor, op)) {
                all.push((actor, op));
            }
        };
        for other in [Actor::M1, Actor::M2, Actor::Gc] {
            let last = steps[..step].iter().rev().find(|s| s.actor == other && s.op != Op::Signal);
            if other != held && last.is_some_and(|last| last.stop.is_some()) {
                add(other, Op::Resume);
            }
        }
        match held {
            Actor::M1 | Actor::M2 => {
                let g = self.goroutine(step, held);
                let phase = steps[..step].iter().rev().find(|s| matches!(s.op, Op::Mark | Op::Term));
                let marking = phase.is_some_and(|step| step.op == Op::Mark);
                let of_phase = if marking { [Op::Scan { g }, Op::Term] } else { [Op::Mark, Op::Stw] };
                for op in of_phase.into_iter().chain([Op::Shrink { g }]) {
                    add(Actor::Gc, op);
                }
            }
            Actor::Gc => {
                for machine in [Actor::M1, Actor::M2] {
                    if !steps[..step].iter().any(|s| s.actor == machine) {
                        continue;
                    }
                    add(machine, Op::Signal);
                    add(machine, Op::Call { kind: FuncId::Huge, times: 1 });
                    add(machine, Op::Ret { frames: 1 });
                }
            }
            Actor::Ext | Actor::World => add(Actor::M1, Op::Signal),
        }
        all
    }

    /// The goroutine that a machine runs at this step, as the schedule has it.
    fn goroutine(&self, step: usize, machine: Actor) -> Goroutine {
        let named = self.schedule.steps[..=step].iter().rev().find_map(|s| match s.op {
            Op::Run { g } if s.actor == machine => Some(g),
            _ => None,
        });
        named.unwrap_or(if machine == Actor::M2 { Goroutine::G2 } else { Goroutine::G1 })
    }

    /// The schedule of one run.
    pub fn schedule(&self, injection: &Injection) -> Schedule {
        let Injection { step, function, index, hit, .. } = *injection;
        let held = self.schedule.steps[step];
        let at = |function, index, hit| Some(Stop::Instr { function, index, hit, check: None });
        let mut steps = self.schedule.steps[..step].to_vec();
        steps.push(Step { stop: at(function, index, hit), ..held });
        let resume = Step { actor: held.actor, op: Op::Resume, stop: held.stop };
        match injection.what {
            Perturbation::Signal => {
                steps.push(Step { actor: held.actor, op: Op::Signal, stop: None });
                steps.push(resume);
            }
            Perturbation::Other(actor, op) => {
                steps.push(Step { actor, op, stop: None });
                steps.push(resume);
            }
            Perturbation::Both { other: (actor, op), at: (function, index), in_order } => {
                steps.push(Step { actor, op, stop: at(function, index, 1) });
                let other = Step { actor, op: Op::Resume, stop: None };
                steps.extend(if in_order { [resume, other] } else { [other, resume] });
            }
        }
        steps.extend_from_slice(&self.schedule.steps[step + 1..]);
        steps.truncate(MAX_STEPS);
        Schedule { steps }
    }
}

/// A schedule's operations in plain order: without its stops, and without what was done
/// because of them, signals and going on.
pub fn plain(schedule: &Schedule) -> Schedule {
    let mut held = [false; 8];
    let mut steps = Vec::new();
    for step in &schedule.steps {
        let held = &mut held[usize::from(step.actor.code())];
        let because = match step.op {
            Op::Signal => step.stop.is_some() || *held,
            Op::Resume => std::mem::take(held),
            _ => false,
        };
        *held |= step.stop.is_some();
        // A signal of its own stays: a walk that others meet half-way.
        if !because || (step.op == Op::Signal && step.stop.is_some()) {
            steps.push(Step { stop: None, ..*step });
        }
    }
    Schedule { steps }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, visits: &[(u32, FuncId, u16, u16, u8)]) -> SweepPlan {
        let schedule = Schedule::parse(&format!("# sigstorm schedule 1\n{text}")).expect("a schedule");
        let visit = |&(step, function, index, count, masked): &(u32, FuncId, u16, u16, u8)| Visit {
            step,
            function: function.code(),
            index,
            count,
            masked,
        };
        SweepPlan::new(schedule, visits.iter().map(visit).collect())
    }

    #[test]
    fn every_visit_has_a_signal_and_every_other() {
        let plan = plan(
            "m1 g1 call small\ngc mark; scan g1\nm1 signal",
            &[(1, FuncId::Small, 3, 2, 0), (4, FuncId::Lock, 0, 1, 1), (5, FuncId::Lock, 1, 9, 0)],
        );
        let all = plan.injections();
        let signals: Vec<(u8, bool)> =
            all.iter().filter(|i| i.what == Perturbation::Signal).map(|i| (i.hit, i.counted)).collect();
        assert_eq!(signals, [(1, true), (2, true), (3, false)], "none where they are blocked");
        let others = |step: usize, hit: u8| {
            let here = all.iter().filter(move |i| i.step == step && i.hit == hit && i.counted);
            here.filter(|i| matches!(i.what, Perturbation::Other(Actor::Gc, _))).count()
        };
        // mark, scan, stw, shrink; scan, term, shrink; and after the last step nothing can be held.
        assert_eq!((others(1, 1), others(1, 2), others(4, 1), others(5, 1)), (4, 4, 3, 0));
        assert_eq!(plan.beyond(), 0, "what comes after the last step is no step's");
    }

    #[test]
    fn run_of_a_sweep_is_the_schedule_with_one_perturbation() {
        let plan = plan("m1 g1 call small @ lock.release\nm1 resume", &[(1, FuncId::Small, 3, 1, 0)]);
        let text = |i: &Injection| plan.schedule(i).to_text();
        let all = plan.injections();
        let expected = Schedule::parse(
            "# sigstorm schedule 1\nm1 g1 call small @ small#3; signal; resume @ lock.release; resume",
        );
        assert_eq!(Ok(plan.schedule(&all[0])), expected, "{}", text(&all[0]));
        let other = Schedule::parse(
            "# sigstorm schedule 1\nm1 g1 call small @ small#3\ngc mark\nm1 resume @ lock.release; resume",
        );
        assert_eq!(Ok(plan.schedule(&all[1])), other, "{}", text(&all[1]));
    }

    #[test]
    fn plain_schedule_has_no_stop_and_no_step_that_needs_one() {
        let parse = |text: &str| Schedule::parse(&format!("# sigstorm schedule 1\n{text}")).expect("valid");
        for (text, expected) in [
            (
                "m1 g1 call small; syscall; resume; ret @ trampoline#4; signal; resume; ret",
                "m1 g1 call small; syscall; resume; ret; ret",
            ),
            (
                "m1 g1 syscall; signal @ traceback.frame\ngc scan g1\nm1 resume; resume",
                "m1 g1 syscall; signal\ngc scan g1\nm1 resume",
            ),
        ] {
            assert_eq!(plain(&parse(text)), parse(expected), "{text}");
        }
    }

    #[test]
    fn pairs_hold_two_threads() {
        let plan = plan(
            "m1 g1 call small; signal\ngc mark",
            &[(2, FuncId::WalkStep, 1, 1, 1), (3, FuncId::Lock, 2, 1, 0), (3, FuncId::Lock, 3, 1, 0)],
        );
        let pairs = plan.pairs();
        assert_eq!(pairs.len(), 4);
        let expected = Schedule::parse(
            "# sigstorm schedule 1\nm1 g1 call small; signal @ walk_step#1\ngc mark @ lock#3\n\
             gc resume\nm1 resume\ngc mark",
        );
        assert_eq!(Ok(plan.schedule(&pairs[3])), expected);
    }
}
