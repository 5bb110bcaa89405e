//! The requests of `ptrace(2)` and `wait4(2)` that a tracer makes, each as a function.
//!
//! Only the thread that started the traced program may call these. A thread that is gone, or that
//! runs although the request needs it stopped, is the error `ESRCH`.

use std::io;
use std::mem;
use std::ptr;

use super::registers::Registers;

/// A `PTRACE_EVENT_STOP`: a group-stop, an interruption, or a new thread's first stop.
pub(super) const EVENT_STOP: i32 = 128;

const OPTIONS: i32 = libc::PTRACE_O_EXITKILL
    | libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC;

/// `PTRACE_GET_RSEQ_CONFIGURATION` of `linux/ptrace.h`.
const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;

/// How a stopped thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    /// Until something happens.
    Continue,
    /// Until a system call's entry or exit, too.
    ToSyscall,
    /// For one instruction.
    Step,
}

fn request(request: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: Callers pass as `data` a number, or the address of a live record of the size that
    // the request reads or writes. The kernel touches nothing else of this process.
    let result = unsafe { libc::ptrace(request, tid, address, data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Traces a process from now on, without stopping it. It dies with the tracer.
pub(super) fn seize(pid: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, pid, 0, OPTIONS as usize)
}

/// Lets a stopped thread go on, with this signal (0 for none).
pub(super) fn go(tid: i32, how: Go, signal: i32) -> io::Result<()> {
    let code = match how {
        Go::Continue => libc::PTRACE_CONT,
        Go::ToSyscall => libc::PTRACE_SYSCALL,
        Go::Step => libc::PTRACE_SINGLESTEP,
    };
    request(code, tid, 0, signal as usize)
}

/// Leaves a thread in its group-stop, and hears when that ends.
pub(super) fn listen(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_LISTEN, tid, 0, 0)
}

/// Stops a running thread.
pub(super) fn interrupt(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// Stops tracing a stopped thread, which goes on.
pub(super) fn detach(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize)
}

pub(super) fn registers(tid: i32) -> io::Result<Registers> {
    // SAFETY: Every bit pattern is a valid record.
    let mut regs: libc::user_regs_struct = unsafe { mem::zeroed() };
    request(libc::PTRACE_GETREGS, tid, 0, &raw mut regs as usize)?;
    Ok(Registers(regs))
}

pub(super) fn set_registers(tid: i32, regs: &Registers) -> io::Result<()> {
    request(libc::PTRACE_SETREGS, tid, 0, &raw const regs.0 as usize)
}

/// Sets the PC, and leaves the other registers alone.
pub(super) fn set_pc(tid: i32, pc: u64) -> io::Result<()> {
    poke_user(tid, mem::offset_of!(libc::user, regs) + mem::offset_of!(libc::user_regs_struct, rip), pc)
}

pub(super) fn signal_info(tid: i32) -> io::Result<libc::siginfo_t> {
    // SAFETY: Every bit pattern is a valid record.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    request(libc::PTRACE_GETSIGINFO, tid, 0, &raw mut info as usize)?;
    Ok(info)
}

pub(super) fn set_signal_info(tid: i32, info: &libc::siginfo_t) -> io::Result<()> {
    request(libc::PTRACE_SETSIGINFO, tid, 0, ptr::from_ref(info) as usize)
}

/// The signals that the thread blocks: bit n - 1 is signal n.
pub(super) fn signal_mask(tid: i32) -> io::Result<u64> {
    let mut mask = 0u64;
    request(libc::PTRACE_GETSIGMASK, tid, size_of_val(&mask), &raw mut mask as usize)?;
    Ok(mask)
}

pub(super) fn set_signal_mask(tid: i32, mask: u64) -> io::Result<()> {
    request(libc::PTRACE_SETSIGMASK, tid, size_of_val(&mask), &raw const mask as usize)
}

/// The number that belongs to the event at which the thread stopped.
pub(super) fn event_message(tid: i32) -> io::Result<i32> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message as usize)?;
    Ok(message as i32)
}

/// Writes a word of the thread's user area, such as a debug register.
pub(super) fn poke_user(tid: i32, offset: usize, word: u64) -> io::Result<()> {
    request(libc::PTRACE_POKEUSER, tid, offset, word as usize)
}

/// Reads a word of the stopped thread's memory.
pub(super) fn peek(tid: i32, address: u64) -> io::Result<u64> {
    let mut word = 0u64;
    // The C library's wrapper returns the word and reports errors in `errno` alone; the kernel's
    // own call stores it.
    // SAFETY: The kernel stores one word at the address given last.
    let result =
        unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, tid, address, &raw mut word) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(word) }
}

/// Writes a word of the stopped thread's memory, read-only code included.
pub(super) fn poke(tid: i32, address: u64, word: u64) -> io::Result<()> {
    request(libc::PTRACE_POKEDATA, tid, address as usize, word as usize)
}

/// A system-call stop, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyscallStop {
    Entry { number: u64, args: [u64; 6] },
    Exit { result: i64 },
    None,
}

pub(super) fn syscall_stop(tid: i32) -> io::Result<SyscallStop> {
    // `struct ptrace_syscall_info`: op, 3 bytes, arch, PC, SP, then number and arguments or the
    // result; 88 bytes.
    let mut info = [0u64; 11];
    request(libc::PTRACE_GET_SYSCALL_INFO, tid, size_of_val(&info), &raw mut info as usize)?;
    Ok(match info[0] as u8 {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            let mut args = [0; 6];
            args.copy_from_slice(&info[4..10]);
            SyscallStop::Entry { number: info[3], args }
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => SyscallStop::Exit { result: info[3] as i64 },
        _ => SyscallStop::None,
    })
}

/// The address of the record that the thread registered for restartable sequences, or 0.
pub(super) fn rseq_record(tid: i32) -> io::Result<u64> {
    // `struct ptrace_rseq_configuration`: address, size, signature, flags, padding.
    let mut configuration = [0u64; 3];
    request(GET_RSEQ_CONFIGURATION, tid, size_of_val(&configuration), &raw mut configuration as usize)?;
    Ok(configuration[0])
}

/// Waits for any thread that this thread traces, or asks (`block` false). Returns its id and its
/// status. Never waits for one thread alone: it may wait for another.
///
/// # Errors
///
/// `ECHILD` when there is none left, `EINTR` when a signal's handler ran.
pub(super) fn wait(block: bool) -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    // `__WNOTHREAD`: another thread of this process may trace a program of its own.
    let options = libc::__WALL | libc::__WNOTHREAD | if block { 0 } else { libc::WNOHANG };
    // SAFETY: The kernel stores the status; no usage is asked for.
    match unsafe { libc::waitpid(-1, &mut status, options) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        tid => Ok(Some((tid, status))),
    }
}

/// Returns whether the error says that the thread is gone (or runs).
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// `Ok` for a thread that is gone: its exit status follows.
pub(super) fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}
