//! Carries out operations on the runtime and on the record of it in lock-step, and compares.
//!
//! A pending transition is recorded before the runtime is told to make it, and settled once the
//! runtime is back. At each step the runtime must do as the program does: a frame asks where the
//! shadow stack says, a deferred call runs when it is due, a request is honoured in the next
//! prologue.
//!
//! # Who may look meanwhile
//!
//! [`Access`] hides how the record is reached. Under the baton a thread is alone with it whenever it
//! looks, and the record changes together with the runtime as far as anybody can see
//! ([`Access::EXACT`]). In a storm the collector may look between an operation and the change of the
//! record that goes with it. So there the record first forgets what the operation takes away, and
//! learns what it adds after it: at any instant what the record can reach is a part of what memory
//! can reach.

use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::panic::Unwind;
use sigstorm_runtime::sched::syscall::{Made, SystemCalls};
use sigstorm_runtime::{FuncId, G, M, RunResult};

use super::requests::Outstanding;
use super::shadow_heap::ShadowHeap;
use super::shadow_stack::{Pending, SavedAt, ShadowStack, Value};
use super::violation::ViolationKind;
use crate::schedule::{Goroutine, Op, Work};

/// The function that a deferred call calls.
const DEFERRED: FuncId = FuncId::Tiny;

/// A goroutine that is dropped ended or goes on, and should not.
pub(crate) const WRONG_END: ViolationKind =
    ViolationKind::Memory("a goroutine ends that has frames left, or goes on and has none");

const SLOT_LOST: ViolationKind = ViolationKind::Memory("a slot does not hold what was written there");

/// How a thread that operates a machine reaches the record, and the machine.
pub(crate) trait Access {
    /// Whether nobody else looks between an operation and the change of the record that goes with it.
    const EXACT: bool;

    /// The thread's machine.
    fn machine(&self) -> &'static M;

    /// The goroutine that the thread runs, by index.
    fn goroutine(&mut self) -> Option<usize>;

    /// The index of the goroutine that an operation names.
    fn named(&self, goroutine: Goroutine) -> usize;

    /// Looks at the shadow stack of the goroutine that the thread runs.
    fn stack<R>(&mut self, look: impl FnOnce(&ShadowStack) -> R) -> R;

    /// Changes the shadow stack of the goroutine that the thread runs.
    fn change<R>(&mut self, change: impl FnOnce(&mut ShadowStack) -> R) -> R;

    /// Changes that shadow stack and the shadow heap. Called only from [`Lockstep::mutate`].
    fn change_memory<R>(&mut self, change: impl FnOnce(&mut ShadowStack, &mut ShadowHeap) -> R) -> R;

