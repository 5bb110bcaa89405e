//! A machine's profiling timer.
//!
//! Each machine has a timer of its own, which sends SIGPROF to its thread alone (`SIGEV_THREAD_ID`).
//! The timer is made when the thread becomes the machine's, and deleted when it ceases to be. Only
//! that thread arms and disarms it. So a thread that has disarmed its own timer knows that no signal
//! of it comes any more: the kernel delivers a queued one before the call that disarms it returns.
//!
//! The core's record of its timers is kept beside them. It is all there is if the configuration asks
//! for no timers: a harness that decides itself when a signal comes reads it there.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::io;

crate::named_codes! {
    /// The clock that a profiling timer counts.
    pub enum Clock {
        /// The processor's time that the thread uses. Bound to the kernel's tick.
        Cpu = 1, "cpu";
        /// Time as it passes.
        Monotonic = 2, "monotonic";
    }
}

/// No kernel timer.
const NONE: i32 = -1;

/// A machine's timer.
#[derive(Debug)]
pub(crate) struct Timer {
    /// Whether a thread is this machine's.
    bound: AtomicBool,
    /// The rate that it is armed at; zero if it is disarmed.
    hz: AtomicU32,
    /// Its number in the kernel.
    kernel: AtomicI32,
}

impl Timer {
    pub(crate) const fn new() -> Self {
        Timer { bound: AtomicBool::new(false), hz: AtomicU32::new(0), kernel: AtomicI32::new(NONE) }
    }

    /// Returns the rate that it is armed at, as the core has recorded it. Signal-safe.
    #[inline]
    pub(crate) fn hz(&self) -> u32 {
        self.hz.load(Ordering::SeqCst)
    }

    /// Returns whether a thread is this machine's.
    pub(crate) fn is_bound(&self) -> bool {
        self.bound.load(Ordering::SeqCst)
    }

    /// Makes the timer, disarmed, for the calling thread. Deletes the timer of a thread that was the
    /// machine's before and did not detach.
    ///
    /// # Errors
    /// If the kernel refuses the timer.
    pub(crate) fn create(&self, clock: Option<Clock>) -> io::Result<()> {
        self.set(0);
        self.delete();
        if let Some(clock) = clock {
            self.kernel.store(create(clock)?, Ordering::SeqCst);
        }
        self.bound.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Deletes it. It is disarmed.
    pub(crate) fn delete(&self) {
        debug_assert_eq!(self.hz(), 0, "an armed timer is deleted");
        self.bound.store(false, Ordering::SeqCst);
        let kernel = self.kernel.swap(NONE, Ordering::SeqCst);
        if kernel != NONE {
            // SAFETY: a timer of this process, whose number is not used any more.
            let result = unsafe { libc::syscall(libc::SYS_timer_delete, kernel) };
            debug_assert_eq!(result, 0);
        }
    }

    /// Arms it at `hz`, or disarms it if that is zero. Called by its own thread.
    pub(crate) fn set(&self, hz: u32) {
        let kernel = self.kernel.load(Ordering::SeqCst);
        // The record says "armed" before the timer is, and "disarmed" after: a reader of the
        // record never takes a timer that may fire for a disarmed one.
        if hz != 0 {
            self.hz.store(hz, Ordering::SeqCst);
        }
        if kernel != NONE {
            settime(kernel, hz);
        }
        self.hz.store(hz, Ordering::SeqCst);
    }
}

/// `struct sigevent` as the kernel has it, for a signal to a thread.
#[repr(C)]
struct SigEvent {
    value: usize,
    signal: libc::c_int,
    notify: libc::c_int,
    thread: libc::pid_t,
    _rest: [libc::c_int; 11],
}

/// Makes a timer that sends the calling thread SIGPROF. Returns its number in the kernel.
fn create(clock: Clock) -> io::Result<i32> {
    let clock = match clock {
        Clock::Cpu => libc::CLOCK_THREAD_CPUTIME_ID,
        Clock::Monotonic => libc::CLOCK_MONOTONIC,
    };
    let event = SigEvent {
        value: 0,
        signal: libc::SIGPROF,
        notify: libc::SIGEV_THREAD_ID,
        // SAFETY: takes nothing and touches nothing.
        thread: unsafe { libc::gettid() },
        _rest: [0; 11],
    };
    let mut kernel: libc::c_int = NONE;
    // SAFETY: the kernel reads the one record and writes the other; both outlive the call.
    match unsafe { libc::syscall(libc::SYS_timer_create, clock, &raw const event, &raw mut kernel) } {
        0 => Ok(kernel),
        _ => Err(io::Error::last_os_error()),
    }
}

fn settime(kernel: i32, hz: u32) {
    let period = if hz == 0 {
        libc::timespec { tv_sec: 0, tv_nsec: 0 }
    } else {
        let nanoseconds = 1_000_000_000 / i64::from(hz);
        libc::timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 }
    };
    let new = libc::itimerspec { it_interval: period, it_value: period };
    let none = core::ptr::null_mut::<libc::itimerspec>();
    // SAFETY: a timer of this process; the kernel reads the record, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_timer_settime, kernel, 0, &raw const new, none) };
    // It fails only for a timer that does not exist or for an invalid time.
    debug_assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigevent_has_the_kernels_size() {
        assert_eq!(size_of::<SigEvent>(), 64);
    }

    #[test]
    fn timer_without_a_clock_is_only_a_record() {
        let timer = Timer::new();
        assert!(!timer.is_bound());
        timer.create(None).unwrap();
        timer.set(250);
        assert_eq!((timer.hz(), timer.is_bound(), timer.kernel.load(Ordering::SeqCst)), (250, true, NONE));
        timer.set(0);
        timer.delete();
        assert_eq!((timer.hz(), timer.is_bound()), (0, false));
    }

    #[test]
    fn kernel_timer_is_made_armed_disarmed_and_deleted() {
        // There is no handler here: should one fire after all, it goes with this thread.
        // SAFETY: a zeroed set is a valid one, and the mask is this thread's own.
        unsafe {
            let mut profiling: libc::sigset_t = core::mem::zeroed();
            libc::sigaddset(&mut profiling, libc::SIGPROF);
            libc::pthread_sigmask(libc::SIG_BLOCK, &profiling, core::ptr::null_mut());
        }
        for &clock in Clock::ALL {
            let timer = Timer::new();
            timer.create(Some(clock)).unwrap();
            let kernel = timer.kernel.load(Ordering::SeqCst);
            assert_ne!(kernel, NONE);
            let left = || {
                let mut now = libc::itimerspec {
                    it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
                    it_value: libc::timespec { tv_sec: 0, tv_nsec: 0 },
                };
                // SAFETY: the kernel writes the record, which outlives the call.
                let result = unsafe { libc::syscall(libc::SYS_timer_gettime, kernel, &raw mut now) };
                (result == 0).then_some((now.it_interval.tv_sec, now.it_interval.tv_nsec))
            };
            assert_eq!(left(), Some((0, 0)));
            timer.set(1);
            assert_eq!(left(), Some((1, 0)));
            timer.set(0);
            assert_eq!(left(), Some((0, 0)));
            timer.delete();
            assert_eq!(left(), None);
        }
    }
}
