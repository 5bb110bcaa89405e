//! A hand-over: the baton against bare futexes, round a ring of threads on one core.

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use sigstorm_compare::Case;
use sigstorm_inject::{Baton, SignalStack};

/// Something that goes round `threads` threads.
trait Round: Sync {
    fn pass(&self, to: usize);
    fn wait(&self, me: usize);
}

impl Round for Baton {
    fn pass(&self, to: usize) {
        Baton::pass(self, to);
    }

    fn wait(&self, me: usize) {
        Baton::wait(self, me);
    }
}

/// A word for each thread: one is its turn.
struct Bare([AtomicU32; sigstorm_inject::MAX_THREADS]);

fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    // SAFETY: the word outlives the call; no time-out. An answer would tell nothing that the
    // word does not.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation | libc::FUTEX_PRIVATE_FLAG,
            value,
            ptr::null::<libc::timespec>(),
        );
    }
}

impl Round for Bare {
    fn pass(&self, to: usize) {
        self.0[to].store(1, Ordering::Release);
        futex(&self.0[to], libc::FUTEX_WAKE, 1);
    }

    fn wait(&self, me: usize) {
        while self.0[me].load(Ordering::Acquire) == 0 {
            futex(&self.0[me], libc::FUTEX_WAIT, 0);
        }
        self.0[me].store(0, Ordering::Relaxed);
    }
}

/// How long it takes to go round so many times. The threads share the caller's core.
fn time(round: &impl Round, threads: usize, times: u64) -> Duration {
    thread::scope(|scope| {
        for me in 1..threads {
            scope.spawn(move || {
                for _ in 0..=times {
                    round.wait(me);
                    round.pass((me + 1) % threads);
                }
            });
        }
        let go_round = || {
            round.pass(1);
            round.wait(0);
        };
        go_round(); // Every thread has begun.
        let start = Instant::now();
        for _ in 0..times {
            go_round();
        }
        start.elapsed()
    })
}

/// Nanoseconds for a signal that the calling thread sends itself, with an empty handler on a signal stack.
pub fn signal() -> f64 {
    const TIMES: u32 = 20_000;
    extern "C" fn empty(_: libc::c_int) {}
    let _stack = SignalStack::install().expect("a signal stack");
    let action = SigAction::new(SigHandler::Handler(empty), SaFlags::SA_ONSTACK, SigSet::empty());
    // SAFETY: the handler does nothing, and nobody else has this signal.
    unsafe { sigaction(Signal::SIGUSR2, &action) }.expect("a handler for SIGUSR2");
    let me = sigstorm_inject::gettid();
    let start = Instant::now();
    for _ in 0..TIMES {
        sigstorm_inject::tgkill(me, libc::SIGUSR2).expect("a signal to oneself");
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
}

/// A hand-over of the baton among so many threads.
pub fn baton(threads: usize) -> Case {
    Case::timed("sigstorm", move |times| time(&Baton::new(), threads, times)).per(threads)
}

/// The same with nothing but futexes.
pub fn bare(threads: usize) -> Case {
    Case::timed("bare futex", move |times| {
        time(&Bare([const { AtomicU32::new(0) }; sigstorm_inject::MAX_THREADS]), threads, times)
    })
    .per(threads)
}
