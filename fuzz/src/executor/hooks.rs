//! What the core calls out for: scheduling points, waits, throws; and the trap handler.
//!
//! All of it runs on the thread that holds the baton, in ordinary code on its own stack,
//! in its profiling handler, or in its trap handler. Nothing here allocates.

use core::cell::Cell;
use std::io;

use sigstorm_inject as inject;
use sigstorm_runtime::instrument::hooks::Hooks;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::runtime::GOROUTINES;
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::unwind::throw::Throw;
use sigstorm_runtime::{G, Phase, Point};

use super::feedback::{hit, mix};
use super::state::{At, CONTROLLER, EXT, GC, LastEvent, State, Violation, What, actor_of, state};
use super::trace::{Place, Record, What as Event};
use crate::schedule::Stop;

thread_local! {
    /// This thread's seat at the baton; the controller's where it has none.
    pub(crate) static SEAT: Cell<usize> = const { Cell::new(CONTROLLER) };
}

/// Whoever waits so often in a row for what is so already waits for ever.
const VAIN_WAITS: u32 = 10_000;

static HOOKS: Hooks = Hooks { point: on_point, wait: on_wait, throw: on_throw };

/// Installs the hooks and the trap handler for the whole process.
pub(crate) fn install() -> io::Result<()> {
    sigstorm_runtime::instrument::hooks::install(&HOOKS);
    // SAFETY: `on_trap` allocates nothing and panics nowhere.
    unsafe { inject::install_trap_handler(super::instruction::on_trap, &[libc::SIGPROF]) }
}

fn on_point(point: Point, g: *const G, detail: usize) {
    let seat = SEAT.get();
    if seat == CONTROLLER {
        return;
    }
    let state = state();
    // SAFETY: null, or a goroutine of the core, which lives as long as the process.
    let g = unsafe { g.as_ref() };
    state.vain_waits.set(0);
    before(state, seat, point, g, detail);
    feedback(state, seat, point, g);
    if state.trace().on {
        state.note(seat, Event::Point(point), g);
    }
    let thread = &state.threads[seat];
    if let Some((wanted, hits)) = thread.at_point.get()
        && wanted == point
    {
        if hits > 1 {
            thread.at_point.set(Some((wanted, hits - 1)));
        } else {
            thread.at_point.set(None);
            state.held(seat, g);
        }
    }
    after(state, seat, point, g);
}

