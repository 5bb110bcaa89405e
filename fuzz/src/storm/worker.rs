//! A thread that operates a machine: endless random work, in lock-step with the record.
//!
//! It does every operation that a schedule's machine has, by the same [`Lockstep`].

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::MutexGuard;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use sigstorm_runtime::gc::mutator::SLOTS;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::syscall::{SystemCall, SystemCalls};
use sigstorm_runtime::{FuncId, G, M};

use super::background::{below, set_rate};
use super::foreign;
use super::seqlock::Shadow;
use super::state::{Stage, Storm};
use super::thread::{Activity, StormThread};
use crate::oracle::check::OwnStack;
use crate::oracle::lockstep::{Collected, can_do};
use crate::oracle::requests::Outstanding;
use crate::oracle::shadow_stack::Value;
use crate::oracle::{Access, Lockstep, ShadowHeap, ShadowStack, ViolationKind};
use crate::schedule::{Goroutine, Op, Work};

/// The program's memory is looked over before one return in so many.
const LOOK_OVER: u32 = 8;
/// A thread turns the rate itself once in so many operations.
const RATE: u32 = 1 << 12;

/// The clock that waits go by.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the record outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A call that comes back at this time.
fn wait_until(time: &libc::timespec) -> SystemCall {
    /// A word that no thread changes or wakes waiters of.
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

/// A thread that operates a machine.
pub(crate) struct Worker<'a> {
    pub(crate) storm: &'static Storm,
    pub(crate) thread: &'static StormThread,
    pub(crate) m: &'static M,
    pub(crate) rng: &'a mut ChaCha8Rng,
    /// The rate that was asked for.
    pub(crate) rate: u32,
    /// Calls out of a hundred calls and returns; drawn anew now and then, so that stacks become deep and shallow
    /// again.
    climb: u32,
    /// The first goroutine that an operation's operand names: all of them are named in turn.
    first_named: usize,
    /// The right to change memory that others can reach, over an operation that does.
    may_write: Option<MutexGuard<'static, ()>>,
    /// The requests that were outstanding as its callback began.
    before_callback: Outstanding,
}

/// How likely a frame of each kind is called, out of a hundred.
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

/// The first draw: the kind of the next operation.
#[derive(Clone, Copy)]
enum Draw {
    CallOrReturn,
    Syscall,
    Foreign,
    Yield,
    Run,
    Park,
    Panic,
    Exit,
    Defer,
    SetPc,
    Recover,
    /// Something for others: making, waking and preempting goroutines, parts of a cycle.
    Assist,
    Memory,
}

/// How likely, out of a thousand.
const DRAWS: [(Draw, u32); 13] = [
    (Draw::CallOrReturn, 580),
    (Draw::Syscall, 40),
    (Draw::Foreign, 30),
    (Draw::Yield, 20),
    (Draw::Run, 10),
    (Draw::Park, 10),
    (Draw::Panic, 40),
    (Draw::Exit, 10),
    (Draw::Defer, 30),
    (Draw::SetPc, 30),
    (Draw::Recover, 20),
    (Draw::Assist, 50),
    (Draw::Memory, 130),
];

