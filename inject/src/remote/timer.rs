//! A tick that ends the tracer's wait now and then, so that a wait can have a limit: the kernel has
//! no wait for traced threads with one.

use std::io;
use std::mem;
use std::ptr;

/// Time between two ticks.
const PERIOD_NS: libc::c_long = 20_000_000;

/// A periodic timer whose signal goes to the thread that made it.
#[derive(Debug)]
pub(super) struct Tick(libc::timer_t);

extern "C" fn nothing(_: i32) {}

impl Tick {
    pub(super) fn start() -> io::Result<Tick> {
        let signal = libc::SIGRTMAX() - 1;
        // SAFETY: The records are live and initialised; the handler does nothing. Without
        // SA_RESTART it ends the wait.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            if libc::sigaction(signal, &action, ptr::null_mut()) == -1 {
                return Err(io::Error::last_os_error());
            }
            let mut event: libc::sigevent = mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = ptr::null_mut();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) == -1 {
                return Err(io::Error::last_os_error());
            }
            let tick = Tick(timer);
            let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD_NS };
            let times = libc::itimerspec { it_interval: period, it_value: period };
            if libc::timer_settime(timer, 0, &times, ptr::null_mut()) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(tick)
        }
    }
}

impl Drop for Tick {
    fn drop(&mut self) {
        // SAFETY: The timer is ours and lives.
        unsafe { libc::timer_delete(self.0) };
    }
}
