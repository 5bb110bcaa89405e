//! The locks that are compared, behind one face that is chosen at compile time. All of them
//! guard the same goroutine's stack: writers install and remove barriers on it, a signal
//! handler walks it.

use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock};

use sigstorm_runtime::sched::g::G;
use sigstorm_runtime::sched::runtime::MACHINES;
use sigstorm_runtime::stack::lock::{self, Operation};
use sigstorm_runtime::{Config, FuncId, M, RunResult, Runtime};

/// How a stack is kept from being walked while it changes: one thread's way to it.
pub trait Peer: Copy + Send + Sync + 'static {
    /// Its name in the tables.
    const NAME: &'static str;

    /// The way of thread `index`, and of its signal handler.
    fn of(index: usize) -> Self;

    /// A writer: runs `section` while no other thread is in one.
    fn locked<R>(self, section: impl FnOnce() -> R) -> R;

    /// A signal handler, which may have interrupted a writer: runs `section` if it can, and
    /// returns its result if that can be trusted.
    fn tried<R>(self, section: impl FnOnce() -> R) -> Option<R>;
}

/// Frames of the goroutine whose stack is fought for.
pub const FRAMES: usize = 16;

/// The goroutine, and the machines of the threads that fight.
pub fn stage() -> &'static ([&'static M; MACHINES], &'static G) {
    static STAGE: OnceLock<([&M; MACHINES], &G)> = OnceLock::new();
    STAGE.get_or_init(|| {
        let config = Config { every_frame: true, initial_stack: 8192, ..Config::default() };
        let runtime = Runtime::leak(config).expect("a valid configuration");
        let machines = [0, 1, 2].map(|id| M::leak(runtime, id));
        let g = &runtime.goroutines()[0];
        machines[0].attach().expect("no timer is asked for");
        assert!(machines[0].take(g));
        for _ in 0..FRAMES {
            // The first answer goes to the outermost frame, which asks again.
            assert_eq!(machines[0].call(FuncId::Small), RunResult::NextOp);
        }
        (machines, g)
    })
}

/// The core's: tried once.
#[derive(Clone, Copy)]
pub struct Ours {
    m: &'static M,
    g: &'static G,
}

impl Peer for Ours {
    const NAME: &'static str = "sigstorm";

    fn of(index: usize) -> Self {
        let (machines, g) = stage();
        Ours { m: machines[index], g }
    }

    #[inline]
    fn locked<R>(self, section: impl FnOnce() -> R) -> R {
        let _guard = lock::lock(self.m, self.g, Operation::Install);
        section()
    }

    #[inline]
    fn tried<R>(self, section: impl FnOnce() -> R) -> Option<R> {
        let _guard = lock::try_lock(self.m, self.g, Operation::Walk).ok()?;
        Some(section())
    }
}

/// A peer whose lock is a `static` mutex with `std`'s or `lock_api`'s words.
macro_rules! mutex {
    ($Peer:ident, $name:literal, $Mutex:ty, $new:expr, |$lock:ident| $locked:expr, $tried:expr) => {
        #[doc = concat!("`", $name, "`'s.")]
        #[derive(Clone, Copy)]
        pub struct $Peer(&'static $Mutex);

        impl Peer for $Peer {
            const NAME: &'static str = $name;

            fn of(_: usize) -> Self {
                static LOCK: $Mutex = $new;
                $Peer(&LOCK)
            }

            #[inline]
            fn locked<R>(self, section: impl FnOnce() -> R) -> R {
                let $lock = self.0;
                let _guard = $locked;
                section()
            }

            #[inline]
            fn tried<R>(self, section: impl FnOnce() -> R) -> Option<R> {
                let $lock = self.0;
                let _guard = $tried?;
                Some(section())
            }
        }
    };
}

mutex!(
    Std,
    "std",
    Mutex<()>,
    Mutex::new(()),
    |lock| lock.lock().expect("no section panics"),
    lock.try_lock().ok()
);
mutex!(
    ParkingLot,
    "parking_lot",
    parking_lot::Mutex<()>,
    parking_lot::Mutex::new(()),
    |lock| lock.lock(),
    lock.try_lock()
);
mutex!(Spin, "spin", spin::Mutex<()>, spin::Mutex::new(()), |lock| lock.lock(), lock.try_lock());

/// Takes a flag: spins for the processor's other threads, as the core's lock does.
fn take(flag: &AtomicBool) {
    while flag.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        // SAFETY: it has no preconditions.
        unsafe { libc::sched_yield() };
    }
}

/// A sequence lock: writers exclude each other and count; a handler walks whatever it finds
/// and trusts it only if no thread wrote meanwhile.
#[derive(Clone, Copy)]
pub struct Sequence(&'static (AtomicBool, AtomicUsize));

impl Peer for Sequence {
    const NAME: &'static str = "sequence lock";

    fn of(_: usize) -> Self {
        static LOCK: (AtomicBool, AtomicUsize) = (AtomicBool::new(false), AtomicUsize::new(0));
        Sequence(&LOCK)
    }

    #[inline]
    fn locked<R>(self, section: impl FnOnce() -> R) -> R {
        let (writer, sequence) = self.0;
        take(writer);
        let begun = sequence.load(Ordering::Relaxed) + 1;
        sequence.store(begun, Ordering::Relaxed);
        fence(Ordering::Release);
        let result = section();
        sequence.store(begun + 1, Ordering::Release);
        writer.store(false, Ordering::Release);
        result
    }

    #[inline]
    fn tried<R>(self, section: impl FnOnce() -> R) -> Option<R> {
        let sequence = &self.0.1;
        let before = sequence.load(Ordering::Acquire);
        if before % 2 == 1 {
            return None;
        }
        let result = section();
        fence(Ordering::Acquire);
        (sequence.load(Ordering::Relaxed) == before).then_some(result)
    }
}

/// Signal masking: a writer blocks SIGPROF, so that a handler never interrupts one on its
/// own thread, and may wait for another thread's.
#[derive(Clone, Copy)]
pub struct Masking(&'static AtomicBool);

/// Blocks or unblocks the profiling signal of the calling thread.
fn mask(how: libc::c_int) {
    // SAFETY: a zeroed set is a valid one; SIGPROF is a signal; no old set is wanted.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGPROF);
        assert_eq!(libc::pthread_sigmask(how, &set, ptr::null_mut()), 0);
    }
}

impl Peer for Masking {
    const NAME: &'static str = "signal masking";

    fn of(_: usize) -> Self {
        static LOCK: AtomicBool = AtomicBool::new(false);
        Masking(&LOCK)
    }

    #[inline]
    fn locked<R>(self, section: impl FnOnce() -> R) -> R {
        mask(libc::SIG_BLOCK);
        take(self.0);
        let result = section();
        self.0.store(false, Ordering::Release);
        mask(libc::SIG_UNBLOCK);
        result
    }

    #[inline]
    fn tried<R>(self, section: impl FnOnce() -> R) -> Option<R> {
        take(self.0);
        let result = section();
        self.0.store(false, Ordering::Release);
        Some(result)
    }
}
