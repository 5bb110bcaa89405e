//! Installing signal handlers.

use std::io;

/// A handler as `SA_SIGINFO` has it.
pub(crate) type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler that runs on the thread's signal stack, with the profiling signal blocked.
/// Returns the handler that was there before.
///
/// # Errors
/// If the kernel refuses the handler.
pub(crate) fn install_handler(signal: libc::c_int, handler: Handler) -> io::Result<libc::sigaction> {
    // SAFETY: a zeroed sigaction is a valid one, and the handler keeps to what handlers may do.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaddset(&mut action.sa_mask, libc::SIGPROF);
        let mut previous: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(signal, &action, &mut previous) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(previous)
    }
}
