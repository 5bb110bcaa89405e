//! A real profiling timer on the measuring thread, whose handler tries a lock.

use std::fmt::{self, Display, Formatter};
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What the handler runs: tries the lock, and says whether it got it.
static TRY: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// Where it counts.
static COUNT: AtomicPtr<Count> = AtomicPtr::new(ptr::null_mut());

/// What a lock's handler met.
#[derive(Default)]
pub struct Count {
    runs: AtomicU64,
    failed: AtomicU64,
}

extern "C" fn on_signal(_: libc::c_int) {
    let try_lock = TRY.load(Ordering::Acquire);
    if try_lock.is_null() {
        return;
    }
    // SAFETY: `with_handler` stored a function of this type, on this thread, and a count
    // that outlives it.
    let (try_lock, count) =
        unsafe { (mem::transmute::<*mut (), fn() -> bool>(try_lock), &*COUNT.load(Ordering::Acquire)) };
    count.runs.fetch_add(1, Ordering::Relaxed);
    count.failed.fetch_add(u64::from(!try_lock()), Ordering::Relaxed);
}

/// Runs `body` while the signal's handler runs `try_lock`.
pub fn with_handler<R>(count: &Count, try_lock: fn() -> bool, body: impl FnOnce() -> R) -> R {
    try_lock(); // The first use may set something up, which a handler must not.
    COUNT.store(ptr::from_ref(count).cast_mut(), Ordering::Release);
    TRY.store(try_lock as *mut (), Ordering::Release);
    let result = body();
    TRY.store(ptr::null_mut(), Ordering::Release);
    result
}

/// A running timer.
pub struct Timer(libc::timer_t);

impl Timer {
    /// Sends the calling thread SIGPROF at this rate.
    pub fn start(hz: u32) -> Timer {
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

/// The handlers' counts.
#[derive(Default)]
pub struct Counts(Vec<(String, &'static str, Arc<Count>)>);

impl Counts {
    /// A new one.
    pub fn add(&mut self, group: &str, peer: &'static str) -> &Arc<Count> {
        self.0.push((group.to_owned(), peer, Arc::default()));
        &self.0[self.0.len() - 1].2
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<26} {:<14} {:>8} {:>8} {:>7}", "its handler", "lock", "runs", "skipped", "rate")?;
        for (group, peer, count) in &self.0 {
            let [runs, failed] = [&count.runs, &count.failed].map(|c| c.load(Ordering::Relaxed));
            let rate = 100.0 * failed as f64 / runs.max(1) as f64;
            writeln!(f, "{group:<26} {peer:<14} {runs:>8} {failed:>8} {rate:>6.1}%")?;
        }
        Ok(())
    }
}
