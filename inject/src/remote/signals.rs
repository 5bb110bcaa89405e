//! Signals of a traced process: what it does with each, and records of one that is delivered.
//!
//! The kernel tells through `/proc` which signals a process ignores and which have a handler, never
//! the handler's address. The address is known once a signal was delivered and the thread stopped
//! at the handler's first instruction; [`Tracer::action`](super::Tracer::action) asks the process
//! itself, by a system call that a stopped thread is made to make.

use std::fs;
use std::io;

/// The signal sets of a thread and its process. Bit n - 1 of each set is signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSets {
    /// Pending for the thread.
    pub pending: u64,
    /// Pending for the whole process.
    pub shared_pending: u64,
    /// Blocked by the thread.
    pub blocked: u64,
    /// Ignored by the process.
    pub ignored: u64,
    /// Caught by a handler of the process.
    pub caught: u64,
}

/// Returns whether a set has this signal.
pub fn has_signal(set: u64, signal: i32) -> bool {
    bit(signal) & set != 0
}

/// The set with this signal alone; empty for a number that is no signal.
pub(super) fn bit(signal: i32) -> u64 {
    if (1..=64).contains(&signal) { 1 << (signal - 1) } else { 0 }
}

/// The sets of a thread, from `/proc/TID/status`.
pub(super) fn sets(tid: i32) -> io::Result<SignalSets> {
    let text = fs::read(format!("/proc/{tid}/status"))?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

fn parse(status: &str) -> SignalSets {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
    };
    SignalSets {
        pending: set("SigPnd"),
        shared_pending: set("ShdPnd"),
        blocked: set("SigBlk"),
        ignored: set("SigIgn"),
        caught: set("SigCgt"),
    }
}

/// Where a signal says that it comes from: its `si_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The process itself sent it to the thread (`SI_TKILL`).
    Tkill,
    /// The process itself sent it to the process (`SI_USER`).
    User,
    /// A POSIX timer expired (`SI_TIMER`).
    Timer,
    /// The kernel sent it (`SI_KERNEL`), as the interval timer `ITIMER_PROF` does.
    Kernel,
}

/// A signal, as the thread that receives it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalInfo {
    /// The signal.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// The sender's process, where the signal has one; else 0.
    pub sender: i32,
    /// The address of a fault, where the signal has one; else 0.
    pub address: u64,
}

/// `SI_TKILL`, `SI_TIMER`, `SI_KERNEL`, as siginfo.h has them.
pub(super) const SI_TKILL: i32 = -6;
pub(super) const SI_TIMER: i32 = -2;
pub(super) const SI_KERNEL: i32 = 0x80;
/// `si_code` of a SIGTRAP after a single step over a system call, after another single step, and at a
/// debug register.
pub(super) const TRAP_SYSCALL: i32 = 1;
pub(super) const TRAP_TRACE: i32 = 2;
pub(super) const TRAP_HWBKPT: i32 = 4;

impl SignalInfo {
    pub(super) fn from_raw(info: &libc::siginfo_t) -> SignalInfo {
        let (signal, code) = (info.si_signo, info.si_code);
        let sent = matches!(code, libc::SI_USER | libc::SI_QUEUE | SI_TKILL);
        let fault = code > 0
            && code != SI_KERNEL
            && matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP);
        SignalInfo {
            signal,
            code,
            // SAFETY: The code says that the record has a sender.
            sender: if sent { unsafe { info.si_pid() } } else { 0 },
            // SAFETY: The code says that the record has an address.
            address: if fault { unsafe { info.si_addr() as u64 } } else { 0 },
        }
    }
}

/// The head of the kernel's record: number, errno, code, padding, then process and user, or timer.
#[repr(C)]
struct Record {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    process: i32,
    user: u32,
}

/// The record of a signal that process `pid` receives.
pub(super) fn record(signal: i32, origin: Origin, pid: i32) -> libc::siginfo_t {
    // SAFETY: The call only asks.
    let user = unsafe { libc::getuid() };
    let (code, process, user) = match origin {
        Origin::Tkill => (SI_TKILL, pid, user),
        Origin::User => (libc::SI_USER, pid, user),
        Origin::Timer => (SI_TIMER, 0, 0),
        Origin::Kernel => (SI_KERNEL, 0, 0),
    };
    let head = Record { signal, errno: 0, code, padding: 0, process, user };
    // SAFETY: Every bit pattern is a valid record, of which `Record` is the head; both are as
    // aligned as a pointer needs, and the head is the smaller one.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (&raw mut info).cast::<Record>().write_unaligned(head);
        info
    }
}

/// A process's action for a signal, as the process itself told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// The handler's address; 0 for the default, 1 for ignored.
    pub handler: u64,
    /// `sa_flags`.
    pub flags: u64,
    /// The restorer's address.
    pub restorer: u64,
    /// The signals that are blocked while the handler runs.
    pub mask: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_parsed_by_name() {
        let status = "Name:\tx\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000004\n\
                      SigIgn:\t0000000000000008\nSigCgt:\t0000000004000000\nCapInh:\t0000000000000000\n";
        let sets = parse(status);
        assert_eq!((sets.pending, sets.shared_pending, sets.blocked, sets.ignored), (1, 2, 4, 8));
        assert!(has_signal(sets.caught, libc::SIGPROF) && !has_signal(sets.caught, libc::SIGTRAP));
        assert!(!has_signal(u64::MAX, 0) && !has_signal(u64::MAX, 65));
    }

    #[test]
    fn record_has_number_code_and_sender_where_the_kernel_puts_them() {
        let info = record(libc::SIGPROF, Origin::Tkill, 42);
        let read = SignalInfo::from_raw(&info);
        assert_eq!(read, SignalInfo { signal: libc::SIGPROF, code: -6, sender: 42, address: 0 });
        assert_eq!(record(libc::SIGPROF, Origin::Timer, 42).si_code, libc::SI_TIMER);
        assert_eq!(SignalInfo::from_raw(&record(libc::SIGPROF, Origin::Kernel, 42)).sender, 0);
    }
}