impl<'a> Worker<'a> {
    pub(crate) fn new(
        storm: &'static Storm,
        thread: &'static StormThread,
        m: &'static M,
        rng: &'a mut ChaCha8Rng,
        rate: u32,
    ) -> Worker<'a> {
        let before_callback = Outstanding::NONE;
        Worker { storm, thread, m, rng, rate, climb: 55, first_named: 0, may_write: None, before_callback }
    }

    /// Works until the round ends, then returns from every frame and takes what is left.
    pub(crate) fn round(&mut self) {
        while self.storm.stage() == Stage::Blow {
            self.one();
            self.done();
        }
        self.thread.does(Activity::Finish);
        while self.finish() {
            self.done();
            self.thread.does(Activity::Finish);
        }
        self.done();
    }

    /// Between two operations.
    pub(super) fn done(&self) {
        self.thread.ledger.idle();
        self.thread.does(Activity::Between);
        self.thread.counts.operations.one();
    }

    /// The next operation that names a goroutine names this one.
    pub(super) fn names(&mut self, goroutine: usize) {
        self.first_named = goroutine;
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        below(self.rng, bound)
    }

    /// A small number: each further one is half as likely.
    fn few(&mut self, most: u32) -> u32 {
        self.rng.next_u32().trailing_zeros().min(most - 1) + 1
    }

    fn draw<T: Copy>(&mut self, from: &[(T, u32)], otherwise: T) -> T {
        let mut left = self.below(from.iter().map(|(_, weight)| weight).sum());
        for &(what, weight) in from {
            if left < weight {
                return what;
            }
            left -= weight;
        }
        otherwise
    }

    // -- choosing -------------------------------------------------------------------------

    /// One operation.
    pub(super) fn one(&mut self) {
        self.first_named = self.below(self.storm.shadows.len() as u32) as usize;
        if self.goroutine().is_none() {
            return self.without_goroutine();
        }
        if self.below(64) == 0 {
            self.climb = [20, 50, 55, 85][self.below(4) as usize];
        }
        if self.below(RATE) == 0 {
            // Off, it stays so until somebody sets it again: the disturber does before long.
            let op = if self.below(16) == 0 { Op::Rate { on: false } } else { Op::Hz { hz: 100 } };
            let hz = match op {
                Op::Rate { .. } => 0,
                _ => (self.rate / (1 + self.below(2))).max(1),
            };
            set_rate(self.storm, self.thread, op, hz);
        }
        // A deferred call may recover; elsewhere that does nothing.
        let deferred = self.stack(|stack| {
            let frames = stack.frames();
            frames.len() >= 2 && frames[frames.len() - 2].function == FuncId::Gopanic
        });
        let drawn = match deferred && self.below(3) == 0 {
            true => Draw::Recover,
            false => self.draw(&DRAWS, Draw::CallOrReturn),
        };
        let op = self.operation(drawn);
        self.carry_out(op);
    }

    /// A thread without a goroutine takes one, or does something for others.
    fn without_goroutine(&mut self) {
        let wanted = self.first_named;
        if self.below(8) == 0 {
            let op = self.assistance();
            return self.carry_out(op);
        }
        self.thread.does(Activity::Take);
        if !self.take(wanted) {
            // SAFETY: `sched_yield` has no preconditions.
            unsafe { libc::sched_yield() };
        }
    }

    /// An operation of the kind that was drawn, whether it can be done or not.
    fn operation(&mut self, drawn: Draw) -> Op {
        match drawn {
            Draw::CallOrReturn if self.below(100) < self.climb => {
                let kind = self.draw(&KINDS, FuncId::Tiny);
                // Code in no table is short and leaves no frame: seldom interrupted, and called often.
                let times = if kind == FuncId::Leaf { 8 } else { self.few(6) as u8 };
                Op::Call { kind, times }
            }
            Draw::CallOrReturn => Op::Ret { frames: self.few(8) as u8 },
            Draw::Syscall => Op::Syscall,
            Draw::Foreign => Op::Foreign,
            Draw::Yield => Op::Yield,
            Draw::Run => Op::Run { g: Goroutine::G1 },
            Draw::Park => Op::Park,
            Draw::Panic => Op::Panic,
            Draw::Exit => Op::Exit,
            Draw::Defer => Op::Defer,
            Draw::SetPc => Op::SetPc,
            Draw::Recover => Op::Recover,
            Draw::Assist => self.assistance(),
            Draw::Memory => self.memory(),
        }
    }

    fn assistance(&mut self) -> Op {
        let g = Goroutine::G1;
        match self.below(16) {
            0 | 1 => Op::Spawn { g },
            2..7 => Op::Ready { g },
            7..10 => Op::Preempt { g },
            10 | 11 => Op::Scan { g },
            12 => Op::Shrink { g },
            13 => Op::Drain { objects: self.few(8) as u8 },
            14 => Op::Collect { work: [Work::Mark, Work::Term, Work::Sweep][self.below(3) as usize] },
            // The longest stop of the world that there is: rarer than the rest.
            _ if self.below(4) == 0 => Op::Collect { work: Work::Stw },
            _ => Op::Ready { g },
        }
    }

    fn memory(&mut self) -> Op {
        let slots = self.stack(|stack| stack.top().map_or(Default::default(), |frame| frame.slots));
        let mut slot = || ((self.rng.next_u32() >> 16) as usize % SLOTS) as u8;
        let (mut a, b, field) = (slot(), slot(), slot() & 1);
        // A new frame's slots are empty, and few hold an object: that one is taken, so that objects come to point to
        // objects.
        let holds = |slot: &u8| matches!(slots[usize::from(*slot)], Value::Object(_));
        if let Some(held) = (a..SLOTS as u8).chain(0..a).find(holds) {
            a = held;
        }
        let frames = self.few(4) as u8;
        match self.below(100) {
            0..30 => Op::Alloc { slot: b },
            30..45 => Op::Load { dst: b, src: a, field },
            45..60 => Op::Store { obj: a, src: b, field },
            60..68 => Op::Move { dst: b, src: a },
            68..74 => Op::Clear { slot: b },
            74..82 => Op::Up { frames, src: a, dst: b },
            82..88 => Op::Ref { dst: b, frames, to: a },
            88..94 => Op::Send { slot: a },
            _ => Op::Bulk { frames },
        }
    }

    // -- carrying out ---------------------------------------------------------------------

    /// Does it, if it can be done.
    pub(super) fn carry_out(&mut self, op: Op) {
        self.thread.does(Activity::of(op));
        let did = match self.assist(op) {
            Some(did) => did,
            None => self.goroutine().is_some() && self.stack(|stack| can_do(stack, op)) && self.run(op),
        };
        if did {
            self.thread.counts.kinds[op.kind()].one();
        }
    }

    fn run(&mut self, op: Op) -> bool {
        let counts = &self.thread.counts;
        match op {
            Op::Run { .. } => {
                let wanted = self.first_named;
                self.operate(M::yield_now) && self.take(wanted)
            }
            Op::Syscall => {
                counts.syscalls.one();
                self.syscall();
                true
            }
            Op::Foreign => {
                counts.foreign_calls.one();
                self.perform(op)
            }
            Op::Panic | Op::Exit => {
                let did = self.perform(op);
                counts.panics.add(u64::from(did));
                did
            }
            Op::Alloc { .. }
            | Op::Load { .. }
            | Op::Store { .. }
            | Op::Move { .. }
            | Op::Clear { .. }
            | Op::Up { .. }
            | Op::Ref { .. }
            | Op::Send { .. }
            | Op::Bulk { .. } => {
                self.may_write = self.storm.heap.try_write();
                let did = self.may_write.is_some() && self.perform(op);
                self.may_write = None;
                did
            }
            op => self.perform(op),
        }
    }

    /// A moment in the kernel, by the clock: a signal ends the call and not the wait.
    fn syscall(&mut self) {
        self.enter_syscall();
        self.thread.ledger.idle();
        self.thread.does(Activity::InSyscall);
        let until = match self.below(6) {
            0 => Some(now() + Duration::from_micros(u64::from(self.below(300)))),
            _ => None,
        };
        let until = until.map(|until| libc::timespec {
            tv_sec: until.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(until.subsec_nanos()),
        });
        let calls = until.as_ref().and_then(|until| SystemCalls::new(&[wait_until(until)]));
        // SAFETY: the calls ask for a number, or wait on a word of this function until a time that lies in it as
        // well; neither changes anything.
        let made = unsafe { self.leave_syscall(&calls.unwrap_or(SystemCalls::HARMLESS)) };
        match made {
            Some(made) => self.thread.counts.interrupted_calls.add(made.interrupted as u64),
            None => self.fail(ViolationKind::Harness("a system call was not made")),
        }
    }

    /// Foreign code asks for its next action. Returns whether it calls back in.
    pub(super) fn next_in_foreign_code(&mut self, max_callbacks: usize) -> bool {
        self.thread.runs_on_own_stack(OwnStack::Foreign);
        self.entered_foreign_code();
        self.thread.ledger.idle();
        self.thread.does(Activity::InForeignCode);
        for _ in 0..self.below(200) {
            core::hint::spin_loop();
        }
        let may = self.storm.stage() == Stage::Blow && self.stack(ShadowStack::callbacks) < max_callbacks;
        let calls_back = may && self.below(2) == 0;
        if calls_back {
            self.thread.counts.callbacks.one();
            self.thread.counts.kinds[Op::Callback.kind()].one();
        }
        self.thread.runs_on_own_stack(OwnStack::MaybeForeign);
        self.before_callback = self.leaves_foreign_code(calls_back);
        calls_back
    }

    /// The callback's frame asks. Works until that frame has returned.
    pub(super) fn called_back(&mut self) {
        self.thread.runs_on_own_stack(OwnStack::Runtime);
        let before = self.before_callback;
        self.called(FuncId::Callback, before);
        let callbacks = self.stack(ShadowStack::callbacks);
        while self.stack(ShadowStack::callbacks) == callbacks {
            if self.storm.stage() == Stage::Blow {
                self.one();
            } else {
                self.thread.does(Activity::Finish);
                self.ret();
            }
            self.done();
        }
        self.thread.runs_on_own_stack(OwnStack::MaybeForeign);
    }

    fn shadow(&self) -> &'static Shadow {
        match self.thread.goroutine() {
            Some(index) => &self.storm.shadows[index],
            None => {
                self.storm.fail(self.thread, ViolationKind::Harness("an operation without a goroutine"));
            }
        }
    }
}