/// What the executor learns from an event before anybody can be held there.
#[inline]
fn before(state: &State, seat: usize, point: Point, g: Option<&'static G>, detail: usize) {
    let thread = &state.threads[seat];
    match (point, g) {
        (Point::LockAcquired, Some(g)) => {
            let operation = Operation::from_code(detail as u8).unwrap_or(Operation::Walk);
            state.ledger[index(g)].set(Some((seat, operation)));
        }
        (Point::Taken, Some(g)) => {
            let truth = state.truth(index(g));
            if !truth.lives() {
                truth.start();
            }
            thread.current.set(Some(index(g)));
        }
        (Point::GReleased, Some(g)) => {
            if state.truth(index(g)).is_in_foreign_call() {
                state.fail(
                    seat,
                    Violation::Memory("a goroutine leaves its thread with foreign frames under it"),
                );
            }
            thread.current.set(None);
            // Another may wait to make it anew, and has marked it.
            if g.status.get() & !status::SCAN == status::DEAD {
                state.truth(index(g)).clear();
                state.ends.set(state.ends.get() + 1);
            }
        }
        (Point::ScanDone, Some(g)) if state.phase() == Phase::Mark => {
            state.scanned[index(g)].set(true);
            state.check_barriers(g);
        }
        (Point::PhaseChanged, _) if detail == Phase::Mark as usize => {
            state.scanned.iter().for_each(|scanned| scanned.set(false));
            state.cycles.set(state.cycles.get() + 1);
        }
        (Point::ScanAsked, Some(g)) => state.truth(index(g)).asked.scan = true,
        (Point::ScanSelf, Some(g)) => state.truth(index(g)).asked.scan = false,
        (Point::PreemptAsked, Some(g)) => state.truth(index(g)).asked.yields = true,
        (Point::PreemptYields, Some(g)) => state.truth(index(g)).asked.yields = false,
        (Point::PhaseChanged, _) if detail == Phase::Termination as usize => {
            // Everybody is scanned now, with the world stopped.
            (0..GOROUTINES).for_each(|index| state.truth(index).asked.scan = false);
        }
        (Point::CopyAdjusted, Some(g)) => state.check_slots(seat, Some(index(g)), true),
        (Point::RecoverSwitched, Some(g)) => {
            state.truth(index(g)).recovered(thread.recovers_to.get());
        }
        (Point::SetPcBegin, Some(g)) => state.truth(index(g)).replaces_pc(),
        (Point::SetPcDone, Some(g)) => state.truth(index(g)).replaced_pc(),
        (Point::BulkDone, Some(g)) => {
            thread.in_bulk.set(false);
            let mailbox = core::mem::take(&mut state.heap().mailbox);
            if let Some(frame) = state.truth(index(g)).frame(detail) {
                frame.slots = mailbox;
            }
        }
        (Point::PhaseChanged, _) if detail == Phase::Sweep as usize => {
            state.check_live(seat, |heap, index| heap.is_marked(index));
        }
        (Point::PhaseChanged, _) if detail == Phase::Off as usize => {
            state.check_live(seat, |heap, index| heap.is_allocated(index));
        }
        (Point::SyscallReturned, _) => state.back_from_kernel(seat),
        (Point::TraceEvent, Some(g)) => state.judge_event(seat, g),
        (Point::ForeignEntered, _) => thread.in_foreign.set(true),
        (Point::ForeignLeft, _) => thread.in_foreign.set(false),
        (Point::RateChanged, _) => state.accounts().changed(detail as u32),
        (Point::RateLocked, _) if thread.in_handler.get() => thread.rate_seen.set(state.accounts().tick()),
        (Point::MachineBound, _) if seat == EXT => {
            thread.machine.set(state.guest.get().filter(|_| detail != 0));
        }
        (Point::HandlerBegin, g) => {
            thread.in_handler.set(true);
            thread.walked.set(None);
            state.interrupted_at(seat, detail);
            state.delivered(seat);
            if state.waits_in_kernel(seat) {
                state.counts().interrupted_calls += 1;
                thread.interruptions.set(thread.interruptions.get() + 1);
            }
            state.note_interrupted(seat, detail);
            if state.trace().on {
                state.note(seat, Event::Signal, g);
            }
        }
        (Point::HandlerTried, Some(g)) => {
            thread.lock_was_held.set(state.ledger[index(g)].get());
            state.tried(seat);
        }
        (Point::TracebackDone, Some(_)) => thread.walked.set(state.is_right_now(seat)),
        (Point::SampleTaken, _) => {
            let before = thread.trap.injected.take().then(|| *state.counts());
            state.judge(seat);
            if let Some(before) = before {
                state.note_injected(&before);
            }
            state.file(seat, point, detail);
        }
        (Point::SampleWritten, _) => state.file(seat, point, detail),
        (Point::HandlerEnd, _) if thread.in_handler.get() => state.file(seat, point, detail),
        (Point::HandlerEnd, _) => {
            // The handler took this thread for one without a machine.
            state.delivered(seat);
            state.judge_foreign(seat);
        }
        _ => {}
    }
}

/// What becomes true only once the thread goes on from there.
#[inline]
fn after(state: &State, seat: usize, point: Point, g: Option<&'static G>) {
    match (point, g) {
        (Point::LockRelease, Some(g)) => {
            if let Some((seat, operation)) = state.ledger[index(g)].take() {
                state.releases[index(g)].note(seat, operation);
            }
        }
        (Point::HandlerEnd, _) => {
            let thread = &state.threads[seat];
            thread.in_handler.set(false);
            if thread.held_again.replace(false) {
                thread.disarm();
                state.held_at_trap(seat);
            } else if thread.in_kernel.get() {
                // The last that is done here: the baton may be gone.
                state.back_to_kernel(seat);
            }
        }
        _ => {}
    }
}

