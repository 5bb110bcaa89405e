//! A process that outlives the tracer for a moment, to kill what the kernel does not.
//!
//! Traced processes die with their tracer (`PTRACE_O_EXITKILL`). Children that were let go do not:
//! they are in the program's process group and nobody's business. So a guard waits at the end of a
//! pipe whose other end only the tracer has. When that end closes without a word, the tracer was
//! killed, and the guard kills the group.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};

#[derive(Debug)]
pub(super) struct Guard {
    pid: i32,
    word: File,
}

impl Guard {
    /// Watches over the process group.
    pub(super) fn over(group: i32) -> io::Result<Guard> {
        let (watched, word) = io::pipe()?;
        let watched = watched.as_raw_fd();
        // SAFETY: The child makes system calls alone and never returns.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => watch(watched, group),
            pid => Ok(Guard { pid, word: File::from(OwnedFd::from(word)) }),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // One that is gone hears nothing, and does nothing.
        let _ = self.word.write_all(&[1]);
        // SAFETY: The child is ours; one that has been waited for already is an error, and no harm.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// Runs in the guard: makes system calls, never returns.
fn watch(watched: i32, group: i32) -> ! {
    // SAFETY: These calls may be made after a fork. The descriptors are the guard's own copies: it
    // keeps no stream and no pipe of anybody open.
    unsafe {
        // Ctrl-C is for the tracer.
        libc::setsid();
        libc::dup2(watched, 0);
        libc::close_range(1, libc::c_uint::MAX, 0);
        let mut word = 0u8;
        loop {
            match libc::read(0, (&raw mut word).cast(), 1) {
                0 => break,
                -1 if *libc::__errno_location() == libc::EINTR => {}
                _ => libc::_exit(0),
            }
        }
        libc::kill(-group, libc::SIGKILL);
        libc::_exit(0)
    }
}
