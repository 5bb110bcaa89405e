//! Stops at instructions: the trap handler, the breakpoints that go with the baton, and the
//! recording of every instruction that a step comes to.
//!
//! # Breakpoints
//!
//! A thread that has a stop at an instruction has a breakpoint there while it holds the
//! baton. Where the stop is for a later visit, the breakpoint is taken away at each visit
//! before, and breakpoints lie on whatever can run next instead (`coming_back`), until one
//! of these is hit and it is put back. So no instruction is single-stepped, but for the few
//! that may follow themselves.
//!
//! # Recording
//!
//! The whole region is armed, and every visit noted with the step that led to it. A
//! signal's handler takes the ladder away from the instruction that it interrupted, which is
//! then met a second time as the handler returns: that one is not counted.
//!
//! # What a stop in the protocol's own code can see
//!
//! The account of who holds a lock is kept by events, and an event is a call: it comes a few
//! instructions after the lock was taken, and a few before it is free. A thread that is held
//! or interrupted in between has or wants a lock that the account does not know of. Such a
//! holder is believed where it is there: its thread stands in the code that takes and gives
//! back locks, or stood there, or was given the lock back, since this handler was last held.

use core::cell::Cell;
use std::sync::OnceLock;

use sigstorm_inject::{self as inject, Ladder, Region, Trap, TrapKind};
use sigstorm_runtime::Function;
use sigstorm_runtime::lock::Operation;
use sigstorm_runtime::protocol::extent_of;

use super::hooks::SEAT;
use super::state::{At, CONTROLLER, SEATS, State, Thread, state};
use super::trace::What as Event;
use crate::outcome::{Counts, Injected, Visit};

static LADDER: OnceLock<Ladder> = OnceLock::new();

/// Makes the ladder of the marked code.
pub(crate) fn prepare(region: &Region) {
    LADDER.get_or_init(|| Ladder::new(region));
}

fn ladder() -> Option<&'static Ladder> {
    LADDER.get()
}

/// A function's number in the region.
pub(crate) fn number(function: Function) -> usize {
    Function::ALL.binary_search(&function).unwrap_or(usize::MAX)
}

/// What a thread's stops at instructions need.
#[derive(Debug)]
pub(crate) struct TrapState {
    /// Its breakpoint was passed and is to be put back.
    coming_back: Cell<bool>,
    /// Where it stands on the ladder while others run.
    rung: Cell<Option<usize>>,
    /// True while it is held where signals are blocked.
    pub(crate) masked: Cell<bool>,
    /// Where it is held, outside and inside its handler; zero where it is not. It stands
    /// there, too, while a handler runs that came there.
    held: [Cell<usize>; 2],
    /// What its handler has interrupted.
    interrupted: Cell<usize>,
    /// The instruction that its handler returns to.
    returns_to: Cell<usize>,
    /// Whether the signal that it handles came exactly where it was held.
    pub(super) injected: Cell<bool>,
    /// When it was last held in its handler, and when that tried the lock.
    held_at: Cell<u64>,
    tried_at: Cell<u64>,
    /// The seats whose threads stood in the lock's own code then, as a set.
    in_lock_code: Cell<u8>,
    /// When it last left the lock's own code, having been held there.
    left_lock_code: Cell<u64>,
}

impl TrapState {
    pub(crate) const fn new() -> Self {
        TrapState {
            coming_back: Cell::new(false),
            rung: Cell::new(None),
            masked: Cell::new(false),
            held: [const { Cell::new(0) }; 2],
            interrupted: Cell::new(0),
            returns_to: Cell::new(0),
            injected: Cell::new(false),
            held_at: Cell::new(0),
            tried_at: Cell::new(0),
            in_lock_code: Cell::new(0),
            left_lock_code: Cell::new(0),
        }
    }

    pub(crate) fn reset(&self) {
        self.coming_back.set(false);
        self.rung.set(None);
        self.masked.set(false);
        self.held.iter().for_each(|held| held.set(0));
        self.interrupted.set(0);
        self.returns_to.set(0);
        self.injected.set(false);
        self.held_at.set(0);
        self.tried_at.set(0);
        self.in_lock_code.set(0);
        self.left_lock_code.set(0);
    }

    /// True where breakpoints lie on what can run next instead of its own.
    pub(crate) fn is_coming_back(&self) -> bool {
        self.coming_back.get()
    }

