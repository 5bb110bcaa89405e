//! The baton: of several real threads, the one that holds it runs.
//!
//! # Book-keeping
//!
//! Each thread has a seat, each seat one word on its own cache line:
//!
//! | word | meaning |
//! |---|---|
//! | `EMPTY` | the baton is not here, nobody is known to sleep |
//! | `PASSED` | the baton lies here, its owner has not picked it up yet |
//! | `ASLEEP` | the owner sleeps on this word, or is about to |
//!
//! `pass` stores `PASSED` and wakes only where it replaced `ASLEEP`. `wait`
//! takes `PASSED` back to `EMPTY`, or else turns `EMPTY` into `ASLEEP` and asks
//! the kernel to sleep while the word still says so.
//!
//! # Correctness
//!
//! W waits, P passes; the word starts `EMPTY`.
//!
//! 1. P passes before W looks: W finds `PASSED`, takes it, never sleeps.
//! 2. W has written `ASLEEP`, P passes before W is in the kernel: P's wake finds
//!    nobody, but the kernel compares the word first and refuses to sleep.
//! 3. W sleeps, P passes: P replaced `ASLEEP`, so it wakes W.
//! 4. A signal or a stray wake ends W's sleep: W looks again, finds `ASLEEP`,
//!    and sleeps again.
//! 5. W's time is up as P passes: W leaves by exchanging the word for `EMPTY`, and
//!    what it got out decides. A baton is never lost between the two.
//!
//! All of a thread's plain writes before `pass` are seen by the thread whose
//! `wait` returns by it: `pass` releases, the exchange that takes acquires.
//!
//! # Gotchas
//!
//! - A seat has one waiter. A signal handler that waits on the seat that its
//!   own thread was interrupted waiting on would take the baton from under it:
//!   block such signals while waiting.
//! - After `pass` the caller still runs, without the baton: it may only wait, here or in
//!   its [`Parking`](crate::Parking).
//! - [`Baton::pass_call`] is `pass` for code that cannot call it. The kernel exchanges the
//!   word and wakes in one system call, so case 3 holds as it stands.
//! - Passing twice before it is picked up is passing once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::sys::{Call, die, syscall};

/// How many threads a baton can go round.
pub const SEATS: usize = 8;

const EMPTY: u32 = 0;
const PASSED: u32 = 1;
const ASLEEP: u32 = 2;

#[derive(Debug)]
#[repr(align(64))]
struct Seat(AtomicU32);

/// A right to run that is handed round between threads.
///
/// Nothing is held at first: the first `pass` puts it in circulation.
#[derive(Debug)]
pub struct Baton {
    seats: [Seat; SEATS],
}

impl Default for Baton {
    fn default() -> Self {
        Self::new()
    }
}

impl Baton {
    /// A baton that nobody holds yet.
    pub const fn new() -> Self {
        Self { seats: [const { Seat(AtomicU32::new(EMPTY)) }; SEATS] }
    }

    /// Makes `to` the holder and wakes it.
    #[inline]
    pub fn pass(&self, to: usize) {
        let word = self.word(to);
        if word.swap(PASSED, Ordering::Release) == ASLEEP {
            // Zero woken is case 2, so the count says nothing.
            if futex(word, libc::FUTEX_WAKE, 1, None).is_err() {
                die("waking a seat of the baton failed");
            }
        }
    }

    /// A system call that passes the baton to `to`: for a thread that goes on to wait
    /// elsewhere than at its seat, and makes the call with its last instruction but a few.
    ///
    /// The word becomes `PASSED` and its owner is woken, whether it sleeps or not.
    pub fn pass_call(&self, to: usize) -> Call {
        const WAKE_ONE: usize = 1;
        // Set the word to `PASSED`; where it was `ASLEEP` wake that many *more*, which is none.
        const THEN: usize = ((libc::FUTEX_OP_SET as usize) << 28)
            | ((libc::FUTEX_OP_CMP_EQ as usize) << 24)
            | ((PASSED as usize) << 12)
            | ASLEEP as usize;
        let word = self.word(to).as_ptr() as usize;
        let operation = (libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG) as usize;
        Call::new(libc::SYS_futex, [word, operation, WAKE_ONE, 0, word, THEN])
    }

    /// Sleeps until the baton is passed to `me`, and takes it.
    #[inline]
    pub fn wait(&self, me: usize) {
        self.take(self.word(me), None);
    }

    /// Hands the baton to `to` and sleeps until it comes back to `me`. Passing
    /// it to oneself is keeping it.
    pub fn pass_and_wait(&self, me: usize, to: usize) {
        if me != to {
            self.pass(to);
            self.wait(me);
        }
    }

    /// As [`wait`](Self::wait), for at most `limit`; says whether it came. Where
    /// it did not, `me` holds nothing and may wait again.
    pub fn wait_timeout(&self, me: usize, limit: Duration) -> bool {
        let deadline = deadline_after(limit);
        self.take(self.word(me), Some(&deadline))
    }

