//! A tick that ends the tracer's wait now and then, so that a wait can have a limit: the kernel has
//! no wait for traced threads with one.
//!
//! # What the host notices
//!
//! - *The signal.* It is the highest real-time signal that has its default action when the first tick
//!   starts. Its action is the host's again when the last one of the process has ended.
//! - *The mask.* The thread that waits has the signal unblocked while its tick lives.
//! - *Other calls of that thread.* The first tick outside a wait stops the timer, and the next wait
//!   starts it again. So at most one call after a wait ends with `EINTR`, and a wait costs no system
//!   call more.

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Time between two ticks.
const PERIOD_NS: libc::c_long = 20_000_000;

/// The signal of all ticks of this process, while there are any.
struct Taken {
    signal: i32,
    users: usize,
    /// The host's action.
    before: libc::sigaction,
}

static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

fn taken() -> MutexGuard<'static, Option<Taken>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a signal, or shares the one that is taken.
fn take_signal() -> io::Result<i32> {
    let mut taken = taken();
    if let Some(taken) = &mut *taken {
        taken.users += 1;
        return Ok(taken.signal);
    }
    for signal in (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev() {
        // SAFETY: The records are live and initialised; the handler touches its timer's record alone.
        // Without SA_RESTART it ends the wait.
        unsafe {
            let mut before: libc::sigaction = mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &mut before) == -1 {
                return Err(io::Error::last_os_error());
            }
            if before.sa_sigaction != libc::SIG_DFL {
                continue;
            }
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = ticked as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            if libc::sigaction(signal, &action, ptr::null_mut()) == -1 {
                return Err(io::Error::last_os_error());
            }
            *taken = Some(Taken { signal, users: 1, before });
            return Ok(signal);
        }
    }
    Err(io::Error::other("every real-time signal has a handler of the host's"))
}

fn leave_signal() {
    let mut taken = taken();
    let Some(now) = &mut *taken else { return };
    now.users -= 1;
    if now.users == 0 {
        // SAFETY: The record is the one that the kernel gave.
        unsafe { libc::sigaction(now.signal, &now.before, ptr::null_mut()) };
        *taken = None;
    }
}

/// A timer, as its signal's handler finds it. The handler runs on the thread that the timer is for.
#[derive(Debug)]
struct Timer {
    id: libc::timer_t,
    armed: AtomicBool,
    waiting: AtomicBool,
}

impl Timer {
    fn set(&self, period_ns: libc::c_long) -> io::Result<()> {
        let period = libc::timespec { tv_sec: 0, tv_nsec: period_ns };
        let times = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: The timer lives, and the kernel reads a live record.
        let result = unsafe { libc::timer_settime(self.id, 0, &times, ptr::null_mut()) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

extern "C" fn ticked(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The kernel passes the signal's record. A timer's has as its value what the timer was made
    // with: a record that lives until the timer is deleted and its last signal has come. The call may be
    // made in a handler, and errno is put back.
    unsafe {
        if (*info).si_code != libc::SI_TIMER {
            return;
        }
        let timer = &*(*info).si_value().sival_ptr.cast::<Timer>();
        if !timer.waiting.load(Relaxed) {
            let errno = *libc::__errno_location();
            // A timer that cannot be stopped ticks on.
            if timer.set(0).is_ok() {
                timer.armed.store(false, Relaxed);
            }
            *libc::__errno_location() = errno;
        }
    }
}

/// A periodic timer whose signal goes to the thread that made it, and that thread's right to the signal.
#[derive(Debug)]
pub(super) struct Tick {
    timer: Box<Timer>,
    signal: i32,
    /// The thread blocked the signal before.
    blocked: bool,
}

impl Tick {
    /// Makes the timer, for the calling thread. It does not run yet.
    pub(super) fn start() -> io::Result<Tick> {
        let signal = take_signal()?;
        let mut timer = Box::new(Timer {
            id: ptr::null_mut(),
            armed: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
        });
        // SAFETY: The records are live and initialised. The timer's record lies in its box as long as the
        // timer lives.
        let made = unsafe {
            let mut event: libc::sigevent = mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = libc::gettid();
            event.sigev_value.sival_ptr = (&raw const *timer).cast_mut().cast();
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer.id)
        };
        if made == -1 {
            let error = io::Error::last_os_error();
            leave_signal();
            return Err(error);
        }
        Ok(Tick { timer, signal, blocked: change_mask(libc::SIG_UNBLOCK, signal) })
    }

    /// The thread is about to wait: the timer runs.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.timer.waiting.store(true, Relaxed);
        if !self.timer.armed.swap(true, Relaxed) {
            self.timer.set(PERIOD_NS)?;
        }
        Ok(())
    }

    /// The thread waits no longer.
    pub(super) fn end(&self) {
        self.timer.waiting.store(false, Relaxed);
    }
}

impl Drop for Tick {
    fn drop(&mut self) {
        // SAFETY: The timer is ours and lives. A signal of it that is pending arrives before this call
        // returns, because the thread does not block it.
        unsafe { libc::timer_delete(self.timer.id) };
        if self.blocked {
            change_mask(libc::SIG_BLOCK, self.signal);
        }
        leave_signal();
    }
}

/// Blocks or unblocks the signal in the calling thread. Returns whether it was blocked.
fn change_mask(how: i32, signal: i32) -> bool {
    // SAFETY: The sets are live and initialised.
    unsafe {
        let (mut set, mut before): (libc::sigset_t, libc::sigset_t) = (mem::zeroed(), mem::zeroed());
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(how, &set, &mut before);
        libc::sigismember(&before, signal) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(signal: i32) -> usize {
        // SAFETY: The record is live.
        unsafe {
            let mut now: libc::sigaction = mem::zeroed();
            libc::sigaction(signal, ptr::null(), &mut now);
            now.sa_sigaction
        }
    }

    #[test]
    fn ticks_of_several_threads_share_a_signal_that_is_the_hosts_again_afterwards() {
        // Another test's tick may live meanwhile, so the signal is kept by one of this test's own.
        let first = Tick::start().expect("the machine has timers");
        let signal = first.signal;
        let other = std::thread::spawn(|| {
            let tick = Tick::start().expect("the machine has timers");
            tick.begin().expect("it runs");
            tick.signal
        });
        assert_eq!(other.join().expect("no panic"), signal);
        assert_eq!(handler(signal), ticked as *const () as usize, "one still lives");
        first.begin().expect("it runs");
        drop(first);
        let taken = taken();
        if taken.is_none() {
            assert_eq!(handler(signal), libc::SIG_DFL);
        }
    }
}
