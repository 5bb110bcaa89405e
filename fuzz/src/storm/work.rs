//! A thread that runs goroutines: endless random work, and the truth that goes along.
//!
//! What is pending is told to the truth before the core is told to do it, and settled when
//! the core is back; what an operation takes away from memory leaves the truth before it, and
//! what it adds comes after it (see [`super::cell`]).

use core::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use sigstorm_runtime::gc::mutator::SLOTS;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::panic::Unwind;
use sigstorm_runtime::sched::syscall::{SystemCall, SystemCalls};
use sigstorm_runtime::{FuncId, M, RunResult};

use super::cell::{HeapWriter, TruthCell};
use super::others;
use super::seat::{Doing, Seat};
use super::state::{Stage, Storm, Trouble};
use crate::executor::truth::{Pending, SavedAt, Truth, Value};

/// What a deferred call calls.
const DEFERRED: FuncId = FuncId::Tiny;
/// Most often that the program's memory is looked over: once in so many operations.
const LOOK_OVER: u32 = 16;

/// The clock that waits go by.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the record outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A call that comes back at this time.
fn wait_until(time: &libc::timespec) -> SystemCall {
    /// Nobody changes it and nobody wakes who waits for it.
    static NOTHING: AtomicU32 = AtomicU32::new(0);
    SystemCall {
        number: libc::SYS_futex as usize,
        args: [
            NOTHING.as_ptr() as usize,
            (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as usize,
            0,
            core::ptr::from_ref(time) as usize,
            0,
            libc::FUTEX_BITSET_MATCH_ANY as usize,
        ],
    }
}

/// A thread that runs goroutines.
pub(crate) struct Worker<'a> {
    pub(crate) storm: &'static Storm,
    pub(crate) seat: &'static Seat,
    pub(crate) m: &'static M,
    pub(crate) rng: &'a mut ChaCha8Rng,
    /// The rate that was asked for.
    pub(crate) rate: u32,
    /// Calls out of a hundred calls and returns; drawn anew now and then, so that stacks
    /// become deep and shallow again.
    pub(crate) climb: u32,
}

/// A thread turns the rate itself once in so many operations.
const RATE: u32 = 1 << 12;

/// What a kind of frame is called for, out of a hundred.
const KINDS: [(FuncId, u32); 8] = [
    (FuncId::Tiny, 20),
    (FuncId::Small, 24),
    (FuncId::Medium, 16),
    (FuncId::Large, 10),
    (FuncId::Huge, 3),
    (FuncId::Nosplit, 8),
    (FuncId::Deferring, 12),
    (FuncId::Leaf, 7),
];

