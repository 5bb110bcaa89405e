//! Where an operation can be held: the points and the goroutine-side code that it passes.
//!
//! A table by operation. Nothing here says which events should meet.

use sigstorm_runtime::{FuncId, Point};

use crate::schedule::{Op, Work};

/// Returns whether an operation changes a stack: it is worth holding more often than one that only uses it.
pub(super) fn changes_a_stack(op: Op) -> bool {
    matches!(
        op,
        Op::Bulk { .. }
            | Op::Scan { .. }
            | Op::Term
            | Op::Stw
            | Op::Collect { .. }
            | Op::Shrink { .. }
            | Op::Yield
            | Op::Park
            | Op::SetPc
    )
}

/// Goroutine-side code that an operation runs.
pub(super) fn functions_of(op: Op) -> &'static [FuncId] {
    use FuncId::*;
    match op {
        Op::Call { kind: Nosplit, .. } => &[Nosplit, Nosplit, Nosplit, SwitchIn, SwitchOut],
        Op::Call { kind: Tiny, .. } => &[Tiny, Tiny, Tiny, SwitchIn, SwitchOut],
        Op::Call { kind: Small, .. } => &[Small, Small, Small, SwitchIn, SwitchOut],
        Op::Call { kind: Medium, .. } => &[Medium, Medium, Medium, SwitchIn, SwitchOut],
        Op::Call { kind: Large, .. } => &[Large, Large, Large, SwitchIn, SwitchOut],
        Op::Call { kind: Huge, .. } => &[Huge, Huge, Huge, SwitchIn, SwitchOut],
        Op::Call { kind: Deferring, .. } => &[Deferring, Deferring, Deferring, SwitchIn, SwitchOut],
        Op::Call { kind: Leaf, .. } => &[Leaf, Leaf, Leaf, SwitchIn, SwitchOut],
        Op::Ret { .. } => &[
            Trampoline, Trampoline, Trampoline, Trampoline, Trampoline, Trampoline, Nosplit, Tiny, Small,
            Medium, Large, Deferring, Entry, Callback,
        ],
        Op::Panic => &[Gopanic, Gopanic, Tiny, SwitchIn, SwitchOut],
        Op::Exit => &[Goexit, Tiny, SwitchIn, SwitchOut],
        Op::Syscall => &[Syscall, Syscall, Syscall, SwitchIn, SwitchOut],
        Op::Foreign => &[Cgocall, Cgocall, Cgocall, SwitchIn, SwitchOut],
        Op::Callback => &[Callback, Callback, Callback, SwitchIn, SwitchOut],
        Op::Run { .. } => &[Entry, SwitchIn, SwitchOut],
        Op::Resume => &[Syscall, Cgocall, SwitchIn, SwitchOut, Tiny, Small, Deferring, Trampoline],
        _ => &[],
    }
}

/// The protocol's own code that an operation runs, on the thread's own stack.
pub(super) fn protocol_of(op: Op) -> &'static [FuncId] {
    use FuncId::*;
    match op {
        Op::Signal => &[
            OnSigprof,
            Sigprof,
            SampleGoroutine,
            TryLock,
            TakeSample,
            WalkSample,
            WalkBegin,
            FinishTrampoline,
            WalkStep,
            ThroughBarrier,
            Unlock,
        ],
        Op::Scan { .. } | Op::Term | Op::Stw | Op::Collect { .. } => &[
            Lock,
            ScanStack,
            ScanFrames,
            ScanFrame,
            InstallBarrier,
            RemoveBarriers,
            RestoreReturn,
            WalkBegin,
            WalkStep,
            ThroughBarrier,
            Unlock,
        ],
        Op::Shrink { .. } => &[Lock, Copystack, AdjustBarriers, AdjustFrames, WalkBegin, WalkStep, Unlock],
        Op::Call { .. } => {
            &[Lock, Copystack, AdjustBarriers, AdjustFrames, ScanSelf, ScanStack, InstallBarrier, Unlock]
        }
        Op::Sweep => &[Lock, RemoveBarriers, RestoreReturn, Unlock],
        Op::SetPc => &[Lock, Unlock],
        Op::Bulk { .. } => &[BulkMove, Lock, UnwindBarriers, RestoreReturn, Unlock],
        Op::Ret { .. } => &[Lock, Land, UnwindBarriers, RestoreReturn, RemoveBarriers, Unlock, ExitCallback],
        Op::Syscall | Op::Foreign => &[EnterSyscall],
        Op::Callback => &[EnterCallback, ScanSelf, ScanStack, Lock, Unlock],
        Op::Resume => &[ExitSyscall],
        _ => &[],
    }
}

/// Scheduling points that a recovery reaches.
pub(super) const RECOVERY: &[Point] = &[
    Point::RecoverBegin,
    Point::RecoverSwitched,
    Point::UnwindBegin,
    Point::UnwindSlot,
    Point::UnwindMoved,
    Point::LockAcquired,
    Point::LockRelease,
];

