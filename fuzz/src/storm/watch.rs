//! The watchdog: tells a hang from slowness.
//!
//! A thread that does not get on is no proof: it may not have had the processor, or wait for
//! one that has not. So time by the clock proves nothing. A thread hangs when it has not got
//! on although it had its chance (it looked a thousand times whether its wait was over, or
//! used seconds of the processor's time), and everybody else had theirs as well: got on, or
//! used the processor, or hangs too. A process that was stopped and continued, or that
//! shares its cores with others, has used none of that.

use core::sync::atomic::Ordering;
use std::time::Duration;

use super::state::Storm;
use super::thread::{Activity, StormThread};

/// Looks that a thread must have stood still for.
const TICKS: u32 = 50;
/// A look that comes later than this says nothing: the process was stopped meanwhile.
const LATE: Duration = Duration::from_secs(1);
/// Checks of its own wait after which a thread had its chance.
const LOOKS: u64 = 1000;
/// The processor's time after which it had it.
const USED: Duration = Duration::from_millis(2500);
/// The progress that another thread must have made meanwhile, or the processor time used.
const DONE: u64 = 1000;
const BUSY: Duration = Duration::from_secs(1);

/// How a thread stands.
#[derive(Clone, Copy, Debug, Default)]
struct Stand {
    /// Whatever it has got done.
    progress: u64,
    /// How often it looked whether its wait is over.
    looks: u64,
    /// The processor's time that it has used.
    used: Duration,
    /// Whether the thread has nothing to do.
    idle: bool,
}

/// One thread since it got on last.
#[derive(Clone, Debug)]
struct Since {
    /// How everybody stood then.
    then: Vec<Stand>,
    /// Looks since then.
    ticks: u32,
}

/// The watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog(Vec<Since>);

/// The processor's time that a thread has used.
fn used(thread: &StormThread) -> Duration {
    let tid = thread.tid.load(Ordering::SeqCst);
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // The kernel's number for another thread's clock: see `MAKE_THREAD_CPUCLOCK` there.
    let clock = !tid << 3 | 6;
    // SAFETY: the record outlives the call; an unknown thread is an error.
    match unsafe { libc::clock_gettime(clock, &mut time) } {
        0 => Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
        _ => Duration::ZERO,
    }
}

impl Watchdog {
    pub(crate) fn new(storm: &Storm) -> Watchdog {
        Watchdog::of(storm.threads.len())
    }

    fn of(threads: usize) -> Watchdog {
        Watchdog(vec![Since { then: vec![Stand::default(); threads], ticks: 0 }; threads])
    }

    /// Looks at everybody, a tenth of a second after the last look or so. The one that hangs.
    pub(crate) fn look(&mut self, storm: &Storm, since: Duration) -> Option<usize> {
        let stands: Vec<Stand> = storm
            .threads
            .iter()
            .map(|thread| Stand {
                progress: thread.progress.load(Ordering::Relaxed),
                looks: thread.looks.load(Ordering::Relaxed),
                used: used(thread),
                idle: thread.activity() == Activity::Idle,
            })
            .collect();
        self.judge(&stands, since)
    }

    fn judge(&mut self, stands: &[Stand], since: Duration) -> Option<usize> {
        for (index, (mine, now)) in self.0.iter_mut().zip(stands).enumerate() {
            if now.idle || now.progress != mine.then[index].progress {
                *mine = Since { then: stands.to_vec(), ticks: 0 };
            } else if since < LATE {
                mine.ticks += 1;
            }
        }
        let hangs = |index: usize| {
            let (mine, now) = (&self.0[index], &stands[index]);
            let then = &mine.then[index];
            let chance = now.looks - then.looks >= LOOKS || now.used.saturating_sub(then.used) >= USED;
            !now.idle && mine.ticks >= TICKS && chance
        };
        let had_time = |index: usize, other: usize| {
            let (then, now) = (&self.0[index].then[other], &stands[other]);
            let used = now.used.saturating_sub(then.used);
            now.idle || hangs(other) || now.progress - then.progress >= DONE || used >= BUSY
        };
        let everybody = 0..stands.len();
        everybody.clone().find(|&one| hangs(one) && everybody.clone().all(|o| o == one || had_time(one, o)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// A watchdog's answer about two threads that go on like this for so many looks.
    fn watch(looks: u32, since: Duration, step: [Stand; 2]) -> Option<usize> {
        let (mut dog, mut now) = (Watchdog::of(2), [Stand::default(); 2]);
        (0..looks).find_map(|_| {
            for (now, step) in now.iter_mut().zip(step) {
                now.progress += step.progress;
                now.looks += step.looks;
                now.used += step.used;
                now.idle = step.idle;
            }
            dog.judge(&now, since)
        })
    }

    fn waits() -> Stand {
        Stand { looks: 100, ..Stand::default() }
    }

    fn works() -> Stand {
        Stand { progress: 1000, used: Duration::from_millis(40), ..Stand::default() }
    }

    fn spins() -> Stand {
        Stand { used: Duration::from_millis(60), ..Stand::default() }
    }

    #[test]
    fn who_waits_while_everybody_else_gets_on_hangs() {
        assert_eq!(watch(100, TICK, [waits(), works()]), Some(0));
        assert_eq!(watch(100, TICK, [works(), waits()]), Some(1));
        assert_eq!(watch(TICKS - 1, TICK, [waits(), works()]), None, "not at once");
    }

    #[test]
    fn who_spins_without_getting_on_hangs_and_so_do_two_who_wait() {
        assert_eq!(watch(100, TICK, [spins(), works()]), Some(0));
        assert_eq!(watch(100, TICK, [waits(), waits()]), Some(0));
        let idle = Stand { idle: true, ..Stand::default() };
        assert_eq!(watch(100, TICK, [waits(), idle]), Some(0));
    }

    #[test]
    fn who_never_has_the_processor_does_not_hang_nor_who_waits_for_it() {
        let starved = Stand::default();
        assert_eq!(watch(1000, TICK, [starved, works()]), None);
        assert_eq!(watch(1000, TICK, [waits(), starved]), None, "the other one may just be late");
        assert_eq!(watch(1000, TICK, [starved, starved]), None, "the process was stopped");
        assert_eq!(watch(1000, Duration::from_secs(9), [waits(), works()]), None, "looks far apart");
    }
}