    fn take(&self, word: &AtomicU32, deadline: Option<&libc::timespec>) -> bool {
        loop {
            if word.compare_exchange(PASSED, EMPTY, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return true;
            }
            if word.compare_exchange(EMPTY, ASLEEP, Ordering::Relaxed, Ordering::Relaxed) == Err(PASSED) {
                continue;
            }
            match futex(word, libc::FUTEX_WAIT_BITSET, ASLEEP, deadline) {
                Ok(()) | Err(libc::EAGAIN | libc::EINTR) => {}
                Err(libc::ETIMEDOUT) => return leave(word),
                Err(_) => die("sleeping on a seat of the baton failed"),
            }
        }
    }

    fn word(&self, seat: usize) -> &AtomicU32 {
        match self.seats.get(seat) {
            Some(Seat(word)) => word,
            None => die("the baton has no such seat"),
        }
    }
}

/// Case 5: gives up waiting, and says whether the baton came after all.
fn leave(word: &AtomicU32) -> bool {
    word.swap(EMPTY, Ordering::Acquire) == PASSED
}

/// `limit` from now, as the kernel's monotonic clock counts; the end of time
/// where that is beyond it.
fn deadline_after(limit: Duration) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: The pointer is to a live timespec, and the clock always exists.
    // It answers from the vDSO and sets errno only on failure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let nanoseconds = now.tv_nsec + i64::from(limit.subsec_nanos());
    let carry = i64::from(nanoseconds >= 1_000_000_000);
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    libc::timespec {
        tv_sec: now.tv_sec.saturating_add(seconds).saturating_add(carry),
        tv_nsec: nanoseconds - carry * 1_000_000_000,
    }
}

fn futex(word: &AtomicU32, operation: i32, value: u32, deadline: Option<&libc::timespec>) -> Result<(), i32> {
    let args = [
        word.as_ptr() as usize,
        (operation | libc::FUTEX_PRIVATE_FLAG) as usize,
        value as usize,
        deadline.map_or(0, |deadline| std::ptr::from_ref(deadline) as usize),
        0,
        libc::FUTEX_BITSET_MATCH_ANY as u32 as usize,
    ];
    // SAFETY: The word and the deadline outlive the call as borrows; the kernel
    // reads both and writes neither. FUTEX_WAKE ignores the last three.
    unsafe { syscall(libc::SYS_futex, args) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_to_oneself_is_keeping() {
        let baton = Baton::new();
        baton.pass_and_wait(3, 3);
        assert!(!baton.wait_timeout(3, Duration::ZERO), "nothing was passed");
    }

    #[test]
    fn what_was_passed_is_consumed_once() {
        let baton = Baton::new();
        baton.pass(2);
        baton.pass(2);
        assert!(!baton.wait_timeout(1, Duration::ZERO), "seat 1 has nothing");
        baton.wait(2);
        assert!(!baton.wait_timeout(2, Duration::ZERO), "passing twice is passing once");
    }

    #[test]
    fn passing_by_a_call_is_passing() {
        let baton = Baton::new();
        // SAFETY: The call's word lives as long as the baton.
        let pass = |to| unsafe { baton.pass_call(to).make() };
        assert_eq!(pass(5), Ok(0), "nobody sleeps there");
        baton.wait(5);
        assert!(!baton.wait_timeout(5, Duration::ZERO), "it was passed once");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| baton.wait(6));
            while baton.word(6).load(Ordering::Relaxed) != ASLEEP {
                std::thread::yield_now();
            }
            pass(6).expect("the kernel knows FUTEX_WAKE_OP");
            waiter.join().expect("woken");
        });
    }

    /// The window is too narrow to hit from outside.
    #[test]
    fn a_baton_that_comes_with_the_limit_is_taken() {
        let baton = Baton::new();
        let word = baton.word(4);
        word.store(ASLEEP, Ordering::Relaxed);
        assert!(!leave(word), "nothing came");
        assert_eq!(word.load(Ordering::Relaxed), EMPTY);
        word.store(ASLEEP, Ordering::Relaxed);
        baton.pass(4);
        assert!(leave(word), "it came");
        assert_eq!(word.load(Ordering::Relaxed), EMPTY);
    }

    #[test]
    fn deadlines_saturate_and_carry() {
        let end = deadline_after(Duration::MAX);
        assert_eq!(end.tv_sec, i64::MAX);
        assert!((0..1_000_000_000).contains(&end.tv_nsec));
        let (a, b) = (deadline_after(Duration::ZERO), deadline_after(Duration::from_millis(1_999)));
        let between = (b.tv_sec - a.tv_sec) * 1_000_000_000 + b.tv_nsec - a.tv_nsec;
        assert!((1_999_000_000..60_000_000_000).contains(&between), "{between} ns");
    }
}
