//! A whole SIGPROF, from `tgkill` to the instruction after it: the profiler's handler, which
//! tries the stack lock and walks the machine's goroutine, against a handler that does
//! nothing. Both are called by the kernel in the same way, on the signal stack.

#[path = "../goroutine/mod.rs"]
mod goroutine;

use std::ptr;

use sigstorm_compare::{Bench, Case, lines, time};
use sigstorm_runtime::profiler::{self, Outcome};
use sigstorm_runtime::{Config, M, unwind::fault};

use goroutine::Machines;

const DEPTHS: [usize; 5] = [1, 4, 16, 32, 64];
/// Where the goal is.
const GOAL: usize = 16;

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the handler that does nothing, otherwise as the profiler's is.
fn install_nothing() {
    // SAFETY: a zeroed sigaction is a valid one, and the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigaddset(&mut action.sa_mask, libc::SIGPROF);
        assert_eq!(libc::sigaction(libc::SIGPROF, &action, ptr::null_mut()), 0);
    }
}

/// A case that sends this thread the signal, after `install` has chosen the handler.
fn signals(name: &str, install: fn(), mut check: impl FnMut() + 'static) -> Case {
    // SAFETY: it only asks.
    let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
    Case::timed(name, move |times| {
        install();
        let took = time(times, || {
            // SAFETY: a signal with a handler, to this very thread: it is delivered as the
            // call returns.
            assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGPROF) }, 0);
        });
        check();
        took
    })
}

fn install_ours() {
    profiler::install().expect("the profiling handler");
}

/// Gives the thread a signal stack, as every machine's thread has one.
fn signal_stack() {
    const SIZE: usize = 1 << 18;
    let memory: &'static mut [u8] = vec![0; SIZE].leak();
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIZE };
    // SAFETY: leaked memory, so it outlives the thread.
    assert_eq!(unsafe { libc::sigaltstack(&stack, ptr::null_mut()) }, 0);
}

fn ours(m: &'static M, depth: usize) -> Case {
    signals("sigstorm", install_ours, move || {
        // SAFETY: nothing sends the signal any more, so the handler does not run.
        let sample = unsafe { m.last_sample() };
        assert_eq!((sample.outcome, sample.len), (Outcome::Traceback, depth));
    })
}

fn main() {
    let mut bench = Bench::new("handler", !cfg!(any(feature = "points", feature = "defects")));
    signal_stack();
    let w = Machines::new(Config { initial_stack: 16 * 1024, ..Config::default() });
    fault::install().expect("the fault handlers");
    for depth in DEPTHS {
        w.descend(depth);
        bench.compare_goals(
            &format!("SIGPROF, depth {depth}"),
            ours(w.m, depth),
            vec![(signals("empty handler", install_nothing, || ()), (depth == GOAL).then_some(1.3))],
        );
    }
    if bench.measures() {
        let plot = lines(bench.rows(), "SIGPROF, depth ", "sigstorm");
        bench.plot("handler", "A whole SIGPROF", ["frames", "ns"], plot);
    }
    bench.note("The goroutine is stopped and the machine's thread is interrupted: the walk starts at the saved state.");
    bench.end();
}
