//! A controlled run's record of its threads, once it has ended with a violation.

use sigstorm_runtime::profiler::Sample;
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::{G, M, Runtime};

use super::run::Run;
use super::thread::{M1, THREADS, ThreadState, actor_of};
use super::trace::machine_name;
use crate::oracle::evidence::Scene;
use crate::oracle::{Observed, ShadowStack, Violation, ViolationKind};

impl Scene for Run {
    fn runtime(&self) -> &'static Runtime {
        Run::runtime(self)
    }

    fn step(&self) -> usize {
        self.scheduler.step() as usize
    }

    fn thread_name(&self, thread: usize) -> String {
        actor_of(thread).name().to_owned()
    }

    fn machine(&self, thread: usize) -> Option<&'static M> {
        self.threads[thread].machine
    }

    fn machine_name(&self, machine: u8) -> String {
        machine_name(machine).to_owned()
    }

    fn goroutine(&self, thread: usize) -> Option<usize> {
        self.threads[thread].goroutine
    }

    fn observed(&self, thread: usize, sample: &Sample, g: &G) -> Observed {
        let thread = &self.threads[thread];
        thread.handler.observed.unwrap_or_else(|| Observed::by_sample(g, sample, thread.waits_in_kernel()))
    }

    fn stack<R>(&self, goroutine: usize, look: impl FnOnce(&ShadowStack) -> R) -> Option<R> {
        self.shadows.stacks.get(goroutine).map(look)
    }

    fn lock_holder(&self, thread: usize) -> Option<Option<(String, Operation)>> {
        let holder = self.threads[thread].handler.lock_holder;
        Some(holder.map(|(holder, operation)| (self.thread_name(holder), operation)))
    }

    fn threads(&self, violation: &Violation) -> Vec<String> {
        match violation.kind {
            ViolationKind::Deadlock => (M1..THREADS).filter_map(|slot| self.waits(slot)).collect(),
            _ => Vec::new(),
        }
    }
}

impl Run {
    /// A thread's wait in words, if it waits.
    fn waits(&self, slot: usize) -> Option<String> {
        let thread = &self.threads[slot];
        let ThreadState::Blocked(wait) = thread.state else { return None };
        let owner = wait.goroutine().and_then(|g| g.lock.owner());
        let (whose, holder) = match (wait, wait.goroutine(), owner) {
            (Wait::StackLock(_), Some(g), Some(owner)) => {
                let holder = machine_name(owner.machine);
                (format!("g{}'s stack lock", g.id), format!(", which {holder} holds for {}", owner.operation))
            }
            (_, Some(g), Some(owner)) => {
                let holder = machine_name(owner.machine);
                let holds = format!("; {holder} holds g{}'s stack lock ({})", g.id, owner.operation);
                (wait.what().replace("a goroutine", &format!("g{}", g.id)), holds)
            }
            (Wait::RateLock(rate), ..) => {
                let holder = rate.holder().map(machine_name);
                let holds = holder.map_or(String::new(), |holder| format!(", which {holder} holds"));
                (wait.what().to_owned(), holds)
            }
            (_, Some(g), None) => (format!("{} (g{})", wait.what(), g.id), String::new()),
            _ => (wait.what().to_owned(), String::new()),
        };
        let handler = if thread.handler.active { ", in its signal handler," } else { "" };
        Some(format!("{}{handler} waits for {whose}{holder}", self.thread_name(slot)))
    }
}