/// Scheduling points of a copied stack.
const COPY: &[Point] = &[
    Point::CopyBegin,
    Point::CopyCopied,
    Point::CopyBarriers,
    Point::CopyBounds,
    Point::CopySwitched,
    Point::CopyFrame,
    Point::CopyAdjusted,
    Point::CopyPoisoned,
    Point::LockAcquired,
    Point::LockRelease,
];

/// Scheduling points of a call: those of a stack that grows, and of a request in the prologue.
const CALL: &[Point] = &{
    const ASKED: [Point; 5] = [
        Point::ScanSelf,
        Point::StatusChanged,
        Point::InstallEntry,
        Point::InstallSlot,
        Point::PreemptYields,
    ];
    let mut all = [COPY[0]; COPY.len() + ASKED.len()];
    let mut index = 0;
    while index < all.len() {
        all[index] = if index < COPY.len() { COPY[index] } else { ASKED[index - COPY.len()] };
        index += 1;
    }
    all
};

/// Scheduling points that an operation reaches.
pub(super) fn points_of(op: Op) -> &'static [Point] {
    use Point::*;
    match op {
        Op::Signal => &[
            HandlerBegin,
            LockLooked,
            HandlerTried,
            RateLocked,
            RateRelease,
            SampleTaken,
            SampleWritten,
            HandlerEnd,
            LockAcquired,
            LockRelease,
            TracebackBegin,
            TracebackFrame,
            TracebackFrame,
            TracebackBarrier,
            TracebackDone,
        ],
        Op::Call { .. } => CALL,
        Op::Ret { .. } | Op::Exit | Op::Panic | Op::Recover => &[
            LockAcquired,
            LockRelease,
            ExitBegin,
            ExitCleared,
            RemoveBegin,
            RemoveSlot,
            GReleased,
            StatusChanged,
            CallbackLeaving,
            CallbackExited,
        ],
        Op::Bulk { .. } => {
            &[BulkBegin, UnwindBegin, UnwindSlot, UnwindMoved, BulkDone, LockAcquired, LockRelease]
        }
        Op::Store { .. } | Op::Up { .. } | Op::Send { .. } => &[WriteBarrier],
        Op::Syscall | Op::Resume => &[
            SyscallSaved,
            SyscallEntered,
            SyscallReturned,
            SyscallExiting,
            SyscallExited,
            TraceBegin,
            TracebackFrame,
            TraceEvent,
            ForeignLeft,
            LockRelease,
        ],
        Op::Foreign => &[SyscallSaved, SyscallEntered, ForeignEntered, ForeignCode],
        Op::Callback => {
            &[ForeignLeft, CallbackEntered, LockAcquired, LockRelease, CopyBounds, ScanSelf, StatusChanged]
        }
        Op::Yield | Op::Run { .. } => &[StatusChanged, GReleased, Taken],
        Op::Scan { .. } => &[
            ScanBegin,
            ScanFrame,
            ScanDone,
            ScanAsked,
            InstallBegin,
            InstallEntry,
            InstallSlot,
            LockAcquired,
            LockRelease,
            StatusChanged,
        ],
        Op::Term | Op::Collect { work: Work::Term } => &[
            StopWorld,
            WorldStopped,
            PhaseChanged,
            ScanBegin,
            ScanFrame,
            RemoveBegin,
            RemoveSlot,
            RemoveDone,
            LockAcquired,
            LockRelease,
            Blacken,
            StartWorld,
        ],
        Op::Rate { .. } | Op::Hz { .. } => &[TimerDisarmed, RateLocked, RateChanged, RateRelease, TimerSet],
        Op::Read => &[SampleCopied],
        Op::Attach => &[MachineBound, TimerSet],
        Op::Detach => &[TimerDisarmed, MachineBound],
        Op::Mark | Op::Collect { work: Work::Mark } => {
            &[StopWorld, WorldStopped, RemoveBegin, RemoveSlot, RemoveDone, PhaseChanged, StartWorld]
        }
        Op::Stw | Op::Collect { work: Work::Stw } => {
            &[StopWorld, WorldStopped, PhaseChanged, ScanBegin, ScanFrame, RemoveSlot, Blacken, StartWorld]
        }
        Op::Sweep | Op::Collect { work: Work::Sweep } => {
            &[SweepBegin, SweepStack, RemoveBegin, RemoveSlot, RemoveDone, LockRelease, PhaseChanged]
        }
        Op::Park => &[Parked, GReleased],
        Op::Spawn { .. } => &[Spawned],
        Op::Ready { .. } => &[Readied],
        Op::Preempt { .. } => &[PreemptAsked],
        Op::SetPc => &[SetPcBegin, SetPcDone, LockAcquired, LockRelease],
        Op::Drain { .. } => &[Blacken],
        Op::Shrink { .. } => COPY,
        _ => &[],
    }
}