/// A goroutine's index.
pub(crate) fn index(g: &G) -> usize {
    usize::from(g.id) - 1
}

/// Notes what met what.
#[inline]
fn feedback(state: &State, seat: usize, point: Point, g: Option<&'static G>) {
    let code = u32::from(point.code());
    let Some(g) = g else {
        hit(mix([1, code, seat.min(GC) as u32]));
        return;
    };
    let now = LastEvent { seat: seat as u8, point: point.code() };
    let last = state.last[index(g)].replace(now);
    if last == now {
        // Frame after frame of one walk: nobody has done anything to the goroutine in between.
        return;
    }
    if last.seat != now.seat {
        hit(mix([2, u32::from(last.point), code]));
    }
    let held = u32::from(state.ledger[index(g)].get().is_some());
    let pending = g.barriers.pending().min(3) as u32;
    let nested = u32::from(state.threads[seat].in_handler.get());
    let shape = held | pending << 1 | nested << 3 | g.status.get() << 4;
    hit(mix([3, code, shape << 2 | state.phase() as u32]));
}

impl State {
    /// Notes an event for the trace.
    pub(crate) fn note(&self, seat: usize, what: Event, g: Option<&'static G>) {
        if !self.trace().on {
            return;
        }
        let thread = &self.threads[seat];
        let seen = thread.machine.get().filter(|_| thread.in_handler.get()).map(|m| {
            // SAFETY: this thread is in its own handler.
            let sample = unsafe { m.last_sample() };
            (sample.pc, sample.sp)
        });
        let place_of = |g: &'static G| match seen {
            Some((pc, sp)) if point_has_sample(what) => (Place::of(pc), sp),
            _ => (Place::of(g.sched.pc.get()).filter(|_| g.sched.sp.get() != 0), g.sched.sp.get()),
        };
        let (place, sp) = g.map_or((None, 0), place_of);
        let below = g.filter(|g| g.stack.contains(sp)).map(|g| (g.stack.top.get() - sp) as u32);
        self.trace().push(Record {
            step: self.step.get(),
            actor: actor_of(seat),
            what,
            goroutine: g.map_or(0, |g| g.id),
            place,
            below,
            lock: g.and_then(|g| g.lock.owner()),
            position: g.map_or(0, |g| g.barriers.position() as u16),
            barriers: g.map_or(0, |g| g.barriers.len() as u16),
        });
    }

    /// Notes for the feedback which instruction was interrupted, and in what state.
    fn note_interrupted(&self, seat: usize, pc: usize) {
        let thread = &self.threads[seat];
        let place = Place::of(pc).map_or(0, |_| (pc - sigstorm_runtime::marked_code().0) as u32 + 1);
        let (lock, pending) = thread.current.get().map_or((0, 0), |index| {
            let g = &self.core().goroutines()[index];
            (u32::from(self.ledger[index].get().is_some()), g.barriers.pending().min(2) as u32)
        });
        hit(mix([5, place, lock | pending << 1]));
    }

    /// Arms the stop that comes with an order.
    pub(crate) fn arm(&self, seat: usize, stop: Option<Stop>) {
        if let Some(address) = self.set_stop(seat, stop) {
            self.arm_at(seat, address);
        }
    }

    /// Notes where a thread is to be held; the address, where that is at an instruction.
    pub(crate) fn set_stop(&self, seat: usize, stop: Option<Stop>) -> Option<usize> {
        let thread = &self.threads[seat];
        thread.stop.set(stop);
        thread.stop_step.set(self.step.get());
        match stop? {
            Stop::Point { point, hit } => {
                thread.at_point.set(Some((point, hit)));
                None
            }
            Stop::Instr { function, index, hit, check } => {
                let address = self.resolve(function, index, check);
                if let Some(address) = address {
                    self.break_at(seat, address, hit);
                }
                address
            }
        }
    }

    /// Held at a scheduling point: takes signals there until it is told to go on.
    fn held(&self, seat: usize, g: Option<&'static G>) {
        let thread = &self.threads[seat];
        if let Some(stop) = thread.stop.get() {
            self.note(seat, Event::Stop(stop), g);
        }
        self.fates.held(thread.stop_step.get());
        loop {
            thread.at.set(At::Stopped);
            let order = self.next_order(seat);
            thread.at.set(At::Running);
            match order.what {
                What::Signal => self.raise(seat, order.stop),
                _ => {
                    self.note(seat, Event::Resume, g);
                    self.arm(seat, order.stop);
                    return;
                }
            }
        }
    }

    /// Held at an instruction, in the trap handler or at the end of a profiling handler
    /// that interrupted it: a signal arrives as that handler returns.
    pub(super) fn held_at_trap(&self, seat: usize) {
        let thread = &self.threads[seat];
        thread.at.set(At::Stopped);
        let order = self.next_order(seat);
        thread.at.set(At::Running);
        self.arm(seat, order.stop);
        if matches!(order.what, What::Signal) {
            thread.held_again.set(true);
            thread.trap.returns_here();
            self.send(seat, seat);
        } else {
            thread.trap.goes_on();
        }
    }

    /// True where this thread's signal has interrupted its wait in the kernel.
    pub(crate) fn waits_in_kernel(&self, seat: usize) -> bool {
        self.threads[seat].in_kernel.get() && !self.threads[seat].held_again.get()
    }

    /// Takes a signal here and now; the stop is for its handler.
    pub(crate) fn raise(&self, seat: usize, stop: Option<Stop>) {
        self.arm(seat, stop);
        self.send(seat, seat);
        self.threads[seat].disarm();
    }

    /// True where everybody whom this thread waits for waits for it, and for locks alone:
    /// nobody else could free them.
    fn is_deadlocked(&self, seat: usize, wait: &Wait) -> bool {
        let mut wait = *wait;
        for _ in 0..super::state::SEATS {
            let machine = match wait {
                Wait::StackLock(g) => g.lock.owner().map(|owner| owner.machine),
                Wait::RateLock(rate) => rate.holder(),
                _ => None,
            };
            let Some(machine) = machine else { return false };
            let holder = usize::from(machine) + super::state::M1;
            if holder == seat {
                return true;
            }
            match self.threads[holder].at.get() {
                At::Blocked(next) => wait = next,
                _ => return false,
            }
        }
        false
    }
}

