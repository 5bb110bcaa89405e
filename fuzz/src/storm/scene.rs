//! A storm's record of its threads, once every one of them is parked.

use core::fmt::Write;
use core::sync::atomic::Ordering;

use sigstorm_runtime::profiler::Sample;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::{G, M, Point, Runtime};

use super::state::Storm;
use super::thread::StormThread;
use crate::oracle::evidence::{Scene, place};
use crate::oracle::{Observed, ShadowStack, Violation};

impl Scene for Storm {
    fn runtime(&self) -> &'static Runtime {
        self.core
    }

    fn step(&self) -> usize {
        0
    }

    fn thread_name(&self, thread: usize) -> String {
        self.threads.get(thread).map_or("a thread", |thread| &thread.name).to_owned()
    }

    fn machine(&self, thread: usize) -> Option<&'static M> {
        self.threads.get(thread)?.machine
    }

    fn machine_name(&self, machine: u8) -> String {
        let thread = self.thread_of_machine(machine);
        thread.map_or("a machine that is not there", |thread| &thread.name).to_owned()
    }

    fn goroutine(&self, thread: usize) -> Option<usize> {
        self.threads.get(thread)?.goroutine()
    }

    fn observed(&self, thread: usize, sample: &Sample, g: &G) -> Observed {
        let thread = self.threads.get(thread);
        // SAFETY: every thread is parked.
        let noted = thread.and_then(|thread| unsafe { thread.look_at_handler(|mine| mine.observed) });
        noted.unwrap_or_else(|| Observed::by_sample(g, sample, false))
    }

    fn stack<R>(&self, goroutine: usize, look: impl FnOnce(&ShadowStack) -> R) -> Option<R> {
        // SAFETY: every thread is parked.
        self.shadows.get(goroutine).and_then(|shadow| unsafe { shadow.look(look) })
    }

    fn lock_holder(&self, _: usize) -> Option<Option<(String, Operation)>> {
        // Nobody stood still as the lock was tried.
        None
    }

    fn threads(&self, _: &Violation) -> Vec<String> {
        let mut lines = vec!["What each thread was at:".to_owned()];
        lines.extend(self.threads.iter().map(|thread| format!("    {}", at(self, thread))));
        lines
    }
}

/// A thread's activity, in a line.
fn at(storm: &Storm, thread: &StormThread) -> String {
    let mut line = format!("{:<9} {}", thread.name, thread.activity());
    let mut add = |part: String| {
        // A string takes whatever is written.
        let _ = write!(line, ", {part}");
    };
    if let Some(index) = thread.goroutine() {
        add(format!("runs g{}", index + 1));
    }
    if let Some(point) = Point::from_code(thread.point.load(Ordering::Relaxed)) {
        add(format!("passed {point} last"));
    }
    if thread.in_handler.load(Ordering::Relaxed) {
        add(format!("in its handler, which interrupted {}", place(thread.pc.load(Ordering::Relaxed))));
    }
    if !thread.parked.load(Ordering::SeqCst) {
        add("could not be stopped".to_owned());
    }
    let wait = thread.wait.load(Ordering::SeqCst);
    // SAFETY: set only while the thread waits, and it is parked there for good.
    if let Some(wait) = unsafe { wait.as_ref() }.filter(|_| thread.parked.load(Ordering::SeqCst)) {
        let whose = wait.goroutine().map_or(String::new(), |g| format!(" of g{}", g.id));
        let holder = wait.goroutine().and_then(|g| g.lock.owner()).map_or(String::new(), |o| {
            format!(", which {} holds for {}", storm.machine_name(o.machine), o.operation)
        });
        add(format!("waits for {}{whose}{holder}", wait.what()));
    }
    add(format!("{} operations", thread.progress.load(Ordering::Relaxed)));
    line
}
