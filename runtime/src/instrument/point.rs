//! Scheduling points: the named places in the core's Rust code where a thread can be held while
//! another goes on.
//!
//! A point costs nothing unless the `points` feature is on. Then it is one load and, if a harness has
//! installed itself, one indirect call. The set and the places are the same with and without a
//! planted defect.

crate::named_codes! {
    /// A named place in the core's code.
    pub enum Point {
        /// The stack lock was taken.
        LockAcquired = 1, "lock.acquired";
        /// The stack lock is about to be given back.
        LockRelease = 2, "lock.release";
        /// Barriers are about to be installed on a scanned stack.
        InstallBegin = 3, "install.begin";
        /// An entry was written and counted; its return address is not yet replaced.
        InstallEntry = 4, "install.entry";
        /// The return address was replaced by the trampoline.
        InstallSlot = 5, "install.slot";
        /// Barriers are about to be removed.
        RemoveBegin = 6, "remove.begin";
        /// One return address was put back.
        RemoveSlot = 7, "remove.slot";
        /// The list was emptied.
        RemoveDone = 8, "remove.done";
        /// Barriers up to an address are about to be unwound.
        UnwindBegin = 9, "unwind.begin";
        /// One return address was put back; the position has not moved yet.
        UnwindSlot = 10, "unwind.slot";
        /// The position has moved past it.
        UnwindMoved = 11, "unwind.moved";
        /// A walk begins; where it starts is decided.
        TracebackBegin = 12, "traceback.begin";
        /// A walk is about to look at its next frame.
        TracebackFrame = 13, "traceback.frame";
        /// A walk has met the trampoline in a return slot.
        TracebackBarrier = 14, "traceback.barrier";
        /// A walk has ended.
        TracebackDone = 15, "traceback.done";
        /// The profiling handler begins.
        HandlerBegin = 16, "handler.begin";
        /// The profiling handler has tried the lock.
        HandlerTried = 17, "handler.tried";
        /// The profiling handler has its sample and is about to end. No shared state is touched after
        /// this point.
        HandlerEnd = 18, "handler.end";
        /// A stack is about to be copied; nothing has changed yet.
        CopyBegin = 19, "copystack.begin";
        /// The used part was copied, nothing adjusted.
        CopyCopied = 20, "copystack.copied";
        /// The saved registers point to the new stack too; its frames do not yet.
        CopySwitched = 21, "copystack.switched";
        /// One frame was adjusted.
        CopyFrame = 22, "copystack.frame";
        /// Everything was adjusted.
        CopyAdjusted = 23, "copystack.adjusted";
        /// The old stack was poisoned.
        CopyPoisoned = 24, "copystack.poisoned";
        /// A stack scan begins.
        ScanBegin = 25, "scan.begin";
        /// A stack scan is about to look at its next frame.
        ScanFrame = 26, "scan.frame";
        /// A stack scan has ended.
        ScanDone = 27, "scan.done";
        /// A running goroutine was asked to scan itself.
        ScanAsked = 28, "scan.asked";
        /// A goroutine handles a request: it is about to scan itself.
        ScanSelf = 29, "scan.self";
        /// A goroutine's status changed.
        StatusChanged = 30, "status.changed";
        /// A recovery has chosen its landing; the stack is as it was.
        RecoverBegin = 31, "recover.begin";
        /// A recovery has moved the saved registers to the landing.
        RecoverSwitched = 32, "recover.switched";
        /// A bulk move onto the stack begins.
        BulkBegin = 33, "bulk.begin";
        /// A bulk move has written its destination.
        BulkDone = 34, "bulk.done";
        /// A write barrier is about to shade an object.
        WriteBarrier = 35, "wb.shade";
        /// A system call's transition point was saved; the status is still running.
        SyscallSaved = 36, "syscall.saved";
        /// The goroutine counts as stopped in a system call.
        SyscallEntered = 37, "syscall.entered";
        /// The goroutine runs again; the transition point is still there.
        SyscallExiting = 38, "syscall.exiting";
        /// The transition point was cleared.
        SyscallExited = 39, "syscall.exited";
        /// A machine has dropped its goroutine.
        GReleased = 40, "goroutine.dropped";
        /// A machine has taken a goroutine.
        Taken = 41, "goroutine.taken";
        /// A goroutine is about to end.
        ExitBegin = 42, "exit.begin";
        /// An ended goroutine's stack state was cleared.
        ExitCleared = 43, "exit.cleared";
        /// The collector's phase changed.
        PhaseChanged = 44, "gc.phase";
        /// The world is about to be stopped.
        StopWorld = 45, "world.stop";
        /// The world was started again.
        StartWorld = 46, "world.start";
        /// The collector blackens one object.
        Blacken = 47, "gc.blacken";
        /// The profiling rate changed.
        RateChanged = 48, "rate.changed";
        /// The barrier list was moved to the new stack; bounds and registers were not.
        CopyBarriers = 49, "copystack.barriers";
        /// The bounds are the new stack's; the saved registers still point to the old one.
        CopyBounds = 50, "copystack.bounds";
        /// A thread goes on in foreign code: at its beginning, or after a callback.
        ForeignEntered = 51, "foreign.entered";
        /// A thread is in the middle of foreign code.
        ForeignCode = 52, "foreign.code";
        /// A thread is back from foreign code, for good or to call back in.
        ForeignLeft = 53, "foreign.left";
        /// A callback's frame is about to begin; the transition point is still there, too.
        CallbackEntered = 54, "callback.entered";
        /// A callback is over and its transition point is back; the status is still running.
        CallbackLeaving = 55, "callback.leaving";
        /// The goroutine counts as stopped in its foreign call again.
        CallbackExited = 56, "callback.exited";
        /// The stub is back from the kernel; the goroutine still counts as stopped.
        SyscallReturned = 57, "syscall.returned";
        /// The tracer is about to walk a goroutine's stack for an event.
        TraceBegin = 58, "trace.begin";
        /// The tracer has its event.
        TraceEvent = 59, "trace.event";
        /// A thread has disarmed its own profiling timer.
        TimerDisarmed = 61, "timer.disarmed";
        /// The profiling rate's lock was taken.
        RateLocked = 62, "rate.locked";
        /// The profiling rate's lock is about to be given back.
        RateRelease = 63, "rate.release";
        /// A thread has set its own profiling timer to the rate.
        TimerSet = 64, "timer.set";
        /// The profiling handler has its sample; it is in no buffer yet.
        SampleTaken = 65, "sample.taken";
        /// A sample was written into its buffer and is not counted yet.
        SampleWritten = 66, "sample.written";
        /// A sample was copied out of its buffer, whose count has not moved yet.
        SampleCopied = 67, "sample.copied";
        /// A thread has become a machine's, or has ceased to be. Its timer is not armed.
        MachineBound = 68, "machine.bound";
        /// A goroutine was started anew and is runnable; no machine has taken it.
        Spawned = 69, "goroutine.spawned";
        /// A goroutine counts as waiting until it is made runnable; its machine still has it.
        Parked = 70, "goroutine.parked";
        /// A parked goroutine was made runnable.
        Readied = 71, "goroutine.readied";
        /// A running goroutine was asked to let its machine go.
        PreemptAsked = 72, "preempt.asked";
        /// A goroutine handles the request in a prologue: it is about to let its machine go.
        PreemptYields = 73, "preempt.yields";
        /// A frame is about to replace its caller's PC.
        SetPcBegin = 74, "setpc.begin";
        /// A frame has replaced its caller's PC.
        SetPcDone = 75, "setpc.done";
        /// A sweep begins; nothing is freed yet.
        SweepBegin = 76, "sweep.begin";
        /// A sweep is about to remove the barriers that a cycle has left on a stack.
        SweepStack = 77, "sweep.stack";
        /// The world is stopped.
        WorldStopped = 78, "world.stopped";
        /// A thread that only tries the stack lock has found it free and is about to take it.
        LockLooked = 79, "lock.looked";
    }
}