/// True for events whose place is the interrupted one.
fn point_has_sample(what: Event) -> bool {
    matches!(what, Event::Sample(_) | Event::Signal)
        || matches!(
            what,
            Event::Point(
                Point::HandlerTried | Point::SampleTaken | Point::HandlerEnd | Point::TracebackBegin
            )
        )
}

fn on_wait(wait: &Wait) {
    let seat = SEAT.get();
    if seat == CONTROLLER {
        return;
    }
    let state = state();
    if wait.over() {
        state.vain_waits.set(state.vain_waits.get() + 1);
        if state.vain_waits.get() == VAIN_WAITS {
            state.fail(seat, Violation::Livelock(seat));
        }
        return;
    }
    let thread = &state.threads[seat];
    state.note(seat, Event::Wait(wait.what()), wait.goroutine());
    thread.at.set(At::Blocked(*wait));
    if state.is_deadlocked(seat, wait) {
        state.fail(seat, Violation::Deadlock);
    }
    loop {
        let order = state.next_order(seat);
        match order.what {
            What::Signal => {
                // Its handler may be held, and wait in turn: what the thread is at comes back after.
                state.put_down(seat);
                let armed =
                    (thread.at_point.get(), thread.suspend(), thread.stop.get(), thread.stop_step.get());
                thread.at.set(At::Running);
                state.raise(seat, order.stop);
                thread.at_point.set(armed.0);
                thread.stop.set(armed.2);
                thread.stop_step.set(armed.3);
                thread.restore(armed.1);
                state.pick_up(seat);
                thread.at.set(At::Blocked(*wait));
            }
            _ => {
                thread.at.set(At::Running);
                if order.stop.is_some() {
                    thread.disarm();
                    state.arm(seat, order.stop);
                }
                return;
            }
        }
    }
}

fn on_throw(throw: &Throw) -> ! {
    state().fail(SEAT.get(), Violation::Throw(*throw))
}