    /// Takes its breakpoint away for good.
    pub(crate) fn disarm(&self) {
        inject::clear_breakpoint();
        if self.coming_back.replace(false)
            && let Some(ladder) = ladder()
        {
            ladder.disarm();
        }
    }

    /// A signal is sent to it where it is held: its handler returns there.
    pub(crate) fn returns_here(&self) {
        self.returns_to.set(self.held[0].get());
    }

    /// It goes on from where it is held.
    pub(crate) fn goes_on(&self) {
        let level = usize::from(self.masked.replace(false));
        if is_lock_code(self.held[level].replace(0)) {
            self.left_lock_code.set(now());
        }
    }
}

/// A stop at an instruction that waits while a signal is handled.
pub(crate) type Suspended = Option<(usize, u8, bool)>;

impl Thread {
    /// Forgets the stop at an instruction for now.
    pub(crate) fn suspend(&self) -> Suspended {
        let (address, hits) = self.at_instruction.take()?;
        Some((address, hits, self.trap.coming_back.replace(false)))
    }

    /// Remembers it.
    pub(crate) fn restore(&self, suspended: Suspended) {
        if let Some((address, hits, coming_back)) = suspended {
            self.at_instruction.set(Some((address, hits)));
            self.trap.coming_back.set(coming_back);
        }
    }
}

/// When each seat's operations last gave a goroutine's lock back.
#[derive(Debug)]
pub(crate) struct Releases([[Cell<u64>; 16]; SEATS]);

impl Releases {
    pub(crate) const fn new() -> Self {
        Releases([const { [const { Cell::new(0) }; 16] }; SEATS])
    }

    pub(crate) fn reset(&self) {
        self.0.iter().flatten().for_each(|at| at.set(0));
    }

    /// This seat's operation is about to give the lock back.
    pub(crate) fn note(&self, seat: usize, operation: Operation) {
        self.at(seat, operation).set(now());
    }

    fn at(&self, seat: usize, operation: Operation) -> &Cell<u64> {
        &self.0[seat][usize::from(operation.code()) % 16]
    }
}

/// A moment, for telling before from after within a run.
fn now() -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};
    static CLOCK: AtomicU64 = AtomicU64::new(1);
    CLOCK.fetch_add(1, Ordering::Relaxed)
}

/// True in the functions that take the stack lock and give it back.
fn is_lock_code(pc: usize) -> bool {
    let function = extent_of(pc).map(|extent| extent.function);
    matches!(function, Some(Function::Lock | Function::TryLock | Function::Unlock))
}

/// What a recorded run came to.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    on: bool,
    /// Whether threads wait in the kernel otherwise.
    parked: bool,
    steps: usize,
    /// The region's boundaries.
    width: usize,
    /// The first boundary of each function.
    first: Vec<usize>,
    /// A row for each step, and one for what comes after the last.
    visits: Vec<Visits>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Visits {
    count: u16,
    masked: u8,
}

impl State {
    /// The address of an instruction; none if it is not there or is another one.
    pub(crate) fn resolve(&self, function: Function, index: u16, check: Option<u8>) -> Option<usize> {
        let region = self.region()?;
        let function = number(function);
        let count = region.count(function);
        let index = match check {
            None => usize::from(index) % count.max(1),
            Some(_) => usize::from(index),
        };
        let boundary = region.boundaries(function).get(index)?;
        if check.is_some_and(|check| check != boundary.check) {
            return None;
        }
        region.address(function, index)
    }

    fn recording(&self) -> bool {
        // SAFETY: as for `truth`: the caller holds the baton.
        unsafe { (*self.recorder.get()).on }
    }

    /// Has a thread stop there once it has the breakpoint, [`State::arm_at`].
    pub(crate) fn break_at(&self, seat: usize, address: usize, hits: u8) {
        if self.threads[seat].at_instruction.get().is_some() {
            self.threads[seat].trap.disarm();
        }
        self.threads[seat].at_instruction.set(Some((address, hits)));
    }

    /// Arms the breakpoint for a thread.
    pub(crate) fn arm_at(&self, seat: usize, address: usize) {
        if !self.recording() {
            // SAFETY: an instruction boundary of the marked code, writable for the process's life.
            // The calling thread holds the baton; it is the one that is to come there, or passes
            // the baton on to that one before it comes there itself.
            unsafe { inject::set_breakpoint_for(address, self.threads[seat].tid.get()) };
        }
    }

