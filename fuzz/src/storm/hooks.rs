//! What the core calls out for in a storm: nobody is held, but everybody is watched, and
//! delayed now and then.
//!
//! All of it runs on whatever thread came there, in its handler or not, with others at
//! work. Nothing here allocates or locks.

use core::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sigstorm_runtime::instrument::hooks::Hooks;
use sigstorm_runtime::profiler::SkipReason;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::unwind::throw::Throw;
use sigstorm_runtime::{CodeClass, G, Phase, Point};

use super::ledger::begun_at;
use super::seat::{NONE, Seat, rest};
use super::state::{Storm, Trouble, storm};
use crate::executor::seen;

static HOOKS: Hooks = Hooks { point: on_point, wait: on_wait, throw: on_throw };

/// Installs the hooks for the whole process.
pub(crate) fn install() {
    sigstorm_runtime::instrument::hooks::install(&HOOKS);
}

fn on_point(point: Point, g: *const G, detail: usize) {
    let (Some(storm), Some(seat)) = (storm(), Seat::mine()) else { return };
    if storm.frozen.load(Ordering::Relaxed) {
        seat.park();
    }
    // SAFETY: null, or a goroutine of the core, which lives as long as the process.
    let g = unsafe { g.as_ref() };
    seat.point.store(point.code(), Ordering::Relaxed);
    if seat.in_handler.load(Ordering::Relaxed) || point == Point::HandlerBegin || seat.machine.is_none() {
        in_handler(storm, seat, point, g, detail);
    } else {
        in_body(storm, seat, point, g, detail);
    }
    storm.delay(seat);
    if point == Point::HandlerEnd {
        seat.in_handler.store(false, Ordering::Relaxed);
    }
}

/// A goroutine's index.
pub(crate) fn index(g: &G) -> usize {
    usize::from(g.id) - 1
}

/// What is learnt from a thread's own work.
fn in_body(storm: &Storm, seat: &Seat, point: Point, g: Option<&'static G>, detail: usize) {
    seat.ledger.settle();
    if let Some(operation) = begun_at(point, storm.core.phase()) {
        seat.ledger.enter(operation, g.map_or(0, |g| g.id));
    }
    match (point, g) {
        (Point::LockAcquired, Some(g)) => {
            seat.ledger.acquired(Operation::from_code(detail as u8).unwrap_or(Operation::Walk), g.id);
        }
        (Point::LockRelease, _) => seat.ledger.releasing(),
        (Point::Taken, Some(g)) => {
            let cell = &storm.truths[index(g)];
            if cell.ended.load(Ordering::Relaxed) {
                // SAFETY: this thread has just taken it.
                unsafe { cell.update(|truth| truth.start()) };
                cell.ended.store(false, Ordering::Release);
                seat.counts.started.one();
            }
            seat.owned.store(index(g), Ordering::Relaxed);
        }
        // The collector says so of goroutines that it has scanned, and owns none.
        (Point::StatusChanged, Some(g)) if seat.goroutine() == Some(index(g)) => {
            let status = detail as u32;
            if status == status::DEAD {
                storm.truths[index(g)].ended.store(true, Ordering::Release);
            }
            if matches!(status, status::DEAD | status::RUNNABLE) {
                seat.leaving.store(true, Ordering::Relaxed);
            }
        }
        (Point::GReleased, Some(_)) => {
            seat.owned.store(NONE, Ordering::Relaxed);
            seat.leaving.store(false, Ordering::Relaxed);
        }
        (Point::RecoverSwitched, Some(g)) => {
            let below = seat.recovers_to.load(Ordering::Relaxed);
            // SAFETY: this thread runs it.
            unsafe { storm.truths[index(g)].update(|truth| truth.recovered(below)) };
            seat.counts.recoveries.one();
        }
        (Point::TraceEvent, Some(g)) => {
            if let Some(m) = seat.machine {
                storm.judge_event(seat, m, g);
            }
        }
        (Point::CopyPoisoned, _) => seat.counts.copies.one(),
        (Point::InstallSlot, _) => seat.counts.barriers.one(),
        // Between these two it removes barriers from whichever stack has some.
        (Point::WorldStopped, _) => seat.ledger.stops_world(true),
        (Point::StartWorld, _) => seat.ledger.stops_world(false),
        (Point::PhaseChanged, _) => {
            match Phase::from_code(detail as u8) {
                // The world is stopped here, as it is at the next.
                Some(Phase::Mark) => storm.check_live(seat, |heap, index| heap.is_allocated(index)),
                Some(Phase::Sweep) => {
                    storm.check_live(seat, |heap, index| heap.is_marked(index));
                }
                _ => {}
            }
        }
        _ => {}
    }
}

