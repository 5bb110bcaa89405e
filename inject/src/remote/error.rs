//! Errors of a tracer.

use std::io;

/// Why a traced process cannot be started, read, changed or continued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// The program as it was named.
        program: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel does not let this process trace the program.
    #[error(
        "the kernel refuses to trace {program} ({source}): in a container allow ptrace \
         (`--cap-add SYS_PTRACE`, or a seccomp profile with ptrace in it); under Yama set \
         kernel.yama.ptrace_scope below 3; under strace or gdb start it without them"
    )]
    Refused {
        /// The program as it was named.
        program: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// Some of the traced program's memory cannot be read or written.
    #[error("memory of the traced program at {address:#x} ({length} bytes) cannot be {action}: {source}")]
    Memory {
        /// The first byte.
        address: u64,
        /// The number of bytes.
        length: usize,
        /// `read` or `written`.
        action: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// No such thread is stopped and reported.
    #[error("thread {tid} is not held: only a thread that an event reported can be read and continued")]
    NotHeld {
        /// The thread.
        tid: i32,
    },
    /// No such process is traced.
    #[error("process {pid} is not traced")]
    NoProcess {
        /// The process.
        pid: i32,
    },
    /// The thread's stop is of a kind that does not allow this.
    #[error(
        "thread {tid} stopped at no boundary (a system call, an event): no signal can be delivered in \
         place of its stop; send one instead"
    )]
    NoBoundary {
        /// The thread.
        tid: i32,
    },
    /// An instruction that cannot run at another address.
    #[error("the instruction at {address:#x} ({bytes:02x?}) cannot be stepped out of line: {reason}")]
    OutOfLine {
        /// Its address.
        address: u64,
        /// Its bytes, or up to 15 bytes that are no instruction.
        bytes: Vec<u8>,
        /// The reason.
        reason: &'static str,
    },
    /// No memory for instructions that are stepped out of line.
    #[error("no memory near {address:#x} for instructions stepped out of line: {source}")]
    Scratch {
        /// The instruction's address.
        address: u64,
        /// The kernel's error.
        source: io::Error,
    },
    /// A request to the kernel failed.
    #[error("{action} failed for thread {tid}: {source}")]
    Kernel {
        /// The thread.
        tid: i32,
        /// The request.
        action: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The result of a tracer's method.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the request that failed.
pub(super) trait During<T> {
    fn during(self, action: &'static str, tid: i32) -> Result<T>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, action: &'static str, tid: i32) -> Result<T> {
        self.map_err(|source| Error::Kernel { tid, action, source })
    }
}
