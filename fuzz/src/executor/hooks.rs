//! The runtime's callbacks: scheduling points, waits, throws; and the trap handler.
//!
//! All of it runs on the thread that holds the baton, in ordinary code on its own stack, in its
//! profiling handler, or in its trap handler. Nothing here allocates.

use std::io;

use sigstorm_inject::{self as inject, Trap, TrapKind};
use sigstorm_runtime::instrument::hooks::Hooks;
use sigstorm_runtime::instrument::marked_code::find_func;
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::unwind::throw::Throw;
use sigstorm_runtime::{G, Point};

use super::breakpoints::Hit;
use super::feedback::{hit, mix};
use super::holding::Holding;
use super::run::{LastEvent, Run};
use super::scheduler::{Order, Request};
use super::thread::{GC, THREADS, ThreadState};
use super::trace::{Place, What as Event};
use crate::oracle::ViolationKind;
use crate::oracle::index;
use crate::schedule::Stop;

/// A thread that waits so often in a row for what is so already waits for ever.
const VAIN_WAITS: u32 = 10_000;

static HOOKS: Hooks = Hooks { point: on_point, wait: on_wait, throw: on_throw };

/// Installs the hooks and the trap handler for the whole process.
///
/// # Errors
/// Where the system refuses the handler.
pub(super) fn install() -> io::Result<()> {
    sigstorm_runtime::instrument::hooks::install(&HOOKS);
    // SAFETY: `on_trap` allocates nothing and panics nowhere.
    unsafe { inject::install_trap_handler(on_trap, &[libc::SIGPROF]) }
}

// -- scheduling points --------------------------------------------------------------------

fn on_point(point: Point, g: *const G, detail: usize) {
    // SAFETY: null, or a goroutine of the runtime, which lives as long as the process.
    let g = unsafe { g.as_ref() };
    #[cfg(debug_assertions)]
    if Holding::is_lent() && !crate::tamper::tells(point, g, detail) {
        return;
    }
    // SAFETY: the runtime calls this, which a thread of the run calls only while it lends what it holds.
    let Some(mut holding) = (unsafe { Holding::reclaim() }) else { return };
    let me = holding.me();
    let run = holding.run();
    run.vain_waits = 0;
    if let Err(kind) = run.learn(me, point, g, detail) {
        holding.fail(kind);
    }
    run.feed_back(me, point, g);
    if run.trace.on {
        run.note(me, Event::Point(point), g);
    }
    if run.threads[me].breakpoints.reaches(point) {
        holding.stopped_at_point(g);
    }
    match point {
        Point::LockRelease => {
            if let Some(g) = g {
                holding.run().locks.releases(index(g));
            }
        }
        Point::HandlerEnd => holding.handler_ends(),
        _ => {}
    }
}

impl Run {
    /// Notes what met what.
    #[inline]
    fn feed_back(&mut self, me: usize, point: Point, g: Option<&'static G>) {
        let code = u32::from(point.code());
        let Some(g) = g else {
            hit(mix([1, code, me.min(GC) as u32]));
            return;
        };
        let now = LastEvent { thread: me as u8, point: point.code() };
        let last = core::mem::replace(&mut self.last[index(g)], now);
        if last == now {
            // Frame after frame of one walk: nobody has done anything to the goroutine in between.
            return;
        }
        if last.thread != now.thread {
            hit(mix([2, u32::from(last.point), code]));
        }
        let held = u32::from(self.locks.holder(index(g)).is_some());
        let pending = g.barriers.pending().min(3) as u32;
        let nested = u32::from(self.threads[me].handler.active);
        let shape = held | pending << 1 | nested << 3 | g.status.get() << 4;
        hit(mix([3, code, shape << 2 | self.runtime().phase() as u32]));
    }

    /// Notes for the feedback which instruction was interrupted, and in what state.
    pub(super) fn feed_back_interrupted(&self, me: usize, pc: usize) {
        let place = Place::of(pc).map_or(0, |_| (pc - sigstorm_runtime::marked_code().0) as u32 + 1);
        let (lock, pending) = self.threads[me].goroutine.map_or((0, 0), |index| {
            let g = &self.runtime().goroutines()[index];
            (u32::from(self.locks.holder(index).is_some()), g.barriers.pending().min(2) as u32)
        });
        hit(mix([5, place, lock | pending << 1]));
    }
}

impl Holding {
    /// The thread is held at a scheduling point. It takes signals there until it is resumed.
    fn stopped_at_point(&mut self, g: Option<&'static G>) {
        let me = self.me();
        let run = self.run();
        if let Some(stop) = run.threads[me].breakpoints.stop() {
            run.note(me, Event::Stop(stop), g);
        }
        run.effects.held(run.threads[me].breakpoints.step());
        loop {
            let order = self.stop();
            match order.request {
                Request::Signal => self.raise_signal(order.stop),
                _ => {
                    let run = self.run();
                    run.note(me, Event::Resume, g);
                    return run.set_breakpoint(me, order.stop);
                }
            }
        }
    }

    /// Held at an instruction, in the trap handler or at the end of a profiling handler that interrupted it: a
    /// signal arrives as that handler returns.
    fn stopped_at_instruction(&mut self) {
        let me = self.me();
        let order = self.stop();
        if matches!(order.request, Request::Signal) {
            let thread = &mut self.run().threads[me];
            thread.handler.returns_to_stop = true;
            thread.breakpoints.returns_to_stop();
            let run = self.run();
            run.enter_handler(me);
            run.set_breakpoint(me, order.stop);
            self.send_signal(me);
        } else {
            let run = self.run();
            run.goes_on(me);
            run.set_breakpoint(me, order.stop);
        }
    }