/// What is learnt from a thread's handler.
fn in_handler(storm: &Storm, seat: &Seat, point: Point, g: Option<&'static G>, detail: usize) {
    let Some(m) = seat.machine else {
        if point == Point::HandlerEnd {
            // The handler must have left it alone, and did.
            seat.counts.signals.one();
            seat.counts.skips[usize::from(SkipReason::ForeignThread.code()) - 1].one();
            seat.counts.interrupted[usize::from(CodeClass::Runtime.code()) - 1].one();
        }
        return;
    };
    // SAFETY: this is the thread's handler, which does not interrupt itself.
    let mine = unsafe { seat.handler() };
    match (point, g) {
        (Point::HandlerBegin, g) => {
            seat.in_handler.store(true, Ordering::Relaxed);
            seat.pc.store(detail, Ordering::Relaxed);
            seat.counts.signals.one();
            mine.seen = None;
            mine.rate = storm.rate.load(Ordering::Acquire);
            if let Some(g) = g {
                for (seat, words) in storm.seats.iter().zip(&mut mine.began) {
                    seat.ledger.note(words);
                }
                seat.ledger.enter(Operation::Walk, g.id);
            }
        }
        (Point::HandlerTried, Some(_)) if detail == 0 => {
            for (seat, words) in storm.seats.iter().zip(&mut mine.refused) {
                seat.ledger.note(words);
            }
        }
        // Under the lock: from here on another thread may move the stack.
        (Point::TracebackDone, Some(g)) => {
            // SAFETY: this is the machine's own handler.
            mine.seen = Some(seen(g, unsafe { m.last_sample() }, false));
        }
        (Point::HandlerEnd, _) => {
            seat.ledger.leave(Operation::Walk);
            storm.judge(seat, m);
        }
        _ => {}
    }
}

impl Storm {
    /// Now and then a thread is late, so that windows are wide.
    #[inline]
    fn delay(&self, seat: &Seat) {
        if self.delay_below == 0 {
            return;
        }
        let random = seat.random();
        if random & 0xffff_ffff >= self.delay_below {
            return;
        }
        let counts = &seat.counts;
        match seat.in_handler.load(Ordering::Relaxed) {
            true => counts.delays_in_handler.one(),
            false => counts.delays.one(),
        }
        let length = Duration::from_nanos((random >> 32) % (self.delay_ns + 1));
        if random >> 62 == 0 {
            // SAFETY: `sched_yield` has no preconditions.
            unsafe { libc::sched_yield() };
        } else if length >= Duration::from_micros(60) {
            // Somebody else has the processor meanwhile.
            rest(length);
        } else {
            let begun = Instant::now();
            while begun.elapsed() < length {
                core::hint::spin_loop();
            }
        }
    }
}

/// How often a thread looks before it goes back to try again.
const LOOKS: u32 = 64;

fn on_wait(wait: &Wait) {
    let (Some(storm), Some(seat)) = (storm(), Seat::mine()) else {
        // SAFETY: `sched_yield` has no preconditions.
        unsafe { libc::sched_yield() };
        return;
    };
    let holder = match wait {
        Wait::StackLock(g) => g.lock.owner().map(|owner| owner.machine),
        Wait::RateLock(rate) => rate.holder(),
        _ => None,
    };
    if let (Some(holder), Some(m)) = (holder, seat.machine)
        && holder == m.id
    {
        // Only this thread could give it back, and it is here.
        seat.wait.store(core::ptr::from_ref(wait).cast_mut(), Ordering::SeqCst);
        storm.fail(seat, Trouble::SelfDeadlock);
    }
    // A handler may wait in turn.
    let outer = seat.wait.swap(core::ptr::from_ref(wait).cast_mut(), Ordering::SeqCst);
    for look in 0..LOOKS {
        if wait.over() {
            break;
        }
        if storm.frozen.load(Ordering::Relaxed) {
            seat.park();
        }
        seat.looks.store(seat.looks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        match look {
            0..8 => core::hint::spin_loop(),
            // SAFETY: `sched_yield` has no preconditions.
            8..56 => drop(unsafe { libc::sched_yield() }),
            _ => rest(Duration::from_micros(20)),
        }
    }
    seat.wait.store(outer, Ordering::SeqCst);
}

fn on_throw(throw: &Throw) -> ! {
    match (storm(), Seat::mine()) {
        (Some(storm), Some(seat)) => storm.fail(seat, Trouble::Throw(*throw)),
        (Some(storm), None) => {
            storm.note(None, Trouble::Throw(*throw));
            loop {
                rest(Duration::from_secs(1));
            }
        }
        // Nobody is there to hear it.
        _ => std::process::abort(),
    }
}
