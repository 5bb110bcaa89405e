//! The baton: of several real threads, the one that holds it runs.
//!
//! # Book-keeping
//!
//! Each thread has a slot, and each slot is one word on its own cache line:
//!
//! | word | meaning |
//! |---|---|
//! | `EMPTY` | the baton is not here; no thread is known to sleep |
//! | `PASSED` | the baton lies here; the slot's thread has not taken it yet |
//! | `ASLEEP` | the slot's thread sleeps on this word, or is about to |
//!
//! `pass` stores `PASSED` and wakes only if it replaced `ASLEEP`. `wait` takes `PASSED` back to
//! `EMPTY`, or else turns `EMPTY` into `ASLEEP` and asks the kernel to sleep while the word
//! still says so.
//!
//! # Correctness
//!
//! W waits, P passes; the word starts `EMPTY`.
//!
//! 1. P passes before W looks: W finds `PASSED`, takes it, never sleeps.
//! 2. W has written `ASLEEP`, P passes before W is in the kernel: P's wake finds no thread, but
//!    the kernel compares the word first and refuses to let W sleep.
//! 3. W sleeps, P passes: P replaced `ASLEEP`, so it wakes W.
//! 4. A signal or a stray wake ends W's sleep: W looks again, finds `ASLEEP`, and sleeps again.
//! 5. W's limit expires as P passes: W exchanges the word for `EMPTY`, and the word that it got
//!    out says whether it has the baton. A baton is never lost between the two.
//!
//! The thread whose `wait` returns by a `pass` sees all plain writes before that `pass`: `pass`
//! releases, and the exchange that takes the baton acquires.
//!
//! # Gotchas
//!
//! - A slot has one waiter. A signal handler that waits on the slot on which its own thread was
//!   interrupted waiting would take the baton from that wait: block such signals while waiting.
//! - After `pass` the caller still runs, without the baton: it may only wait, here or in its
//!   [`Parking`](crate::Parking).
//! - [`Baton::pass_call`] is `pass` for code that cannot call it. The kernel exchanges the word
//!   and wakes in one system call, so case 3 holds unchanged.
//! - Passing twice before the baton is taken is passing once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::sys::{Call, die, syscall};

/// The number of thread slots of a baton: slots 0 to `MAX_THREADS - 1`.
pub const MAX_THREADS: usize = 8;

const EMPTY: u32 = 0;
const PASSED: u32 = 1;
const ASLEEP: u32 = 2;

#[derive(Debug)]
#[repr(align(64))]
struct Slot(AtomicU32);

/// A right to run that is handed round between threads.
///
/// No thread holds it at first: the first `pass` puts it into circulation.
#[derive(Debug)]
pub struct Baton {
    slots: [Slot; MAX_THREADS],
}

impl Default for Baton {
    fn default() -> Self {
        Self::new()
    }
}

impl Baton {
    /// A baton that no thread holds yet.
    pub const fn new() -> Self {
        Self { slots: [const { Slot(AtomicU32::new(EMPTY)) }; MAX_THREADS] }
    }

    /// Makes the thread of slot `to` the holder and wakes it.
    #[inline]
    pub fn pass(&self, to: usize) {
        let word = self.word(to);
        if word.swap(PASSED, Ordering::Release) == ASLEEP {
            // In case 2 no thread is woken, so the count says nothing.
            if futex(word, libc::FUTEX_WAKE, 1, None).is_err() {
                die("waking a thread slot of the baton failed");
            }
        }
    }

    /// A system call that passes the baton to slot `to`, for a thread that then waits in its
    /// [`Parking`](crate::Parking) rather than at its slot. Only a few instructions may follow it.
    ///
    /// The word becomes `PASSED`, and the slot's thread is woken if it sleeps.
    pub fn pass_call(&self, to: usize) -> Call {
        const WAKE_ONE: usize = 1;
        // Set the word to `PASSED`; if it was `ASLEEP`, wake that many *more*, which is none.
        const THEN: usize = ((libc::FUTEX_OP_SET as usize) << 28)
            | ((libc::FUTEX_OP_CMP_EQ as usize) << 24)
            | ((PASSED as usize) << 12)
            | ASLEEP as usize;
        let word = self.word(to).as_ptr() as usize;
        let operation = (libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG) as usize;
        Call::new(libc::SYS_futex, [word, operation, WAKE_ONE, 0, word, THEN])
    }

    /// Sleeps until the baton is passed to slot `me`, and takes it.
    #[inline]
    pub fn wait(&self, me: usize) {
        self.take(self.word(me), None);
    }

    /// Passes the baton to slot `to` and sleeps until it comes back to slot `me`. Passing it to
    /// one's own slot keeps it.
    pub fn pass_and_wait(&self, me: usize, to: usize) {
        if me != to {
            self.pass(to);
            self.wait(me);
        }
    }

    /// As [`wait`](Self::wait), for at most `limit`. Returns whether the baton was passed.
    /// If it was not, the thread may wait again.
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
                Err(_) => die("sleeping on a thread slot of the baton failed"),
            }
        }
    }

    fn word(&self, slot: usize) -> &AtomicU32 {
        match self.slots.get(slot) {
            Some(Slot(word)) => word,
            None => die("the baton has no such thread slot"),
        }
    }
}

/// Case 5: gives up waiting. Returns whether the baton was passed after all.
fn leave(word: &AtomicU32) -> bool {
    word.swap(EMPTY, Ordering::Acquire) == PASSED
}

/// The time `limit` from now by the kernel's monotonic clock, or the clock's last time if that
/// is earlier.
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
    fn baton_passed_to_oneself_is_kept() {
        let baton = Baton::new();
        baton.pass_and_wait(3, 3);
        assert!(!baton.wait_timeout(3, Duration::ZERO), "nothing was passed");
    }

    #[test]
    fn baton_passed_twice_is_taken_once() {
        let baton = Baton::new();
        baton.pass(2);
        baton.pass(2);
        assert!(!baton.wait_timeout(1, Duration::ZERO), "slot 1 has nothing");
        baton.wait(2);
        assert!(!baton.wait_timeout(2, Duration::ZERO), "passing twice is passing once");
    }

    #[test]
    fn pass_call_passes_as_pass_does() {
        let baton = Baton::new();
        // SAFETY: The call's word lives as long as the baton.
        let pass = |to| unsafe { baton.pass_call(to).make() };
        assert_eq!(pass(5), Ok(0), "no thread sleeps there");
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
    fn baton_that_comes_with_the_limit_is_taken() {
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