    /// The same for the calling thread and whatever it can run after the instruction at `address`;
    /// false where that cannot be told.
    fn arm_after(address: usize) -> bool {
        // SAFETY: the marked code, writable for the process's life. The calling thread holds the
        // baton and is the one that they are for; the breakpoint that it had is gone.
        ladder().is_some_and(|ladder| unsafe { ladder.arm_after(address) })
    }

    /// Notes that others go on while this thread is held at an instruction.
    pub(crate) fn note_handed(&self, seat: usize) {
        let thread = &self.threads[seat];
        let held = thread.trap.held.iter().any(|held| held.get() != 0);
        if held && matches!(thread.at.get(), At::Stopped) {
            let injected = self.injected.get();
            self.injected.set(Injected { handed: injected.handed + 1, ..injected });
        }
    }

    /// Takes this thread's breakpoints away, since others are to run.
    pub(crate) fn put_down(&self, seat: usize) {
        let trap = &self.threads[seat].trap;
        let Some(ladder) = ladder() else { return };
        if self.recording() {
            trap.rung.set(ladder.close());
        } else if trap.coming_back.get() {
            ladder.disarm();
        } else if self.threads[seat].at_instruction.get().is_some() {
            inject::clear_breakpoint();
        }
    }

    /// Puts them back, since it runs again.
    pub(crate) fn pick_up(&self, seat: usize) {
        let thread = &self.threads[seat];
        let Some(ladder) = ladder() else { return };
        if self.recording() {
            ladder.open(thread.trap.rung.take());
        } else if let Some((address, _)) = thread.at_instruction.get() {
            if thread.trap.coming_back.get() {
                // It was accepted when it was armed first.
                State::arm_after(address);
            } else {
                self.arm_at(seat, address);
            }
        }
    }

    /// Takes every breakpoint away.
    pub(crate) fn disarm_all(&self) {
        inject::clear_breakpoint();
        if let Some(ladder) = ladder() {
            ladder.disarm();
        }
    }

    // -- signals where a thread is held ---------------------------------------------------

    /// A handler has begun, at this instruction.
    pub(crate) fn interrupted_at(&self, seat: usize, pc: usize) {
        let trap = &self.threads[seat].trap;
        trap.injected.set(pc != 0 && trap.held[0].get() == pc && trap.returns_to.get() == pc);
        // Held nowhere yet: nobody else has run since it began.
        trap.held_at.set(u64::MAX);
        trap.interrupted.set(pc);
    }

    /// Counts what became of a signal that came where its thread was held.
    pub(crate) fn note_injected(&self, before: &Counts) {
        let (mut injected, now) = (self.injected.get(), self.counts());
        injected.right += now.tracebacks - before.tracebacks;
        injected.alone += now.alone - before.alone;
        for (mine, (now, before)) in injected.skips.iter_mut().zip(now.skips.iter().zip(before.skips)) {
            *mine += now - before;
        }
        self.injected.set(injected);
    }

    /// This thread's handler has tried the stack lock.
    pub(crate) fn tried(&self, seat: usize) {
        let mut set = 0;
        for (other, thread) in self.threads.iter().enumerate() {
            // Of its own thread it is what the handler has interrupted.
            let inside = match other == seat {
                true => is_lock_code(thread.trap.interrupted.get()),
                false => thread.trap.held.iter().any(|held| is_lock_code(held.get())),
            };
            set |= u8::from(inside) << other;
        }
        let trap = &self.threads[seat].trap;
        trap.in_lock_code.set(set);
        trap.tried_at.set(now());
    }

    /// True where the account of events could not know that this owner held the lock when this
    /// thread's handler tried it, and it may have.
    pub(crate) fn held_in_between(&self, seat: usize, g: usize, owner: (usize, Operation)) -> bool {
        let trap = &self.threads[seat].trap;
        let (from, to) = (trap.held_at.get(), trap.tried_at.get());
        let in_between = |at: u64| from <= at && at <= to;
        let Some(holder) = self.threads.get(owner.0) else { return false };
        trap.in_lock_code.get() >> owner.0 & 1 == 1
            || in_between(self.releases[g].at(owner.0, owner.1).get())
            || in_between(holder.trap.left_lock_code.get())
    }

    // -- recording ------------------------------------------------------------------------

