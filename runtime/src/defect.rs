//! Planted defects: real mistakes that can be put back into the core.
//!
//! Each is one switch, off by default. Without the `defects` feature
//! [`planted!`](crate::planted) is a constant `false` and nothing is left of any of
//! them. The right code reads as if they were not there.

crate::named_codes! {
    /// A mistake that a real runtime once made. The codes are the museum's numbers.
    pub enum Defect {
        /// The scan installs barriers without the stack lock (golang/go#11863).
        InstallUnlocked = 1, "install-unlocked";
        /// The handler loops for the stack lock (Go 9c9d74aba7).
        SigprofSpins = 2, "sigprof-spins";
        /// Mark termination removes barriers without the stack lock (Go 9c9d74aba7).
        RemoveUnlocked = 3, "remove-unlocked";
        /// A recovery unwinds barriers without the stack lock (Go 9c9d74aba7).
        RecoverUnwindUnlocked = 4, "recover-unwind-unlocked";
        /// A bulk move onto the stack unwinds barriers without the stack lock (Go 9c9d74aba7).
        BulkUnwindUnlocked = 5, "bulk-unwind-unlocked";
        /// A walk that starts in the trampoline takes it for a frame (Go 3a2fc06833).
        TrampolineNotSimulated = 6, "trampoline-not-simulated";
        /// copystack says in the lock word that it moves the stack, so the handler refuses, but
        /// does not wait for a walk that is under way (golang/go#13362).
        CopystackStatusCheckOnly = 7, "copystack-status-check-only";
        /// copystack takes no stack lock (golang/go#12932).
        CopystackUnlocked = 8, "copystack-unlocked";
        /// A walk from a foreign call's transition point goes on without the stack lock that it
        /// could not take (golang/go#12528, Go f90b48e0d3).
        CgoTracebackUnlocked = 9, "cgo-traceback-unlocked";
        /// With SP off the goroutine's stack nobody tries its lock, and a foreign call is walked
        /// all the same (golang/go#12528, Go 3f22adecc7).
        LockFollowsWrongG = 10, "lock-follows-wrong-g";
        /// A good walk from a foreign call's transition point is thrown away (golang/go#13466).
        CgoSampleDiscarded = 11, "cgo-sample-discarded";
        /// A system call's event is taken once the goroutine counts as stopped, without the
        /// stack lock (golang/go#14101).
        TraceEventUnlocked = 12, "trace-event-unlocked";
        /// A goroutine that ends without returning keeps its barriers (golang/go#11256).
        ExitKeepsBarriers = 13, "exit-keeps-barriers";
        /// Barriers are placed from the saved scheduling SP, zero in a system call (golang/go#11049).
        ScanFromSchedSp = 14, "scan-from-sched-sp";
        /// A bulk move onto the stack unwinds nothing (golang/go#11084).
        BulkWriteSkipsUnwind = 15, "bulk-write-skips-unwind";
        /// Unwinding marks entries as hit and leaves the trampolines (Go 306f8f11ad).
        UnwindLeavesTrampolines = 16, "unwind-leaves-trampolines";
        /// Barriers go into a callback's frame as into any other (golang/go#12238).
        BarrierInCallbackFrame = 17, "barrier-in-callback-frame";
        /// A walk uses what it has looked up for a PC in no table (Go cb859021d1).
        UnknownPcDereferenced = 21, "unknown-pc-dereferenced";
        /// Whoever changes the profiling rate keeps its own timer armed (Go e0f08b938a).
        RateChangeKeepsTimer = 22, "rate-change-keeps-timer";
        /// The handler uses the machine of a thread that has none (Go 532dee3842).
        ForeignThreadSignal = 23, "foreign-thread-signal";
        /// A walk takes SP and PC in a stack switch as they are (Go 439f9397fc).
        SwitchWindowWalked = 24, "switch-window-walked";
        /// A goroutine that is to scan itself does not look whether it was scanned (golang/go#10941).
        DoubleScan = 18, "double-scan";
        /// Write barriers are switched on only after the concurrent scan (Go 1303957dbf).
        WriteBarriersLate = 19, "write-barriers-late";
        /// A stack is halved with no room left for code without a check (Go 7387121ddb).
        ShrinkIgnoresGuard = 20, "shrink-ignores-guard";
        /// The stack lock does not hold off preemption, and is held where it is honoured (Go 22e57c6655).
        PreemptibleLock = 25, "preemptible-lock";
        /// A frame replaces its caller's PC without the stack lock, which is safe (Go a4a57bb4f9).
        SetNextBarrierUnlocked = 26, "set-next-barrier-unlocked";
        /// The trampoline's own check of the order cannot fire (Go bb6fb929d6).
        OrderCheckInverted = 27, "order-check-inverted";
    }
}

