//! A real timer for one thread: the kernel sends it the profiling signal.

use std::io;
use std::time::Duration;

use super::options::Clock;

/// A timer of the thread that made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer(libc::timer_t);

// SAFETY: a number that the kernel gave out; any thread may set the timer.
unsafe impl Send for Timer {}
// SAFETY: as above; the kernel sees to calls at the same time.
unsafe impl Sync for Timer {}

impl Timer {
    /// A timer that signals the calling thread, `tid`. It stands still until it is set.
    pub(crate) fn new(clock: Clock, tid: i32) -> io::Result<Timer> {
        let clock = match clock {
            // Of the thread that asks.
            Clock::Cpu => libc::CLOCK_THREAD_CPUTIME_ID,
            Clock::Monotonic => libc::CLOCK_MONOTONIC,
        };
        // SAFETY: a zeroed sigevent is a valid one.
        let mut event: libc::sigevent = unsafe { core::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGPROF;
        event.sigev_notify_thread_id = tid;
        let mut timer = core::ptr::null_mut();
        // SAFETY: both records outlive the call.
        match unsafe { libc::timer_create(clock, &mut event, &mut timer) } {
            0 => Ok(Timer(timer)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// From now on so many signals a second; none, if zero. From any thread.
    pub(crate) fn set(self, hz: u32) -> io::Result<()> {
        let interval = 1_000_000_000u32
            .checked_div(hz)
            .map_or(Duration::ZERO, |ns| Duration::from_nanos(u64::from(ns.max(1))));
        let time = libc::timespec {
            tv_sec: interval.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(interval.subsec_nanos()),
        };
        let spec = libc::itimerspec { it_interval: time, it_value: time };
        // SAFETY: the timer is never deleted, and the record outlives the call.
        match unsafe { libc::timer_settime(self.0, 0, &spec, core::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