impl Worker<'_> {
    /// Works until the round ends, then returns from every frame and takes what is left.
    pub(crate) fn round(&mut self) {
        while self.storm.stage() == Stage::Blow {
            self.one();
            self.done();
        }
        loop {
            while self.seat.goroutine().is_some() && self.ret() {
                self.done();
            }
            self.done();
            let left = |index: &usize| {
                self.storm.core.goroutines()[*index].status.get() & !status::SCAN == status::RUNNABLE
            };
            match (0..self.storm.truths.len()).find(left) {
                Some(index) => drop(self.take(index)),
                None => return,
            }
        }
    }

    /// Between two operations.
    pub(super) fn done(&self) {
        self.seat.ledger.idle();
        self.seat.does(Doing::Between);
        self.seat.counts.operations.one();
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.rng.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// A small number: each further one is half as likely.
    fn few(&mut self, most: u32) -> u32 {
        self.rng.next_u32().trailing_zeros().min(most - 1) + 1
    }

    fn slot(&mut self) -> usize {
        self.below(SLOTS as u32) as usize
    }

    // -- the truth ----------------------------------------------------------------------

    fn cell(&self) -> &'static TruthCell {
        match self.seat.goroutine() {
            Some(index) => &self.storm.truths[index],
            None => self.storm.fail(self.seat, Trouble::Harness("an operation without a goroutine")),
        }
    }

    pub(super) fn update<R>(&self, change: impl FnOnce(&mut Truth) -> R) -> R {
        // SAFETY: this thread runs it, and is not in its handler.
        unsafe { self.cell().update(change) }
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&Truth) -> R) -> R {
        // SAFETY: this thread runs it.
        match unsafe { self.cell().look(look) } {
            Some(seen) => seen,
            None => self.storm.fail(self.seat, Trouble::Harness("a truth is left half-written")),
        }
    }

    fn set_slot(&self, up: usize, slot: usize, value: Value) {
        self.update(|truth| {
            if let Some(frame) = truth.frame(up) {
                frame.slots[slot] = value;
            }
        });
    }

    fn slots(&self) -> [Value; SLOTS] {
        self.look(|truth| truth.top().map_or([Value::Nil; SLOTS], |frame| frame.slots))
    }

    // -- goroutines -----------------------------------------------------------------------

    /// One operation.
    pub(super) fn one(&mut self) {
        if self.seat.goroutine().is_none() {
            let goroutines = self.storm.truths.len() as u32;
            let index = self.below(goroutines) as usize;
            if !self.take(index) {
                // SAFETY: `sched_yield` has no preconditions.
                unsafe { libc::sched_yield() };
            }
            return;
        }
        if self.below(64) == 0 {
            self.climb = [20, 50, 55, 85][self.below(4) as usize];
        }
        if self.below(LOOK_OVER) == 0 {
            self.look_over();
        }
        if self.below(RATE) == 0 {
            let rate = (self.rate / (1 + self.below(2))).max(1);
            others::set_rate(self.storm, rate);
        }
        // A deferred call may recover; elsewhere that does nothing.
        let deferred = self.look(|truth| {
            let frames = truth.frames();
            frames.len() >= 2 && frames[frames.len() - 2].function == FuncId::Gopanic
        });
        if deferred && self.below(3) == 0 {
            self.seat.does(Doing::Recover);
            self.agree(
                self.m.recover() == self.update(Truth::recovers),
                "a deferred call and no other recovers the panic that made it",
            );
            return;
        }
        match self.below(100) {
            0..60 if self.below(100) < self.climb => {
                for _ in 0..self.few(6) {
                    let kind = self.kind();
                    if self.look(|truth| truth.can_call(kind)) {
                        self.call(kind);
                    }
                }
            }
            0..60 => {
                for _ in 0..self.few(8) {
                    if !self.ret() {
                        break;
                    }
                }
            }
            60..64 => self.syscall(),
            64..67 => super::foreign::call(self),
            67..70 => {
                self.seat.does(Doing::Yield);
                self.m.yield_now();
            }
            70..74 => self.panic(false),
            // Foreign code would have nobody to return to.
            74 if !self.look(Truth::is_in_foreign_call) => self.panic(true),
            75..78 => {
                if self.look(|truth| truth.top().is_some_and(|f| f.function == FuncId::Deferring)) {
                    self.defer();
                }
            }
            _ => self.memory(),
        }
    }

    fn kind(&mut self) -> FuncId {
        let mut left = self.below(KINDS.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in KINDS {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        FuncId::Tiny
    }

    fn take(&self, index: usize) -> bool {
        let g = &self.storm.core.goroutines()[index];
        let free = [status::IDLE, status::RUNNABLE, status::DEAD];
        if !free.contains(&(g.status.get() & !status::SCAN)) {
            return false;
        }
        self.seat.does(Doing::Take);
        self.seat.taking.store(true, Ordering::Relaxed);
        let taken = self.m.take(g);
        self.seat.taking.store(false, Ordering::Relaxed);
        if taken && self.look(|truth| truth.saved_at == SavedAt::Start) {
            // Through its first instructions, to its first ask.
            self.update(|truth| truth.pending = Pending::Continue);
            self.m.ret();
            self.update(Truth::settled);
        }
        taken
    }

    fn call(&self, kind: FuncId) {
        self.seat.does(Doing::Call);
        self.update(|truth| truth.pending = Pending::Call(kind));
        self.m.call(kind);
        self.update(Truth::called);
        if kind == FuncId::Deferring {
            self.defer();
        }
    }

    fn defer(&self) {
        let did = self.m.defer(DEFERRED);
        self.agree(self.update(|truth| truth.defers(did)), "a call is not deferred, and there is room");
    }

    /// Ends the storm where the core does not do as the language has it.
    fn agree(&self, does: bool, what: &'static str) {
        if !does {
            self.storm.fail(self.seat, Trouble::Memory(what));
        }
    }

    /// Returns from the innermost frame, or makes the deferred call that comes before. False
    /// once the goroutine has ended.
    pub(super) fn ret(&self) -> bool {
        self.seat.does(Doing::Return);
        if self.look(|truth| truth.top().is_some_and(|f| f.function == FuncId::Deferring)) {
            let deferred = self.m.deferred_before_return();
            let right = self.update(Truth::defers_before_return).then_some(DEFERRED);
            self.agree(
                deferred == right,
                "a frame does not run what it has deferred, once, before it returns",
            );
            if let Some(deferred) = deferred {
                self.call(deferred);
                return true;
            }
        }
        self.update(|truth| {
            if let Some(frame) = truth.frame(0) {
                frame.slots = Default::default();
            }
            truth.pending = Pending::Return;
        });
        match self.m.ret() {
            RunResult::Exited => false,
            // A callback's frame: what comes next is foreign code's to say.
            RunResult::InForeign => {
                self.update(Truth::returned);
                false
            }
            _ => {
                self.update(Truth::returned);
                self.unwind()
            }
        }
    }

    fn syscall(&mut self) {
        if !self.look(|truth| truth.can_call(FuncId::Syscall)) {
            return;
        }
        self.seat.does(Doing::Syscall);
        self.seat.counts.syscalls.one();
        self.update(|truth| truth.pending = Pending::Call(FuncId::Syscall));
        self.m.call(FuncId::Syscall);
        self.update(Truth::called);
        self.seat.ledger.idle();
        self.seat.does(Doing::InSyscall);
        self.update(|truth| truth.pending = Pending::Return);
        // A moment in the kernel, by the clock: a signal ends the call and not the wait.
        let until = match self.below(6) {
            0 => Some(now() + Duration::from_micros(u64::from(self.below(300)))),
            _ => None,
        };
        let until = until.map(|until| libc::timespec {
            tv_sec: until.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(until.subsec_nanos()),
        });
        let calls = until.as_ref().and_then(|until| SystemCalls::new(&[wait_until(until)]));
        // SAFETY: the calls ask for a number, or wait on a word of this function until a time
        // that lies in it as well; neither changes anything.
        let made = unsafe { self.m.make_syscalls(&calls.unwrap_or(SystemCalls::HARMLESS)) };
        self.seat.does(Doing::Syscall);
        match made {
            Some(made) => self.seat.counts.interrupted_calls.add(made.interrupted as u64),
            None => self.storm.fail(self.seat, Trouble::Harness("a system call was not made")),
        }
        self.update(Truth::returned);
    }

    fn panic(&self, exits: bool) {
        if !self.look(|truth| truth.can_call(FuncId::Gopanic)) {
            return;
        }
        self.seat.does(Doing::Panic);
        let frame = if exits { FuncId::Goexit } else { FuncId::Gopanic };
        let can = self.look(|truth| truth.can_panic(exits));
        self.update(|truth| truth.pending = Pending::Call(frame));
        let begun = self.m.panic(exits).is_some();
        self.agree(begun == can, "a panic begins where none can, or does not where one can");
        if begun {
            self.seat.counts.panics.one();
            self.update(Truth::called);
            self.unwind();
        } else {
            self.update(Truth::settled);
        }
    }

    /// Where a panicking frame asks, answers it, until a frame asks that is to do something of
    /// its own. False once the goroutine has ended.
    fn unwind(&self) -> bool {
        loop {
            match self.look(|truth| truth.top().map(|f| f.function)) {
                Some(FuncId::Gopanic | FuncId::Goexit) => {}
                Some(_) => return true,
                None => return false,
            }
            self.seat.does(Doing::Panic);
            let next = self.m.unwind_next();
            let right = self.update(|truth| truth.unwinds(DEFERRED));
            self.agree(
                next == right,
                "a panic does not go on with the next deferred call, or to its landing",
            );
            match next {
                Unwind::Call(function) => self.call(function),
                Unwind::End => {
                    self.m.end();
                    return false;
                }
                Unwind::Recover { below } => {
                    self.seat.recovers_to.store(below, Ordering::Relaxed);
                    self.m.recovery(below);
                    // It went on from the landing to its ask.
                    self.update(Truth::settled);
                }
            }
        }
    }

    // -- the program's memory ---------------------------------------------------------------

    fn memory(&mut self) {
        let Some(heap) = self.storm.heap.try_write() else { return };
        self.seat.does(Doing::Memory);
        let slots = self.slots();
        let (a, b, field) = (self.slot(), self.slot(), self.below(2) as usize);
        let up = self.few(4) as usize;
        let object = |slot: usize| match slots[slot] {
            Value::Object(index) => Some(usize::from(index)),
            _ => None,
        };
        let did = match (self.below(100), object(a)) {
            (0..30, _) => return self.alloc(&heap, a),
            (30..45, Some(index)) => {
                self.set_slot(0, b, Value::Nil);
                let did = self.m.load(b, a, field);
                let value = heap.update(|heap| heap.fields[index][field]);
                self.set_slot(0, b, value);
                did
            }
            (45..60, Some(index)) if !slots[b].is_up() => {
                heap.update(|heap| heap.fields[index][field] = Value::Nil);
                let did = self.m.store(a, field, b);
                heap.update(|heap| heap.fields[index][field] = slots[b]);
                did
            }
            (60..68, _) => {
                self.set_slot(0, b, Value::Nil);
                let did = self.m.copy(b, a);
                self.set_slot(0, b, slots[a]);
                did
            }
            (68..74, _) => {
                self.set_slot(0, a, Value::Nil);
                self.m.clear(a)
            }
            (74..82, _) if !slots[a].is_up() && self.look(|truth| truth.has_slots(up)) => {
                self.set_slot(up, b, Value::Nil);
                let did = self.m.write_up(up, b, a);
                self.set_slot(up, b, slots[a]);
                did
            }
            (82..88, _) if self.look(|truth| truth.has_slots(up)) => {
                self.set_slot(0, a, Value::Nil);
                let did = self.m.refer(a, up, b);
                self.set_slot(0, a, self.look(|truth| truth.points_to(up, b)));
                did
            }
            (88..94, Some(_)) => {
                self.set_slot(0, a, Value::Nil);
                heap.update(|heap| heap.mailbox[a] = Value::Nil);
                let did = self.m.send(a, a);
                heap.update(|heap| heap.mailbox[a] = slots[a]);
                did
            }
            (94.., _) if self.look(|truth| truth.has_slots(up)) => {
                let moved = heap.update(|heap| core::mem::take(&mut heap.mailbox));
                (0..SLOTS).for_each(|slot| self.set_slot(up, slot, Value::Nil));
                let did = self.m.bulk_move(up);
                (0..SLOTS).for_each(|slot| self.set_slot(up, slot, moved[slot]));
                did
            }
            _ => return,
        };
        if !did {
            self.storm.fail(self.seat, Trouble::Memory("a slot does not hold what was written there"));
        }
    }

    fn alloc(&self, heap: &HeapWriter<'_>, slot: usize) {
        let before = self.slots()[slot];
        self.set_slot(0, slot, Value::Nil);
        match self.m.alloc(slot) {
            Some(index) => {
                heap.update(|heap| heap.fields[index] = Default::default());
                self.set_slot(0, slot, Value::Object(index as u8));
            }
            // The heap is full, and nothing was written.
            None => self.set_slot(0, slot, before),
        }
    }

    /// Whether the innermost frame holds what the program wrote there. Between two operations
    /// the collector may stop the world and move this stack; what was read then says nothing.
    fn look_over(&self) {
        let Some(g) = self.m.current() else { return };
        let core = self.storm.core;
        let copies = core.copies();
        if core.world().stopping() {
            return;
        }
        let slots = self.slots();
        let wrong = slots.into_iter().enumerate().any(|(slot, value)| {
            let Some(found) = self.m.slot_value(0, slot) else { return false };
            !self.look(|truth| truth.is_held(value, |at| core.heap().index(at), g.stack.top.get(), found))
        });
        // A copy that is under way has the world stopped; one that is over was counted.
        if wrong && !core.world().stopping() && core.copies() == copies {
            self.storm.fail(self.seat, Trouble::Memory("a slot does not hold what was written there"));
        }
    }
}