    /// Has the machine do something.
    fn operate<R>(&mut self, operation: impl FnOnce(&'static M) -> R) -> R;

    /// Has the machine take a goroutine. Whether it was to be had.
    fn takes(&mut self, g: &'static G) -> bool;

    /// The requests to the thread's goroutine that are outstanding.
    fn outstanding(&mut self) -> Outstanding;

    /// Whether those that were outstanding before are honoured.
    fn are_honoured(&mut self, before: Outstanding) -> bool;

    /// The thread is about to request something of this goroutine.
    fn begins_to_request(&mut self, goroutine: usize);

    /// Whether the saved state of the thread's goroutine, PC and SP as distance below the top, is one
    /// that `is_right` accepts.
    fn saved_state(&mut self, is_right: impl Fn(&ShadowStack, usize, usize) -> bool) -> bool;

    /// Whether the innermost frame's slots hold what was written to them, as far as can be said.
    fn slots_hold(&mut self) -> bool;

    /// The recovery that begins lands in the frame with this body.
    fn recovers_to(&mut self, body: usize);

    /// Runs an operation of the collector, and says whether it passed over `scans`.
    fn collect(&mut self, scans: Option<usize>, operation: impl FnOnce(&'static M) -> bool) -> Collected;

    /// Makes a foreign call, whose driver comes back to this thread's [`Lockstep`].
    fn call_foreign(&mut self);

    /// Ends the run with a violation.
    fn fail(&mut self, kind: ViolationKind) -> !;
}

/// The outcome of an operation of the collector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Collected {
    /// Whether it had an effect.
    pub(crate) did: bool,
    /// Whether the goroutine that was to be scanned was passed over.
    pub(crate) passed_over: bool,
}

/// Whether a goroutine with this shadow stack can do this. Whether the mailbox is in use is not looked at,
/// nor whether a goroutine that is named is to be had.
#[inline]
pub(crate) fn can_do(stack: &ShadowStack, op: Op) -> bool {
    let Some(top) = stack.top() else { return false };
    let slot = |slot: u8| top.slots[usize::from(slot)];
    let object = |s: u8| matches!(slot(s), Value::Object(_));
    // With foreign frames on its thread's stack a goroutine stays there, and does not end.
    let is_free = || !stack.is_in_foreign_call();
    match op {
        Op::Run { .. } | Op::Yield | Op::Park => is_free(),
        Op::Call { kind, .. } => stack.can_call(kind),
        Op::Syscall => stack.can_call(FuncId::Syscall),
        Op::Foreign => stack.can_call(FuncId::Cgocall),
        Op::Ret { .. } | Op::Alloc { .. } | Op::Clear { .. } | Op::Move { .. } => true,
        Op::Panic => stack.can_call(FuncId::Gopanic),
        Op::Exit => is_free() && stack.can_call(FuncId::Goexit),
        Op::Recover => stack.is_panicking(),
        Op::Defer => top.function == FuncId::Deferring,
        Op::SetPc => stack.can_set_pc(),
        Op::Load { src, .. } => object(src),
        Op::Store { obj, src, .. } => object(obj) && !slot(src).is_up(),
        Op::Up { frames, src, .. } => stack.has_slots(usize::from(frames)) && !slot(src).is_up(),
        Op::Ref { frames, .. } | Op::Bulk { frames } => stack.has_slots(usize::from(frames)),
        Op::Send { slot } => object(slot),
        _ => false,
    }
}

/// Whether an operation moves something into the mailbox or out of it.
pub(crate) fn uses_mailbox(op: Op) -> bool {
    matches!(op, Op::Bulk { .. } | Op::Send { .. })
}

/// The part of a cycle that an operation is, by the collector's own name.
pub(crate) fn part_of_cycle(op: Op) -> Op {
    match op {
        Op::Collect { work: Work::Mark } => Op::Mark,
        Op::Collect { work: Work::Term } => Op::Term,
        Op::Collect { work: Work::Sweep } => Op::Sweep,
        Op::Collect { work: Work::Stw } => Op::Stw,
        other => other,
    }
}

/// A bulk move is done: the mailbox is on the frame `up` levels above the innermost. To be called at
/// `BulkDone`, where the move is the runtime's last.
pub(crate) fn bulk_moved(stack: &mut ShadowStack, heap: &mut ShadowHeap, up: usize) {
    let mailbox = core::mem::take(&mut heap.mailbox);
    if let Some(frame) = stack.frame(up) {
        frame.slots = mailbox;
    }
    stack.written();
}

/// The place that an operation of the program writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination {
    /// Slots of the frame `up` levels above the innermost, a bit each.
    Slots { up: usize, slots: u8 },
    /// A field of an object.
    Field { object: usize, field: usize },
    /// A place of the mailbox, and the own slot that it comes from.
    Mailbox { place: usize },
}

/// The operations. Each says whether it had an effect, or whether the goroutine is still the thread's.
pub(crate) trait Lockstep: Access {
    /// Carries out an operation that the machine does for others, with or without a goroutine of its own.
    /// None where `op` is nothing of the kind, else whether it had an effect.
    fn assist(&mut self, op: Op) -> Option<bool> {
        let core = self.machine().runtime;
        let op = part_of_cycle(op);
        let index = match op {
            Op::Spawn { g } | Op::Ready { g } | Op::Preempt { g } | Op::Scan { g } | Op::Shrink { g } => {
                self.named(g)
            }
            _ => 0,
        };
        let g: &'static G = &core.goroutines()[index];
        let collected = match op {
            Op::Spawn { .. } => return Some(self.operate(|m| m.spawn(g))),
            Op::Ready { .. } => return Some(self.operate(|m| m.ready(g))),
            Op::Preempt { .. } => {
                self.begins_to_request(index);
                return Some(self.operate(|m| m.preempt(g)));
            }
            Op::Scan { .. } => {
                self.begins_to_request(index);
                self.collect(Some(index), |m| m.gc_scan(g))
            }
            Op::Mark => self.collect(None, M::gc_mark),
            Op::Drain { objects } => self.collect(None, |m| m.gc_drain(usize::from(objects))),
            Op::Term => self.collect(None, M::gc_terminate),
            Op::Sweep => self.collect(None, M::gc_sweep),
            Op::Shrink { .. } => self.collect(None, |m| m.gc_shrink(g)),
            Op::Stw => self.collect(None, M::gc_stop_the_world),
            _ => return None,
        };
        if collected.passed_over {
            self.fail(ViolationKind::Memory("a stack that this cycle has not scanned is passed over"));
        }
        Some(collected.did)
    }

    /// The goroutine that the thread runs does this. Whether it had an effect.
    fn perform(&mut self, op: Op) -> bool {
        match op {
            Op::Call { kind, times } => {
                for _ in 0..times {
                    if !self.stack(|stack| stack.can_call(kind)) || !self.call(kind) {
                        break;
                    }
                }
                true
            }
            Op::Ret { frames } => {
                for _ in 0..frames {
                    if !self.ret() {
                        break;
                    }
                }
                true
            }
            Op::Foreign => {
                if self.stack(|stack| stack.can_call(FuncId::Cgocall)) {
                    self.change(|stack| stack.pending = Pending::Call(FuncId::Cgocall));
                    self.call_foreign();
                    self.change(ShadowStack::returned);
                }
                true
            }
            Op::Yield => self.operate(M::yield_now),
            Op::Park => self.operate(M::park),
            Op::SetPc => {
                if !self.operate(M::set_caller_pc) {
                    self.fail(ViolationKind::Memory("a return slot does not hold what a call put there"));
                }
                true
            }
            Op::Panic => self.panic(false),
            Op::Exit => self.panic(true),
            Op::Recover => {
                let did = self.operate(M::recover);
                if did != self.change(ShadowStack::recovers) {
                    self.fail(ViolationKind::Memory(
                        "a deferred call and no other recovers the panic that made it",
                    ));
                }
                did
            }
            Op::Defer => self.defer(),
            other => self.mutate(other),
        }
    }

    // -- goroutines -----------------------------------------------------------------------

    /// Takes goroutine `index` and brings it to where it asks. Whether it was to be had; it may have been
    /// dropped again since.
    fn take(&mut self, index: usize) -> bool {
        let core = self.machine().runtime;
        if !self.takes(&core.goroutines()[index]) {
            return false;
        }
        let (saved_at, pending) = self.stack(|stack| (stack.saved_at, stack.pending));
        if saved_at == SavedAt::Start {
            // Through its first instructions, to its first ask.
            self.change(|stack| stack.pending = Pending::Continue);
            self.operate(M::ret);
            self.change(ShadowStack::settled);
            self.check_ask();
        } else if let Pending::Call(kind) = pending {
            // It was dropped in that call's prologue, which begins again.
            let before = self.outstanding();
            let left = self.operate(M::proceed);
            self.arrived(kind, left, before);
        }
        true
    }

    /// The innermost frame calls. Returns false where the thread has no goroutine any more.
    fn call(&mut self, kind: FuncId) -> bool {
        self.change(|stack| stack.pending = Pending::Call(kind));
        let before = self.outstanding();
        let left = self.operate(|m| m.call(kind));
        self.arrived(kind, left, before)
    }

    /// The callee asks; or the goroutine was dropped in its prologue, and the call stays pending for
    /// the thread that takes it. Returns false where the thread has no goroutine any more.
    fn arrived(&mut self, kind: FuncId, left: RunResult, before: Outstanding) -> bool {
        if left == RunResult::Preempted {
            return false;
        }
        self.called(kind, before);
        self.check_ask();
        if kind == FuncId::Deferring {
            self.defer();
        }
        !matches!(kind, FuncId::Gopanic | FuncId::Goexit) || self.unwind()
    }

    /// The pending call of `kind` has happened; `before` are the requests that were outstanding as it began.
    fn called(&mut self, kind: FuncId, before: Outstanding) {
        if ShadowStack::has_preemptible_prologue(kind) && !self.are_honoured(before) {
            self.fail(ViolationKind::Memory(
                "what was asked of a goroutine is not done in its next prologue",
            ));
        }
        self.change(ShadowStack::called);
    }

    /// The innermost frame asks: it must be the one that the shadow stack has there, where it has it.
    fn check_ask(&mut self) {
        if !self.saved_state(ShadowStack::asks) {
            self.fail(ViolationKind::Memory("a call or a return has gone elsewhere"));
        }
        // Nobody changes the status of a goroutine that runs but its own thread.
        if self.machine().current().is_some_and(|g| g.status.get() != status::RUNNING) {
            self.fail(ViolationKind::Memory("a frame asks, and its goroutine does not count as running"));
        }
    }

    /// The innermost frame defers a call. Returns false where there is no room for another.
    fn defer(&mut self) -> bool {
        let did = self.operate(|m| m.defer(DEFERRED));
        if !self.change(|stack| stack.defers(did)) {
            self.fail(ViolationKind::Memory("a call is not deferred, and there is room"));
        }
        did
    }

    /// Returns from the innermost frame, or makes the deferred call that comes before. Returns false once the
    /// goroutine has ended, was dropped, or foreign code is to say what comes next.
    fn ret(&mut self) -> bool {
        if self.stack(|stack| stack.top().is_some_and(|f| f.function == FuncId::Deferring)) {
            let deferred = self.operate(M::deferred_before_return);
            if deferred != self.change(ShadowStack::defers_before_return).then_some(DEFERRED) {
                self.fail(ViolationKind::Memory(
                    "a frame does not run what it has deferred, once, before it returns",
                ));
            }
            if let Some(deferred) = deferred {
                return self.call(deferred);
            }
        }
        if !self.slots_hold() {
            self.fail(SLOT_LOST);
        }
        let outermost = self.change(|stack| {
            if !Self::EXACT
                && let Some(frame) = stack.frame(0)
            {
                frame.slots = Default::default();
            }
            stack.pending = Pending::Return;
            stack.depth() == 1
        });
        let left = self.operate(M::ret);
        if outermost != (left == RunResult::Exited) {
            self.fail(ViolationKind::Memory("a frame did not return to its caller"));
        }
        if outermost {
            return false;
        }
        self.change(ShadowStack::returned);
        if left == RunResult::InForeign {
            return false;
        }
        self.check_ask();
        self.unwind()
    }

    // -- panics ---------------------------------------------------------------------------

    /// The innermost frame panics, or with `exits` ends the goroutine through its deferred calls.
    fn panic(&mut self, exits: bool) -> bool {
        let frame = if exits { FuncId::Goexit } else { FuncId::Gopanic };
        let can = self.stack(|stack| stack.can_panic(exits));
        self.change(|stack| stack.pending = Pending::Call(frame));
        let before = self.outstanding();
        let left = self.operate(|m| m.panic(exits));
        if left.is_some() != can {
            self.fail(ViolationKind::Memory("a panic begins where none can, or does not where one can"));
        }
        match left {
            Some(left) => drop(self.arrived(frame, left, before)),
            None => self.change(ShadowStack::settled),
        }
        left.is_some()
    }

    /// Where a panicking frame asks, answers it, until a frame asks that the program decides for. Returns
    /// false once the goroutine has ended or was dropped.
    fn unwind(&mut self) -> bool {
        loop {
            match self.stack(|stack| stack.top().map(|f| f.function)) {
                Some(FuncId::Gopanic | FuncId::Goexit) => {}
                Some(_) => return true,
                None => return false,
            }
            let next = self.operate(M::unwind_next);
            if next != self.change(|stack| stack.unwinds(DEFERRED)) {
                self.fail(ViolationKind::Memory(
                    "a panic does not go on with the next deferred call, or to its landing",
                ));
            }
            match next {
                Unwind::Call(function) => {
                    if !self.call(function) {
                        return false;
                    }
                }
                Unwind::End => {
                    self.change(ShadowStack::is_ended);
                    if self.operate(M::end) != RunResult::Exited {
                        self.fail(WRONG_END);
                    }
                    return false;
                }
                Unwind::Recover { below } => {
                    self.recovers_to(below);
                    self.operate(|m| m.recovery(below));
                    // It went on from the landing to its ask.
                    self.change(ShadowStack::settled);
                    self.check_ask();
                }
            }
        }
    }

    // -- system calls and foreign code ----------------------------------------------------

    /// The innermost frame enters a system call, and stays there.
    fn enter_syscall(&mut self) {
        self.change(|stack| stack.pending = Pending::Call(FuncId::Syscall));
        if self.operate(|m| m.call(FuncId::Syscall)) != RunResult::InSyscall {
            self.fail(ViolationKind::Memory("a system call is not entered"));
        }
        self.change(ShadowStack::called);
    }

    /// The goroutine's system call makes these calls and returns; gives their outcome.
    ///
    /// # Safety
    /// As [`M::make_syscalls`].
    unsafe fn leave_syscall(&mut self, calls: &SystemCalls) -> Option<Made> {
        self.change(|stack| stack.pending = Pending::Return);
        // SAFETY: the caller's promise.
        let made = self.operate(|m| unsafe { m.make_syscalls(calls) });
        self.change(ShadowStack::returned);
        self.check_ask();
        made
    }

    /// Foreign code asks for its next action: the transition that led to it is over.
    fn entered_foreign_code(&mut self) {
        if self.stack(|stack| stack.pending != Pending::Nothing) {
            self.change(ShadowStack::called);
        }
    }

    /// Foreign code is about to return, or to call back in. The requests that are outstanding: a callback's
    /// prologue honours them.
    fn leaves_foreign_code(&mut self, calls_back: bool) -> Outstanding {
        let pending = if calls_back { Pending::Call(FuncId::Callback) } else { Pending::Return };
        self.change(|stack| stack.pending = pending);
        self.outstanding()
    }

    // -- the program's memory -------------------------------------------------------------

    /// Has the machine write to `destination`, and then the record: `record` is given what the operation gave.
    fn write<R>(
        &mut self,
        destination: Destination,
        operation: impl FnOnce(&'static M) -> R,
        record: impl FnOnce(&R, &mut ShadowStack, &mut ShadowHeap),
    ) -> R {
        if !Self::EXACT {
            self.change_memory(|stack, heap| match destination {
                Destination::Slots { up, slots } => stack.begins_to_write(up, slots),
                Destination::Field { object, field } => heap.fields[object][field] = Value::Nil,
                Destination::Mailbox { place } => {
                    heap.mailbox[place] = Value::Nil;
                    stack.begins_to_write(0, 1 << place);
                }
            });
        }
        let result = self.operate(operation);
        self.change_memory(|stack, heap| {
            stack.written();
            record(&result, stack, heap);
        });
        result
    }

    /// Allocates, loads, stores and the like. Whether it had an effect.
    fn mutate(&mut self, op: Op) -> bool {
        let Some(slots) = self.stack(|stack| stack.top().map(|frame| frame.slots)) else { return false };
        let at = |slot: u8| usize::from(slot);
        let own = |slot: u8| Destination::Slots { up: 0, slots: 1 << slot };
        let object = |slot: u8| match slots[at(slot)] {
            Value::Object(index) => Some(usize::from(index)),
            _ => None,
        };
        let set = |stack: &mut ShadowStack, up: usize, slot: u8, value: Value| {
            if let Some(frame) = stack.frame(up) {
                frame.slots[at(slot)] = value;
            }
        };
        let did = match op {
            Op::Alloc { slot } => {
                let allocated = self.write(
                    own(slot),
                    |m| m.alloc(at(slot)),
                    |allocated, stack, heap| match *allocated {
                        Some(index) => {
                            heap.fields[index] = Default::default();
                            set(stack, 0, slot, Value::Object(index as u8));
                        }
                        // The heap is full, and nothing was written.
                        None => set(stack, 0, slot, slots[at(slot)]),
                    },
                );
                return allocated.is_some();
            }
            Op::Load { dst, src, field } => object(src).is_none_or(|index| {
                // It may wait for the world first, and the field may change meanwhile.
                self.write(
                    own(dst),
                    |m| m.load(at(dst), at(src), at(field)),
                    |_, stack, heap| set(stack, 0, dst, heap.fields[index][at(field)]),
                )
            }),
            Op::Store { obj, src, field } => object(obj).is_none_or(|index| {
                self.write(
                    Destination::Field { object: index, field: at(field) },
                    |m| m.store(at(obj), at(field), at(src)),
                    |_, _, heap| heap.fields[index][at(field)] = slots[at(src)],
                )
            }),
            Op::Move { dst, src } => self.write(
                own(dst),
                |m| m.copy(at(dst), at(src)),
                |_, stack, _| set(stack, 0, dst, slots[at(src)]),
            ),
            Op::Clear { slot } => {
                self.write(own(slot), |m| m.clear(at(slot)), |_, stack, _| set(stack, 0, slot, Value::Nil))
            }
            Op::Up { frames, src, dst } => {
                let up = usize::from(frames);
                self.write(
                    Destination::Slots { up, slots: 1 << dst },
                    |m| m.write_up(up, at(dst), at(src)),
                    |_, stack, _| set(stack, up, dst, slots[at(src)]),
                )
            }
            Op::Ref { dst, frames, to } => {
                let up = usize::from(frames);
                self.write(
                    own(dst),
                    |m| m.refer(at(dst), up, at(to)),
                    |_, stack, _| {
                        let value = stack.points_to(up, at(to));
                        set(stack, 0, dst, value);
                    },
                )
            }
            Op::Send { slot } => self.write(
                Destination::Mailbox { place: at(slot) },
                |m| m.send(at(slot), at(slot)),
                |_, stack, heap| {
                    heap.mailbox[at(slot)] = slots[at(slot)];
                    set(stack, 0, slot, Value::Nil);
                },
            ),
            // The record follows at the last scheduling point, by `bulk_moved`. Before the first the move may
            // wait for the world.
            Op::Bulk { frames } => {
                let up = usize::from(frames);
                if !Self::EXACT {
                    self.change(|stack| stack.begins_to_write(up, 0b1111));
                }
                self.operate(|m| m.bulk_move(up))
            }
            _ => return false,
        };
        if !did {
            self.fail(SLOT_LOST);
        }
        true
    }

    // -- the end --------------------------------------------------------------------------

    /// Returns from every frame, or makes runnable or takes a goroutine that is left. Returns false where
    /// nothing is left to do.
    fn finish(&mut self) -> bool {
        if self.goroutine().is_some() {
            while self.ret() {}
            return true;
        }
        let core = self.machine().runtime;
        let mut all = core.goroutines().iter();
        if let Some(index) = all.position(|g| g.status.get() & !status::SCAN == status::RUNNABLE) {
            self.take(index);
            return true;
        }
        let parked = core.goroutines().iter().find(|g| g.is_parked());
        parked.is_some_and(|g| self.operate(|m| m.ready(g)))
    }
}

impl<A: Access> Lockstep for A {}
