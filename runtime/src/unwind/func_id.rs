//! The names of the marked functions.
//!
//! A schedule uses them to say at which instruction a thread is to be stopped, so codes and names
//! never change. The functions that run on goroutine stacks are in `arch`; the others are
//! the protocol's Rust code ([`crate::instrument::marked_code`] lists them).

crate::named_codes! {
    /// A function of the marked code. Codes below 32 are of the goroutine side: frame kinds, stubs,
    /// the trampoline, the halves of the switch. Codes from 32 on are the protocol's own functions,
    /// which run on a thread's own stack or its signal stack.
    pub enum FuncId {
        /// The outermost frame of every goroutine: entry and exit stub in one.
        Entry = 0, "entry";
        /// 32 bytes and no stack check, as `nosplit` code has none.
        Nosplit = 1, "nosplit";
        /// 32 bytes.
        Tiny = 2, "tiny";
        /// 80 bytes.
        Small = 3, "small";
        /// 240 bytes.
        Medium = 4, "medium";
        /// 720 bytes.
        Large = 5, "large";
        /// 2,304 bytes: more than the smallest stack holds.
        Huge = 6, "huge";
        /// Registers a defer as it begins and has a recovery landing.
        Deferring = 7, "deferring";
        /// Is in no table, as foreign or vDSO code is.
        Leaf = 8, "leaf";
        /// Runs the deferred calls of a panic.
        Gopanic = 9, "gopanic";
        /// Runs the deferred calls of a goroutine that ends itself.
        Goexit = 10, "goexit";
        /// Enters the kernel.
        Syscall = 11, "syscall";
        /// The code to which a frame returns when a barrier lies over its return address.
        Trampoline = 12, "trampoline";
        /// Leaves the thread's own stack for a goroutine's.
        SwitchIn = 13, "switch_in";
        /// Leaves a goroutine's stack for the thread's own.
        SwitchOut = 14, "switch_out";
        /// Calls foreign code, which runs on the thread's own stack.
        Cgocall = 15, "cgocall";
        /// The frame through which foreign code calls back in.
        Callback = 16, "callback";
        /// Takes the stack lock.
        Lock = 32, "lock";
        /// Tries the stack lock once.
        TryLock = 33, "try_lock";
        /// Gives the stack lock back.
        Unlock = 34, "unlock";
        /// Lays a barrier over a return address.
        InstallBarrier = 35, "install_barrier";
        /// Puts a return address back.
        RestoreReturn = 36, "restore_return";
        /// Removes every barrier of a stack.
        RemoveBarriers = 37, "remove_barriers";
        /// Unwinds the barriers below an address.
        UnwindBarriers = 38, "unwind_barriers";
        /// Moves a stack.
        Copystack = 39, "copystack";
        /// Carries the barriers over to the new stack.
        AdjustBarriers = 40, "adjust_barriers";
        /// Adjusts the pointers of frames into their own stack.
        AdjustFrames = 41, "adjust_frames";
        /// Scans a stopped stack.
        ScanStack = 43, "scan_stack";
        /// Walks the frames of a scan.
        ScanFrames = 44, "scan_frames";
        /// Marks the objects that one frame points to.
        ScanFrame = 45, "scan_frame";
        /// Begins a walk.
        WalkBegin = 46, "walk_begin";
        /// Begins a walk in the trampoline.
        FinishTrampoline = 47, "finish_trampoline";
        /// Goes on to the next frame.
        WalkStep = 48, "walk_step";
        /// Looks up a return address under a barrier.
        ThroughBarrier = 49, "through_barrier";
        /// The profiling handler, once it knows its machine.
        Sigprof = 50, "sigprof";
        /// The part of the handler that takes the lock.
        SampleGoroutine = 51, "sample_goroutine";
        /// The part of the handler that walks.
        WalkSample = 52, "walk_sample";
        /// The handler's outermost part.
        OnSigprof = 53, "on_sigprof";
        /// Lets a goroutine count as stopped in a system call.
        EnterSyscall = 54, "enter_syscall";
        /// Takes a goroutine back from a system call.
        ExitSyscall = 55, "exit_syscall";
        /// Unwinds for a recovery and goes to its landing.
        Land = 56, "land";
        /// Scans its own goroutine's stack, as it was asked to.
        ScanSelf = 57, "scan_self";
        /// Moves memory in bulk onto a stack.
        BulkMove = 58, "bulk_move";
        /// Puts a transition point away for a callback.
        EnterCallback = 59, "enter_callback";
        /// Takes a transition point back after a callback.
        ExitCallback = 60, "exit_callback";
        /// The part of the handler that has the lock, or none to take.
        TakeSample = 61, "take_sample";
    }
}

impl FuncId {
    /// Returns whether the function runs on goroutine stacks and has a row in the function table.
    pub const fn on_goroutine_stack(self) -> bool {
        self.code() < 32
    }

    /// Returns whether a schedule's `call` step can name the function.
    pub const fn is_callable(self) -> bool {
        matches!(
            self,
            FuncId::Nosplit
                | FuncId::Tiny
                | FuncId::Small
                | FuncId::Medium
                | FuncId::Large
                | FuncId::Huge
                | FuncId::Deferring
                | FuncId::Leaf
        )
    }
}