impl Access for Worker<'_> {
    const EXACT: bool = false;

    fn machine(&self) -> &'static M {
        self.m
    }

    fn goroutine(&mut self) -> Option<usize> {
        self.thread.goroutine()
    }

    fn named(&self, goroutine: Goroutine) -> usize {
        (usize::from(goroutine.code()) + self.first_named) % self.storm.shadows.len()
    }

    fn stack<R>(&mut self, look: impl FnOnce(&ShadowStack) -> R) -> R {
        // SAFETY: this thread runs it.
        match unsafe { self.shadow().look(look) } {
            Some(seen) => seen,
            None => self.fail(ViolationKind::Harness("a shadow stack is left half-written")),
        }
    }

    fn change<R>(&mut self, change: impl FnOnce(&mut ShadowStack) -> R) -> R {
        // SAFETY: this thread runs it, and is not in its handler.
        unsafe { self.shadow().change(change) }
    }

    fn change_memory<R>(&mut self, change: impl FnOnce(&mut ShadowStack, &mut ShadowHeap) -> R) -> R {
        debug_assert!(self.may_write.is_some(), "memory is changed without the right to");
        let heap = &self.storm.heap;
        // SAFETY: this thread runs it, has the right to change memory, and is not in its handler.
        unsafe { self.shadow().change(|stack| heap.change(|heap| change(stack, heap))) }
    }

    fn operate<R>(&mut self, operation: impl FnOnce(&'static M) -> R) -> R {
        self.thread.progresses();
        operation(self.m)
    }

    fn takes(&mut self, g: &'static G) -> bool {
        let free = [status::IDLE, status::RUNNABLE, status::DEAD];
        if !free.contains(&(g.status.get() & !status::SCAN)) {
            return false;
        }
        self.thread.taking.store(true, Ordering::Relaxed);
        let taken = self.operate(|m| m.take(g));
        self.thread.taking.store(false, Ordering::Relaxed);
        taken
    }

    fn outstanding(&mut self) -> Outstanding {
        self.shadow().requests.outstanding()
    }

    fn are_honoured(&mut self, before: Outstanding) -> bool {
        let requests = &self.shadow().requests;
        requests.are_honoured(before, || self.stack(ShadowStack::is_in_foreign_call))
    }

    fn begins_to_request(&mut self, goroutine: usize) {
        let requests = &self.storm.shadows[goroutine].requests;
        let [named, scan, yields] = &self.thread.requesting;
        named.store(goroutine as u32, Ordering::Relaxed);
        scan.store(requests.scan.generation(), Ordering::Relaxed);
        yields.store(requests.yields.generation(), Ordering::Relaxed);
    }

    fn saved_state(&mut self, is_right: impl Fn(&ShadowStack, usize, usize) -> bool) -> bool {
        let (Some(g), shadow) = (self.m.current(), self.shadow()) else { return false };
        loop {
            // A collector may stop the world and move this stack at any moment.
            let place = shadow.place();
            let (pc, below) = (g.sched.pc.get(), g.stack.top.get().wrapping_sub(g.sched.sp.get()));
            if place.is_some() && shadow.place() == place {
                return self.stack(|stack| is_right(stack, pc, below));
            }
            if self.storm.frozen.load(Ordering::Relaxed) {
                self.thread.park();
            }
            core::hint::spin_loop();
        }
    }

    fn slots_hold(&mut self) -> bool {
        if self.below(LOOK_OVER) != 0 {
            return true;
        }
        // Away from the safepoint, so that nobody moves the stack meanwhile.
        let Some((found, top)) = self.m.frame_slots(0) else { return true };
        let heap = self.storm.core.heap();
        self.stack(|stack| {
            let slots = stack.top().map_or(Default::default(), |frame| frame.slots);
            let held = |(value, found)| stack.is_held(value, |at| heap.index(at), top, found);
            slots.into_iter().zip(found).all(held)
        })
    }

    fn recovers_to(&mut self, body: usize) {
        self.thread.recovers_to.store(body, Ordering::Relaxed);
    }

    fn collect(&mut self, scans: Option<usize>, operation: impl FnOnce(&'static M) -> bool) -> Collected {
        let (storm, thread) = (self.storm, self.thread);
        let before = thread.own_stack();
        thread.runs_on_own_stack(OwnStack::MaybeCollector);
        let begun = scans.map(|index| (index, storm.cycle.scan_begins(storm.core, index)));
        let did = self.operate(operation);
        thread.runs_on_own_stack(before);
        let passed_over =
            !did && begun.is_some_and(|(index, begun)| storm.cycle.is_passed_over(storm.core, index, begun));
        Collected { did, passed_over }
    }

    fn call_foreign(&mut self) {
        self.thread.locked_to_goroutine.store(true, Ordering::Relaxed);
        foreign::call(self);
        let still = self.stack(ShadowStack::callbacks) != 0;
        self.thread.locked_to_goroutine.store(still, Ordering::Relaxed);
    }

    fn fail(&mut self, kind: ViolationKind) -> ! {
        self.storm.fail(self.thread, kind)
    }
}
