//! Running a test in a process of its own, and the code that tests stop in.
//!
//! Handlers, patches and the breakpoint belong to the whole process, and a failing test can take
//! the process along. So such a test starts this same executable again with its own name, and
//! judges how that process ended.

// Each test file uses its part.
#![allow(dead_code)]

use std::arch::{asm, naked_asm};
use std::env;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use sigstorm_inject::CodeFunction;

const VARIABLE: &str = "SIGSTORM_INJECT_CHILD";

/// Runs `body` in a child process and asserts that it ran to its end there. `test` is the name of
/// the calling test.
#[track_caller]
pub fn in_child(test: &str, body: impl FnOnce()) {
    let Some(output) = child_output(test, body) else {
        return;
    };
    let text = describe(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains(&marker(test)), "no marker: the body never ran\n{text}");
}

/// Runs `body` in a child process and returns the child's output; `None` in the child itself.
pub fn child_output(test: &str, body: impl FnOnce()) -> Option<Output> {
    if env::var(VARIABLE).is_ok_and(|name| name == test) {
        // A child that hangs dies of SIGALRM, and its parent says so.
        // SAFETY: The call sets a timer, whose signal has no handler here.
        unsafe { libc::alarm(60) };
        body();
        println!("{}", marker(test));
        return None;
    }
    let output = Command::new(env::current_exe().expect("our own path"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .output()
        .expect("this executable runs again");
    Some(output)
}

pub fn marker(test: &str) -> String {
    format!("[{test} ran to its end]")
}

pub fn describe(output: &Output) -> String {
    format!(
        "child: {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub static ADDEND: u64 = 1_000;

/// `outer(x)` is `3 * x + ADDEND`, and `ADDEND` for 0, by the other branch.
/// Both copies have the same code in different layouts: the padding behind a function moves the
/// next one.
macro_rules! sample {
    ($outer:ident, $inner:ident, $outer_end:literal, $inner_end:literal, $skip:literal) => {
        #[unsafe(naked)]
        pub extern "C" fn $outer(x: u64) -> u64 {
            naked_asm!(
                "push rbp",
                "mov rbp, rsp",
                "mov rax, [rip + {addend}]",
                "test rdi, rdi",
                "je 2f",
                "call {inner}",
                "mov [rsp - 0x10], rax",
                "2:",
                "pop rbp",
                "ret",
                concat!(".globl ", $outer_end),
                concat!($outer_end, ":"),
                concat!(".skip ", $skip, ", 0x90"),
                addend = sym ADDEND,
                inner = sym $inner,
            )
        }

        #[unsafe(naked)]
        extern "C" fn $inner() {
            naked_asm!(
                "lea rcx, [rdi + rdi*2]",
                "add rax, rcx",
                "ret",
                concat!(".globl ", $inner_end),
                concat!($inner_end, ":"),
                concat!(".skip ", $skip, ", 0x90"),
            )
        }
    };
}

sample!(outer, inner, "inject_test_outer_end", "inject_test_inner_end", "0");
sample!(outer_again, inner_again, "inject_test_outer_end_2", "inject_test_inner_end_2", "777");

unsafe extern "C" {
    static inject_test_outer_end: u8;
    static inject_test_inner_end: u8;
    static inject_test_outer_end_2: u8;
    static inject_test_inner_end_2: u8;
}

pub const OUTER: usize = 0;
pub const INNER: usize = 1;

/// The first copy's functions, `OUTER` and `INNER`.
pub fn functions() -> [CodeFunction; 2] {
    [
        CodeFunction {
            name: "outer",
            start: outer as *const () as usize,
            end: &raw const inject_test_outer_end as usize,
        },
        CodeFunction {
            name: "inner",
            start: inner as *const () as usize,
            end: &raw const inject_test_inner_end as usize,
        },
    ]
}

/// The second copy's.
pub fn functions_again() -> [CodeFunction; 2] {
    [
        CodeFunction {
            name: "outer",
            start: outer_again as *const () as usize,
            end: &raw const inject_test_outer_end_2 as usize,
        },
        CodeFunction {
            name: "inner",
            start: inner_again as *const () as usize,
            end: &raw const inject_test_inner_end_2 as usize,
        },
    ]
}

/// The stack pointer. The address of a local will not do: AddressSanitizer keeps locals
/// elsewhere.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let sp;
    // SAFETY: It reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

pub fn errno() -> i32 {
    // SAFETY: libc gives each thread a valid location.
    unsafe { *libc::__errno_location() }
}

pub fn set_errno(value: i32) {
    // SAFETY: libc gives each thread a valid location.
    unsafe { *libc::__errno_location() = value };
}

/// Installs an SA_SIGINFO handler with these further flags.
///
/// # Safety
///
/// The handler does nothing that a signal handler must not do.
pub unsafe fn handle(
    signal: i32,
    flags: i32,
    handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
) {
    // SAFETY: All-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | flags;
    // SAFETY: The record is live; the handler is the caller's promise.
    let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Numbers that handlers saw, in order; those beyond `N` are counted only.
pub struct Log<const N: usize> {
    entries: [AtomicUsize; N],
    len: AtomicUsize,
}

impl<const N: usize> Log<N> {
    pub const fn new() -> Self {
        Log { entries: [const { AtomicUsize::new(0) }; N], len: AtomicUsize::new(0) }
    }

    pub fn push(&self, entry: usize) {
        let at = self.len.fetch_add(1, Ordering::SeqCst);
        if let Some(slot) = self.entries.get(at) {
            slot.store(entry, Ordering::SeqCst);
        }
    }

    /// Returns the numbers and empties the log.
    pub fn take(&self) -> Vec<usize> {
        let len = self.len.swap(0, Ordering::SeqCst);
        self.entries[..len].iter().map(|entry| entry.load(Ordering::SeqCst)).collect()
    }
}
