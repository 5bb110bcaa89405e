//! Signals: sending one to a thread, masks, and `errno` in handlers.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sys::{Call, syscall};

thread_local! {
    /// The calling thread's kernel id; zero until the kernel is asked.
    static TID: Cell<i32> = const { Cell::new(0) };
}

/// This process's id; zero until the kernel is asked.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

/// The calling thread's kernel id. The kernel is asked once a thread, so a thread that forks must
/// not have called this before.
#[inline]
pub fn gettid() -> i32 {
    if TID.get() == 0 {
        // SAFETY: The call takes nothing and touches nothing.
        TID.set(unsafe { syscall(libc::SYS_gettid, [0; 6]) }.unwrap_or(0) as i32);
    }
    TID.get()
}

/// This process's id, as the kernel takes it. The kernel is asked once, so a process that forks
/// must not have called this before.
#[inline]
pub(crate) fn getpid() -> usize {
    let known = PROCESS.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: The call takes nothing and touches nothing.
    let process = unsafe { syscall(libc::SYS_getpid, [0; 6]) }.unwrap_or(0);
    PROCESS.store(process, Ordering::Relaxed);
    process
}

/// Sends `signal` to the thread of this process with the kernel id `tid`.
///
/// # Errors
///
/// If there is no such signal (`EINVAL`) or no such thread (`EINVAL`, `ESRCH`).
#[inline]
pub fn tgkill(tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: The call touches no memory; an unknown thread or signal is an error. The effects
    // of the signal's handler are its installer's promise.
    unsafe { syscall(libc::SYS_tgkill, [getpid(), tid as usize, signal as usize, 0, 0, 0]) }
        .map(drop)
        .map_err(io::Error::from_raw_os_error)
}

/// A signal's bit in the kernel's mask.
pub(crate) const fn mask_of(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// A system call that changes the calling thread's mask: `how` is `SIG_BLOCK` or `SIG_UNBLOCK`.
pub(crate) fn mask_call(how: i32, mask: &u64) -> Call {
    let mask = ptr::from_ref(mask) as usize;
    Call::new(libc::SYS_rt_sigprocmask, [how as usize, mask, 0, size_of::<u64>(), 0, 0])
}

/// Restores `errno` on drop: put one at the head of every signal handler.
#[derive(Debug)]
pub struct ErrnoGuard {
    saved: i32,
    /// `errno` is the thread's own.
    not_send: PhantomData<*const ()>,
}

impl ErrnoGuard {
    /// Remembers `errno` until drop.
    #[must_use = "it restores errno when it is dropped"]
    pub fn save() -> Self {
        // SAFETY: libc gives each thread a valid location.
        let saved = unsafe { *libc::__errno_location() };
        Self { saved, not_send: PhantomData }
    }
}

impl Drop for ErrnoGuard {
    fn drop(&mut self) {
        // SAFETY: libc gives each thread a valid location, and the guard cannot leave its thread.
        unsafe { *libc::__errno_location() = self.saved };
    }
}
