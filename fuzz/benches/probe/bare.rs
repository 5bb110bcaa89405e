//! The yardsticks: a traced process that does nothing but trap, a tracer that does nothing but let it go on, and the
//! least that an injection in place needs of the kernel.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Boundaries of the traced process.
const TRAPS: usize = 10_000;

std::arch::global_asm!(
    ".globl sigstorm_bench_traps",
    ".type sigstorm_bench_traps, @function",
    // Called as a C function of no arguments: runs so many instructions, and returns.
    "sigstorm_bench_traps:",
    ".rept 10000",
    "nop",
    ".endr",
    "ret",
    ".globl sigstorm_bench_restorer",
    // The instructions of a restorer: `rt_sigreturn`, with SP behind a signal frame's first word.
    "sigstorm_bench_restorer:",
    "mov rax, 15",
    "syscall",
);

unsafe extern "C" {
    fn sigstorm_bench_traps();
    fn sigstorm_bench_restorer();
}

extern "C" fn empty(_: i32) {}

/// Nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Yardsticks {
    /// One stop and going on.
    pub stop: f64,
    /// An injection by a tracer that makes no request but those without which there is none: it keeps no books,
    /// and looks at nothing but the frame.
    pub injection: f64,
}

/// Measures on one core.
pub fn measure() -> Yardsticks {
    let here = Pid::from_raw(0);
    let before = sched_getaffinity(here).expect("the cores");
    let mut only = CpuSet::new();
    only.set(sched_getcpu().expect("a core")).expect("a core's number");
    sched_setaffinity(here, &only).expect("a core of ours");
    // SAFETY: The child makes system calls alone, and traps, until it is killed.
    let child = match unsafe { fork() }.expect("a process") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => become_traced(),
    };
    wait(child);
    let start = Instant::now();
    for _ in 0..TRAPS {
        next(child, None);
    }
    let stop = start.elapsed().as_secs_f64() * 1e9 / TRAPS as f64;
    let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{child}/mem"));
    let memory = memory.expect("we trace it");
    memory.write_all_at(&[0xcc; TRAPS], sigstorm_bench_traps as *const () as u64).expect("it is code");
    next(child, None);
    let start = Instant::now();
    inject(child, &memory);
    let injection = start.elapsed().as_secs_f64() * 1e9 / TRAPS as f64;
    ptrace::kill(child).expect("it is stopped");
    waitpid(child, None).expect("it ends");
    sched_setaffinity(here, &before).expect("the cores of before");
    Yardsticks { stop, injection }
}

fn become_traced() -> ! {
    let _ = ptrace::traceme();
    // SAFETY: The handler does nothing.
    let _ = unsafe { signal(Signal::SIGUSR1, SigHandler::Handler(empty)) };
    // SAFETY: The trap stops the process for its tracer, and changes nothing.
    let trap = || unsafe { std::arch::asm!("int3") };
    (0..=TRAPS).for_each(|_| trap());
    loop {
        // SAFETY: The function takes nothing, and its instructions do nothing.
        unsafe { sigstorm_bench_traps() };
        trap();
    }
}

fn wait(child: Pid) {
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Stopped(child, Signal::SIGTRAP)));
}

/// Lets the process go on to its next stop.
fn next(child: Pid, signal: Option<Signal>) {
    match signal {
        Some(signal) => ptrace::step(child, signal).expect("it is stopped"),
        None => ptrace::cont(child, None).expect("it is stopped"),
    }
    wait(child);
}

fn set_pc(child: Pid, pc: u64) {
    let rip = std::mem::offset_of!(libc::user, regs) + std::mem::offset_of!(libc::user_regs_struct, rip);
    ptrace::write_user(child, rip as ptrace::AddressType, pc as i64).expect("it is stopped");
}

/// Injects at each boundary.
fn inject(child: Pid, memory: &File) {
    let mut restorer = None;
    for _ in 0..TRAPS {
        // The boundary: its own byte, and the signal in place of the trap.
        let boundary = ptrace::getregs(child).expect("it is stopped").rip - 1;
        let mut record = ptrace::getsiginfo(child).expect("it is stopped");
        set_pc(child, boundary);
        memory.write_all_at(&[0x90], boundary).expect("it is code");
        (record.si_signo, record.si_code) = (libc::SIGUSR1, -6);
        ptrace::setsiginfo(child, &record).expect("it is stopped");
        next(child, Some(Signal::SIGUSR1));
        // The handler's entry: the frame says where it returns to.
        let mut frame = [0; 184];
        memory
            .read_exact_at(&mut frame, ptrace::getregs(child).expect("it is stopped").rsp)
            .expect("its stack");
        restorer.get_or_insert_with(|| {
            let mut word = [0; 8];
            word.copy_from_slice(&frame[..8]);
            memory.write_all_at(&[0xcc], u64::from_le_bytes(word)).expect("it is code");
        });
        next(child, None);
        // The return: the same instructions elsewhere.
        ptrace::getregs(child).expect("it is stopped");
        set_pc(child, sigstorm_bench_restorer as *const () as u64);
        next(child, None);
    }
}
