//! System calls made by the instruction, system calls described for other code to make, and
//! aborting in place.
//!
//! libc's wrappers store into `errno`. A scheduling point may lie between the program's own
//! system call and its reading of `errno`, so nothing here goes through them.

use std::arch::asm;

/// Makes a system call.
///
/// # Errors
///
/// The kernel's positive error number.
///
/// # Safety
///
/// As the system call itself: pointers among `args` are valid for the kernel's use of them, and
/// the call breaks no promise that Rust relies on.
pub(crate) unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> Result<usize, i32> {
    let result: isize;
    // SAFETY: The kernel clobbers RAX, RCX and R11 and preserves the rest; it uses no user
    // stack. Its effects on memory are the caller's promise, and the block is not `nomem`, so
    // the compiler expects it to read and write.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&result) { Err(-result as i32) } else { Ok(result as usize) }
}

/// A system call for other code to make, at an instruction of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The call's number.
    pub number: usize,
    /// The arguments, in the kernel's order.
    pub args: [usize; 6],
}

impl Call {
    pub(crate) const fn new(number: libc::c_long, args: [usize; 6]) -> Call {
        Call { number: number as usize, args }
    }

    /// Makes the call.
    ///
    /// # Errors
    ///
    /// The kernel's positive error number.
    ///
    /// # Safety
    ///
    /// As [`syscall`].
    pub(crate) unsafe fn make(self) -> Result<usize, i32> {
        // SAFETY: the caller's promise.
        unsafe { syscall(self.number as libc::c_long, self.args) }
    }
}

/// Writes the reason to standard error and aborts: for broken contracts in code that must not
/// panic.
#[cold]
pub(crate) fn die(why: &str) -> ! {
    for part in ["sigstorm-inject: ", why, "\n"] {
        // SAFETY: Pointer and length are those of a live string. A failed
        // write loses the message and nothing else.
        let _ = unsafe { syscall(libc::SYS_write, [2, part.as_ptr() as usize, part.len(), 0, 0, 0]) };
    }
    // SAFETY: abort has no precondition and may be called in a signal handler.
    unsafe { libc::abort() }
}
