//! The baton between real threads: strict turns, plain data handed over with it, time limits, and
//! waits that signals do not end.

mod common;

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{errno, in_child, set_errno};
use sigstorm_inject::{Baton, ErrnoGuard, allowed_cores, gettid, pin, tgkill};

const ROUNDS: usize = 10_000;
const THREADS: usize = 3;

/// Data that the baton alone protects.
struct Plain {
    turns: usize,
    last: usize,
    wrong: usize,
}

struct Shared {
    baton: Baton,
    plain: UnsafeCell<Plain>,
}

// SAFETY: Only the thread that holds the baton touches `plain`, which is the property under
// test.
unsafe impl Sync for Shared {}

/// Three threads, each on the core that `core` gives it, go round.
fn go_round(core: impl Fn(usize) -> usize) {
    let shared = Shared {
        baton: Baton::new(),
        plain: UnsafeCell::new(Plain { turns: 0, last: THREADS - 1, wrong: 0 }),
    };
    thread::scope(|scope| {
        for me in 0..THREADS {
            let (shared, core) = (&shared, core(me));
            scope.spawn(move || {
                pin(core).expect("an allowed core");
                let next = (me + 1) % THREADS;
                for round in 0..ROUNDS {
                    if round == 0 {
                        shared.baton.wait(me);
                    }
                    {
                        // SAFETY: This thread holds the baton.
                        let plain = unsafe { &mut *shared.plain.get() };
                        plain.wrong += usize::from((plain.last + 1) % THREADS != me);
                        plain.last = me;
                        plain.turns += 1;
                    }
                    if round + 1 < ROUNDS {
                        shared.baton.pass_and_wait(me, next);
                    } else {
                        // The last thread's last pass lands at slot 0.
                        shared.baton.pass(next);
                    }
                }
            });
        }
        shared.baton.pass(0);
    });
    let baton = shared.baton;
    let plain = shared.plain.into_inner();
    assert_eq!(plain.turns, THREADS * ROUNDS, "an update was lost");
    assert_eq!(plain.wrong, 0, "turns out of order");
    assert!(baton.wait_timeout(0, Duration::ZERO), "the last pass was lost");
    for slot in 0..THREADS {
        assert!(!baton.wait_timeout(slot, Duration::ZERO), "a second baton at slot {slot}");
    }
}

#[test]
fn three_threads_take_strict_turns_on_one_core() {
    go_round(|_| 0);
}

#[test]
fn three_threads_take_strict_turns_across_cores() {
    let cores = allowed_cores().expect("the mask can be read").len();
    go_round(|me| me % cores);
}

#[test]
fn timed_wait_ends_at_its_limit_or_with_the_baton() {
    let baton = Baton::new();
    let limit = Duration::from_millis(30);
    let start = Instant::now();
    assert!(!baton.wait_timeout(5, limit), "no thread has passed it");
    assert!(start.elapsed() >= limit, "too early: {:?}", start.elapsed());

    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            baton.pass(5);
        });
        assert!(baton.wait_timeout(5, Duration::from_secs(60)), "it was passed");
    });
    assert!(!baton.wait_timeout(5, Duration::ZERO), "it was taken");

    // A time-out leaves the slot usable for an untimed wait.
    thread::scope(|scope| {
        scope.spawn(|| baton.pass(5));
        baton.wait(5);
    });
}

#[test]
fn baton_passed_at_the_limit_is_never_lost() {
    let (there, back) = (Baton::new(), Baton::new());
    let mut by_timeout = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2_000 {
                back.wait(1);
                there.pass(0);
            }
        });
        for round in 0..2_000u64 {
            back.pass(1);
            while !there.wait_timeout(0, Duration::from_nanos(round % 50 * 200)) {
                by_timeout += 1;
            }
        }
    });
    assert!(!there.wait_timeout(0, Duration::ZERO), "every pass was taken once");
    // The kernel's scheduler decides how many limits expire first; one does below.
    println!("{by_timeout} limits ran out first");
    assert!(!there.wait_timeout(0, Duration::from_nanos(200)), "nothing was passed");
}

static WAITER: AtomicI32 = AtomicI32::new(0);
static INTERRUPTIONS: AtomicUsize = AtomicUsize::new(0);
static RETURNED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    INTERRUPTIONS.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn wait_survives_signals_and_keeps_errno() {
    in_child("wait_survives_signals_and_keeps_errno", || {
        // SAFETY: The handler adds to an atomic. Without SA_RESTART the futex
        // call returns EINTR.
        unsafe { common::handle(libc::SIGUSR1, 0, count) };
        let baton = Baton::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                WAITER.store(gettid(), Ordering::SeqCst);
                // errno is not the baton's to change, not even by EINTR.
                set_errno(77);
                baton.wait(0);
                assert_eq!(errno(), 77);
                RETURNED.store(1, Ordering::SeqCst);
            });
            for sent in 0..50 {
                thread::sleep(Duration::from_millis(1));
                match WAITER.load(Ordering::SeqCst) {
                    0 => continue,
                    tid => tgkill(tid, libc::SIGUSR1).expect("the thread lives"),
                }
                assert_eq!(RETURNED.load(Ordering::SeqCst), 0, "returned at signal {sent}");
            }
            thread::sleep(Duration::from_millis(5));
            assert!(INTERRUPTIONS.load(Ordering::SeqCst) >= 10, "the waiter was interrupted");
            assert_eq!(RETURNED.load(Ordering::SeqCst), 0, "a signal ended the wait");
            baton.pass(0);
        });
        assert_eq!(RETURNED.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn passing_to_a_slot_that_does_not_exist_aborts() {
    use std::os::unix::process::ExitStatusExt;
    let output = common::child_output("passing_to_a_slot_that_does_not_exist_aborts", || {
        Baton::new().pass(sigstorm_inject::MAX_THREADS);
    });
    if let Some(output) = output {
        let text = common::describe(&output);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
        assert!(text.contains("no such thread slot"), "{text}");
    }
}

#[test]
fn errno_guard_restores_errno() {
    set_errno(11);
    {
        let _guard = ErrnoGuard::save();
        set_errno(22);
    }
    assert_eq!(errno(), 11);
}