    /// Holds the thread. Returns the order that resumes it.
    fn stop(&mut self) -> Order {
        let me = self.me();
        self.run().threads[me].state = ThreadState::Stopped;
        let order = self.next_order();
        self.run().threads[me].state = ThreadState::Running;
        order
    }

    /// The thread takes a signal here and now; the stop is for its handler.
    pub(super) fn raise_signal(&mut self, stop: Option<Stop>) {
        let me = self.me();
        let run = self.run();
        run.enter_handler(me);
        run.set_breakpoint(me, stop);
        run.threads[me].handler.is_raised = true;
        self.send_signal(me);
        let run = self.run();
        run.threads[me].handler.is_raised = false;
        run.end_handler(me);
    }

    /// The thread's handler ends.
    fn handler_ends(mut self) {
        let me = self.me();
        let run = self.run();
        let thread = &mut run.threads[me];
        thread.handler.active = false;
        let returns_to_stop = core::mem::take(&mut thread.handler.returns_to_stop);
        let (in_kernel, is_raised) = (thread.kernel.active, thread.handler.is_raised);
        // The stop of a handler that returns to where its signal was raised stays until then: it may lie in the
        // handler's last instructions, or in the handler of another signal, which is pending and comes at once.
        if returns_to_stop || in_kernel || !is_raised {
            run.end_handler(me);
        }
        if returns_to_stop {
            self.stopped_at_instruction();
        } else if in_kernel {
            // The last that is done here: the baton may be gone.
            self.back_to_kernel();
        }
    }
}

// -- instructions -------------------------------------------------------------------------

/// A thread has reached a breakpoint, or has run one instruction after it.
fn on_trap(trap: &mut Trap<'_>) {
    // SAFETY: breakpoints lie in the marked code, which a thread runs only while it lends what it holds.
    let Some(mut holding) = (unsafe { Holding::reclaim() }) else { return };
    let me = holding.me();
    let run = holding.run();
    let pc = trap.pc();
    let thread = &mut run.threads[me];
    let on_its_way = thread.kernel.active && !thread.signal_pending;
    if on_its_way && find_func(pc).is_some_and(|extent| extent.function.on_goroutine_stack()) {
        // Back from the kernel: it has the baton again, and may be sent a signal. One that was sent before is
        // to arrive in the wait.
        trap.context().admit(libc::SIGPROF);
    }
    let masked = trap.blocks(libc::SIGPROF);
    let recording = run.code.is_recording();
    if recording && (masked || !thread.breakpoints.is_back_at(pc)) {
        run.code.visit(thread.step, pc, masked);
    }
    let put_back = (trap.kind() == TrapKind::Rung && !recording) || trap.kind() == TrapKind::Step;
    match thread.breakpoints.trapped(pc, masked, put_back, recording, run.code.ladder()) {
        Hit::Passed => {}
        Hit::SingleStep => trap.set_single_step(true),
        Hit::Returned => trap.set_single_step(false),
        Hit::Stopped => {
            if let Some(stop) = thread.breakpoints.stop() {
                let g = thread.machine.and_then(|m| m.current());
                run.note(me, Event::Stop(stop), g);
            }
            run.effects.held(run.threads[me].breakpoints.step());
            run.outcome.injected.held += 1;
            if masked {
                run.locks.handler_held(me);
            }
            holding.stopped_at_instruction();
        }
    }
}

// -- waits and throws ---------------------------------------------------------------------

fn on_wait(wait: &Wait) {
    // SAFETY: as in `on_point`.
    let Some(mut holding) = (unsafe { Holding::reclaim() }) else { return };
    let me = holding.me();
    let run = holding.run();
    if wait.over() {
        run.vain_waits += 1;
        if run.vain_waits == VAIN_WAITS {
            holding.fail(ViolationKind::Livelock);
        }
        return;
    }
    run.note(me, Event::Wait(wait.what()), wait.goroutine());
    run.threads[me].state = ThreadState::Blocked(*wait);
    if run.is_deadlocked(me, wait) {
        holding.fail(ViolationKind::Deadlock);
    }
    loop {
        let order = holding.next_order();
        let run = holding.run();
        run.threads[me].state = ThreadState::Running;
        match order.request {
            Request::Signal => {
                // Its handler may be held, and wait in turn; the body's own stop comes back after it.
                holding.raise_signal(order.stop);
                holding.run().threads[me].state = ThreadState::Blocked(*wait);
            }
            _ => {
                if order.stop.is_some() {
                    run.set_breakpoint(me, order.stop);
                }
                return;
            }
        }
    }
}

impl Run {
    /// Whether everybody whom this thread waits for waits for it, and for locks alone: nobody else could free
    /// them.
    fn is_deadlocked(&self, me: usize, wait: &Wait) -> bool {
        let mut wait = *wait;
        for _ in 0..THREADS {
            let machine = match wait {
                Wait::StackLock(g) => g.lock.owner().map(|owner| owner.machine),
                Wait::RateLock(rate) => rate.holder(),
                _ => None,
            };
            let Some(machine) = machine else { return false };
            let holder = Run::slot_of_machine(machine);
            if holder == me {
                return true;
            }
            match self.threads.get(holder).map(|thread| thread.state) {
                Some(ThreadState::Blocked(next)) => wait = next,
                _ => return false,
            }
        }
        false
    }
}

fn on_throw(throw: &Throw) -> ! {
    // SAFETY: as in `on_point`.
    match unsafe { Holding::reclaim() } {
        Some(mut holding) => holding.fail(ViolationKind::Throw(*throw)),
        // The controller's own thread makes and resets the runtime, and does nothing else with it.
        None => std::process::abort(),
    }
}
