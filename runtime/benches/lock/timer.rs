//! Real profiling timers on the measured threads, whose handler runs a given function.

use std::cell::Cell;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The function that the handler runs. It returns whether it got a sample.
static SAMPLE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// How often it ran, and how often without a sample.
static RUNS: AtomicU64 = AtomicU64::new(0);
static SKIPPED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The number of this measured thread.
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

extern "C" fn on_signal(_: libc::c_int) {
    let sample = SAMPLE.load(Ordering::Acquire);
    if sample.is_null() {
        return;
    }
    // SAFETY: `with_handler` stored a function of this type.
    let sample = unsafe { mem::transmute::<*mut (), fn(usize) -> bool>(sample) };
    RUNS.fetch_add(1, Ordering::Relaxed);
    SKIPPED.fetch_add(u64::from(!sample(INDEX.get())), Ordering::Relaxed);
}

/// Runs `body` while the signal's handlers run `sample`, with the number of the thread that
/// they interrupted. Returns how often they ran, and how often without a sample.
pub fn with_handler<R>(sample: fn(usize) -> bool, body: impl FnOnce() -> R) -> (R, [u64; 2]) {
    sample(0); // The first use may set something up, which a handler must not.
    RUNS.store(0, Ordering::Relaxed);
    SKIPPED.store(0, Ordering::Relaxed);
    SAMPLE.store(sample as *mut (), Ordering::Release);
    let result = body();
    SAMPLE.store(ptr::null_mut(), Ordering::Release);
    (result, [&RUNS, &SKIPPED].map(|count| count.load(Ordering::Relaxed)))
}

/// A running timer.
pub struct Timer(libc::timer_t);

impl Timer {
    /// Sends the calling thread, which is number `index`, SIGPROF at this rate.
    pub fn start(index: usize, hz: u32) -> Timer {
        INDEX.set(index);
        let period = libc::timespec { tv_sec: 0, tv_nsec: i64::from(1_000_000_000 / hz) };
        let mut id = ptr::null_mut();
        // SAFETY: zeroed structures of these types are valid; the handler keeps to what
        // handlers may do; the timer's thread is this one.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
            assert_eq!(libc::sigaction(libc::SIGPROF, &action, ptr::null_mut()), 0);
            let mut event: libc::sigevent = mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGPROF;
            event.sigev_notify_thread_id = libc::gettid();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut id), 0);
            let times = libc::itimerspec { it_interval: period, it_value: period };
            assert_eq!(libc::timer_settime(id, 0, &times, ptr::null_mut()), 0);
        }
        Timer(id)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer that `start` has made. A signal under way finds the handler.
        assert_eq!(unsafe { libc::timer_delete(self.0) }, 0);
    }
}
