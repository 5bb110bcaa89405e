//! The functions that run on goroutine stacks, by name.
//!
//! Their code is in [`crate::arch`]; this is only the closed set of their names,
//! which schedules use to say at which instruction a thread is to be stopped.

crate::named_codes! {
    /// A function of the goroutine side: a frame kind, the trampoline or half of the switch.
    pub enum Function {
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
        /// In no table, as foreign or vDSO code is.
        Leaf = 8, "leaf";
        /// Runs the deferred calls of a panic.
        Gopanic = 9, "gopanic";
        /// Runs the deferred calls of a goroutine that ends itself.
        Goexit = 10, "goexit";
        /// Enters the kernel.
        Syscall = 11, "syscall";
        /// Where a frame returns to when a barrier lies over its return address.
        Trampoline = 12, "trampoline";
        /// From the thread's own stack onto a goroutine's.
        SwitchIn = 13, "switch_in";
        /// From a goroutine's stack back to the thread's own.
        SwitchOut = 14, "switch_out";
        /// Calls foreign code, which runs on the thread's own stack.
        Cgocall = 15, "cgocall";
        /// The frame through which foreign code calls back in.
        Callback = 16, "callback";
    }
}

impl Function {
    /// True for the functions that a schedule's `call` step can name.
    pub const fn is_callable(self) -> bool {
        matches!(
            self,
            Function::Nosplit
                | Function::Tiny
                | Function::Small
                | Function::Medium
                | Function::Large
                | Function::Huge
                | Function::Deferring
                | Function::Leaf
        )
    }
}
