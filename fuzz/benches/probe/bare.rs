//! The yardstick: a traced process that does nothing but trap, and a tracer that does nothing but let it go on.

use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Nanoseconds for one stop and going on, on one core.
pub fn stop(times: u32) -> f64 {
    let here = Pid::from_raw(0);
    let before = nix::sched::sched_getaffinity(here).expect("the cores");
    let core = nix::sched::sched_getcpu().expect("a core");
    let mut only = CpuSet::new();
    only.set(core).expect("a core's number");
    sched_setaffinity(here, &only).expect("a core of ours");
    // SAFETY: The child makes system calls alone, and traps, until it is killed.
    let child = match unsafe { fork() }.expect("a process") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _ = ptrace::traceme();
            loop {
                // SAFETY: The trap stops the process for its tracer, and changes nothing.
                unsafe { std::arch::asm!("int3") };
            }
        }
    };
    let trapped = WaitStatus::Stopped(child, Signal::SIGTRAP);
    assert_eq!(waitpid(child, None), Ok(trapped));
    let start = Instant::now();
    for _ in 0..times {
        ptrace::cont(child, None).expect("it is stopped");
        assert_eq!(waitpid(child, None), Ok(trapped));
    }
    let ns = start.elapsed().as_secs_f64() * 1e9 / f64::from(times);
    ptrace::kill(child).expect("it is stopped");
    waitpid(child, None).expect("it ends");
    sched_setaffinity(here, &before).expect("the cores of before");
    ns
}