#[cfg(feature = "defects")]
mod switch {
    use super::Defect;
    use crate::canary;
    use core::sync::atomic::{AtomicU64, Ordering};

    static PLANTED: AtomicU64 = AtomicU64::new(0);

    /// Plants exactly these, for the whole process.
    pub fn plant(defects: &[Defect]) {
        let mask = defects.iter().fold(0, |mask, d| mask | 1 << d.code());
        PLANTED.store(mask, Ordering::SeqCst);
        if is_planted(Defect::OrderCheckInverted) {
            // It is found by the table, which is there before a core if need be.
            crate::table::init();
            crate::arch::invert_order_check();
        }
    }

    /// Where the word lies that says which are planted: zero in a quiet core.
    pub fn word() -> usize {
        &raw const PLANTED as usize
    }

    #[inline(always)]
    fn is_planted(defect: Defect) -> bool {
        PLANTED.load(Ordering::Relaxed) & 1 << defect.code() != 0
    }

    /// True where this one is planted: its faulty code is about to run.
    #[inline(always)]
    pub fn planted(defect: Defect) -> bool {
        let planted = is_planted(defect);
        if planted {
            canary::reach(defect);
        }
        planted
    }

    /// Notes that this one is triggered, if it is planted and `condition` holds.
    #[inline(always)]
    pub fn trigger_when(defect: Defect, condition: impl Fn() -> bool) {
        if is_planted(defect) {
            canary::trigger_if(defect, &condition);
        }
    }
}

#[cfg(feature = "defects")]
pub use switch::{plant, planted, trigger_when, word};

/// True where this defect is planted; a constant without the `defects` feature.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub const fn planted(_defect: Defect) -> bool {
    false
}

/// Nothing without the `defects` feature.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub fn trigger_when(_defect: Defect, _condition: impl Fn() -> bool) {}

/// `planted!(Name)`: true where that defect is planted. `planted!(Name, condition)` also says
/// when it bites: a canary, which changes nothing.
#[macro_export]
macro_rules! planted {
    ($name:ident) => {
        $crate::defect::planted($crate::defect::Defect::$name)
    };
    ($name:ident, $condition:expr) => {{
        $crate::triggered!($name, $condition);
        $crate::planted!($name)
    }};
}

/// `triggered!(Name, condition)`: a canary, where a defect bites elsewhere than where it lies.
#[macro_export]
macro_rules! triggered {
    ($name:ident, $condition:expr) => {
        $crate::defect::trigger_when($crate::defect::Defect::$name, || $condition)
    };
}

/// `unlocked!(Name, g)`: where that defect is planted, what follows is a section without its
/// lock, as long as what this gives is kept.
#[macro_export]
macro_rules! unlocked {
    ($name:ident, $g:expr) => {{
        #[cfg(feature = "defects")]
        let section = $crate::planted!($name)
            .then(|| $crate::canary::Unlocked::begin($crate::defect::Defect::$name, $g));
        #[cfg(not(feature = "defects"))]
        let section = {
            let _: &'static $crate::G = $g;
        };
        section
    }};
}

/// `lock_unless!(Name, m, g, operation)`: takes the stack lock; where that defect is planted,
/// a section without it.
#[macro_export]
macro_rules! lock_unless {
    ($name:ident, $m:expr, $g:expr, $operation:expr) => {{
        #[cfg(feature = "defects")]
        let guard = if $crate::planted!($name) {
            Err($crate::canary::Unlocked::begin($crate::defect::Defect::$name, $g))
        } else {
            Ok($crate::lock::lock($m, $g, $operation))
        };
        #[cfg(not(feature = "defects"))]
        let guard = $crate::lock::lock($m, $g, $operation);
        guard
    }};
}