    /// The next run is recorded.
    pub(crate) fn start_recording(&self, steps: usize) {
        let (Some(region), Some(ladder)) = (self.region(), ladder()) else { return };
        // SAFETY: no run is under way.
        let recorder = unsafe { &mut *self.recorder.get() };
        let mut width = 0;
        recorder.first.clear();
        for f in 0..region.functions().len() {
            recorder.first.push(width);
            width += region.count(f);
        }
        recorder.on = true;
        recorder.steps = steps;
        recorder.width = width;
        recorder.visits.clear();
        recorder.visits.resize((steps + 1) * width, Visits::default());
        inject::clear_breakpoint();
        // A recorded thread waits at its seat, and not in the kernel: there it would run without
        // the baton for some instructions.
        recorder.parked = self.parks.replace(false);
        // SAFETY: the marked code, writable for the process's life; only the thread with the
        // baton runs it.
        unsafe { ladder.arm_all() };
    }

    /// What it came to.
    pub(crate) fn stop_recording(&self) -> Vec<Visit> {
        self.disarm_all();
        // SAFETY: no run is under way.
        let recorder = unsafe { &mut *self.recorder.get() };
        recorder.on = false;
        self.parks.set(recorder.parked);
        let Some(region) = self.region() else { return Vec::new() };
        let mut crossings = Vec::new();
        for (step, row) in recorder.visits.chunks(recorder.width.max(1)).enumerate() {
            for (f, function) in Function::ALL.iter().enumerate() {
                for index in 0..region.count(f) {
                    let Visits { count, masked } = row[recorder.first[f] + index];
                    if count != 0 {
                        let (step, function) = (step as u32, function.code());
                        crossings.push(Visit { step, function, index: index as u16, count, masked });
                    }
                }
            }
        }
        crossings
    }

    /// Notes a visit.
    fn visit(&self, seat: usize, pc: usize, masked: bool) {
        let thread = &self.threads[seat];
        if !masked && thread.trap.returns_to.replace(0) == pc {
            return;
        }
        let Some(location) = self.region().and_then(|region| region.locate(pc)) else { return };
        // SAFETY: as for `truth`: the calling thread holds the baton.
        let recorder = unsafe { &mut *self.recorder.get() };
        let step = (thread.step.get() as usize).min(recorder.steps);
        let at = step * recorder.width + recorder.first[location.function] + location.index;
        if let Some(visits) = recorder.visits.get_mut(at) {
            if visits.count < 8 {
                visits.masked |= u8::from(masked) << visits.count;
            }
            visits.count = visits.count.saturating_add(1);
        }
    }
}

/// A thread has come to a breakpoint, or has run one instruction after it.
pub(crate) fn on_trap(trap: &mut Trap<'_>) {
    let seat = SEAT.get();
    if seat == CONTROLLER {
        return;
    }
    let state = state();
    let thread = &state.threads[seat];
    let pc = trap.pc();
    let on_its_way = thread.in_kernel.get() && !thread.pending.get();
    if on_its_way && extent_of(pc).is_some_and(|extent| extent.function.on_goroutine_stack()) {
        // Back from the kernel: it has the baton again, and may be sent a signal. One that was
        // sent before is to arrive in the wait.
        trap.context().admit(libc::SIGPROF);
    }
    let masked = trap.blocks(libc::SIGPROF);
    if state.recording() {
        state.visit(seat, pc, masked);
    }
    let Some((address, hits)) = thread.at_instruction.get() else { return };
    if (trap.kind() == TrapKind::Rung && !state.recording()) || trap.kind() == TrapKind::Step {
        // The instruction was run, and its breakpoint comes back.
        trap.set_single_step(false);
        if thread.trap.coming_back.replace(false)
            && let Some(ladder) = ladder()
        {
            ladder.disarm();
        }
        state.arm_at(seat, address);
        return;
    }
    if pc != address {
        return;
    }
    if hits > 1 {
        thread.at_instruction.set(Some((address, hits - 1)));
        if !state.recording() {
            let armed = State::arm_after(address);
            thread.trap.coming_back.set(armed);
            trap.set_single_step(!armed);
        }
        return;
    }
    thread.at_instruction.set(None);
    if let Some(stop) = thread.stop.get() {
        let g = thread.machine.get().and_then(|m| m.current());
        state.note(seat, Event::Stop(stop), g);
    }
    state.fates.held(thread.stop_step.get());
    state.injected.set(Injected { held: state.injected.get().held + 1, ..state.injected.get() });
    thread.trap.masked.set(masked);
    let level = usize::from(masked);
    thread.trap.held[level].set(pc);
    thread.trap.returns_to.set(0);
    if masked {
        thread.trap.held_at.set(now());
    }
    state.held_at_trap(seat);
}
