//! Planted defects: real mistakes that can be put back into the core, and their switches.
//!
//! Each is one switch, off by default. [`planted!`](crate::planted) asks for a switch where the
//! mistake lies; `sigstorm_runtime::plant` sets them. Without the `defects` feature `planted!` is a
//! constant `false`, and nothing is left of any of them. The right code reads as if they were not
//! there.

#[cfg(feature = "defects")]
use core::sync::atomic::{AtomicU64, Ordering};

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
        /// copystack writes into the lock word that it moves the stack, so the handler refuses, but
        /// copystack does not wait for a walk that is under way (golang/go#13362).
        CopystackStatusCheckOnly = 7, "copystack-status-check-only";
        /// copystack takes no stack lock (golang/go#12932).
        CopystackUnlocked = 8, "copystack-unlocked";
        /// A walk from a foreign call's transition point goes on without the stack lock that it
        /// could not take (golang/go#12528, Go f90b48e0d3).
        CgoTracebackUnlocked = 9, "cgo-traceback-unlocked";
        /// With SP off the goroutine's stack the handler does not try its lock, and walks a foreign
        /// call all the same (golang/go#12528, Go 3f22adecc7).
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
        /// A walk uses the row that it has looked up for a PC in no table (Go cb859021d1).
        UnknownPcDereferenced = 21, "unknown-pc-dereferenced";
        /// A thread that sets the profiling rate keeps its own timer armed (Go e0f08b938a).
        RateChangeKeepsTimer = 22, "rate-change-keeps-timer";
        /// The handler uses the machine of a thread that has none (Go 532dee3842).
        ForeignThreadSignal = 23, "foreign-thread-signal";
        /// A walk takes SP and PC in a stack switch as they are (Go 439f9397fc).
        SwitchWindowWalked = 24, "switch-window-walked";
        /// A goroutine that is to scan itself does not check whether it was scanned (golang/go#10941).
        DoubleScan = 18, "double-scan";
        /// Write barriers are switched on only after the concurrent scan (Go 1303957dbf).
        WriteBarriersLate = 19, "write-barriers-late";
        /// A stack is halved with no room left for code without a check (Go 7387121ddb).
        ShrinkIgnoresGuard = 20, "shrink-ignores-guard";
        /// The stack lock does not hold off preemption, and is held where a request is handled (Go 22e57c6655).
        PreemptibleLock = 25, "preemptible-lock";
        /// A frame replaces its caller's PC without the stack lock, which is safe (Go a4a57bb4f9).
        SetNextBarrierUnlocked = 26, "set-next-barrier-unlocked";
        /// The trampoline's own check of the order cannot fire (Go bb6fb929d6).
        OrderCheckInverted = 27, "order-check-inverted";
    }
}

/// The switches: bit `code` of each planted defect.
#[cfg(feature = "defects")]
static PLANTED: AtomicU64 = AtomicU64::new(0);

/// Sets the switches: exactly these defects are planted, in the whole process.
#[cfg(feature = "defects")]
pub(crate) fn set_planted(defects: &[Defect]) {
    let mask = defects.iter().fold(0, |mask, d| mask | 1 << d.code());
    PLANTED.store(mask, Ordering::SeqCst);
}

/// Returns whether this defect is planted.
#[cfg(feature = "defects")]
#[inline(always)]
pub(crate) fn is_planted(defect: Defect) -> bool {
    PLANTED.load(Ordering::Relaxed) & 1 << defect.code() != 0
}

/// Returns the address of the word of switches, which is zero in a quiet core.
#[cfg(feature = "defects")]
pub fn word() -> usize {
    &raw const PLANTED as usize
}
