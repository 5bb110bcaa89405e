//! How much of a core a child gets: what it has used and what it has waited for.

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

/// The processor's time that a child has used, at a moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    used: Duration,
    /// How long its threads were ready to run, and did not.
    waited: Duration,
}

/// A child's use of the processor, from its start on.
#[derive(Clone, Debug)]
pub struct Pace {
    pid: u32,
    begun: Instant,
    last: Option<Reading>,
    /// A second or so ago.
    earlier: Option<Reading>,
    /// When it last got on.
    moved: Option<Reading>,
}

/// Between these a child's share is what it has lately.
const LATELY: Duration = Duration::from_secs(1);

impl Pace {
    /// Of a child that has just been started.
    pub fn new(pid: u32) -> Pace {
        Pace { pid, begun: Instant::now(), last: None, earlier: None, moved: None }
    }

    /// Looks at it. One that has ended is left as it was seen last.
    pub fn look(&mut self, now: Instant) {
        let Some(used) = used(self.pid) else { return };
        let reading = Reading { at: now, used, waited: waited(self.pid) };
        self.last = Some(reading);
        if self.earlier.is_none_or(|earlier| now - earlier.at >= 2 * LATELY) {
            self.earlier = Some(reading);
        }
        self.moved.get_or_insert(reading);
    }

    /// It has got on since it was looked at before.
    pub fn moves(&mut self) {
        self.moved = self.last;
    }

    /// Its share of a core up to the last look; nothing where there was none.
    pub fn share(&self) -> Option<f64> {
        let last = self.last?;
        Some(last.used.as_secs_f64() / (last.at - self.begun).as_secs_f64().max(1e-3))
    }

    /// Its share of a core lately.
    pub fn lately(&self) -> Option<f64> {
        let (last, earlier) = (self.last?, self.earlier?);
        let time = last.at.saturating_duration_since(earlier.at);
        if time < LATELY / 2 {
            return self.share();
        }
        Some(last.used.saturating_sub(earlier.used).as_secs_f64() / time.as_secs_f64())
    }

    /// Whether it has not got on because it was not let: it was stopped, or ready to run most of the time
    /// and did not. One that runs, or that waits for nothing that the processor could give, may hang.
    pub fn is_deprived(&self) -> bool {
        if is_stopped(self.pid) {
            return true;
        }
        let (Some(last), Some(moved)) = (self.last, self.moved) else { return false };
        let time = last.at.saturating_duration_since(moved.at);
        let used = last.used.saturating_sub(moved.used);
        let waited = last.waited.saturating_sub(moved.waited);
        used < time / 2 && waited > time / 4
    }
}

/// The processor's time that a process has used; nothing where it has ended.
pub fn used(pid: u32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()));
    clock.and_then(clock_gettime).map(Duration::from).ok()
}

/// How long a process's threads were ready to run, and did not; nothing where the kernel does not say.
fn waited(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let of = |thread: fs::DirEntry| -> Option<u64> {
        fs::read_to_string(thread.path().join("schedstat")).ok()?.split_whitespace().nth(1)?.parse().ok()
    };
    Duration::from_nanos(threads.map_while(Result::ok).filter_map(of).sum())
}

/// Whether somebody has stopped it.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(readings: &[(u64, u64, u64)]) -> Pace {
        let begun = Instant::now();
        let reading = |&(at, used, waited): &(u64, u64, u64)| Reading {
            at: begun + Duration::from_millis(at),
            used: Duration::from_millis(used),
            waited: Duration::from_millis(waited),
        };
        let readings: Vec<Reading> = readings.iter().map(reading).collect();
        let (first, last) = (readings.first().copied(), readings.last().copied());
        Pace { pid: std::process::id(), begun, last, earlier: first, moved: first }
    }

    #[test]
    fn share_is_the_processors_time_over_the_clocks() {
        assert_eq!(pace(&[]).share(), None);
        let pace = pace(&[(1000, 900, 0), (3000, 1500, 0)]);
        assert_eq!((pace.share(), pace.lately()), (Some(0.5), Some(0.3)));
    }

    #[test]
    fn only_a_process_that_was_ready_and_did_not_run_is_deprived() {
        assert!(pace(&[(0, 0, 0), (1000, 50, 900)]).is_deprived());
        assert!(!pace(&[(0, 0, 0), (1000, 950, 20)]).is_deprived(), "it runs");
        assert!(!pace(&[(0, 0, 0), (1000, 0, 0)]).is_deprived(), "it sleeps");
    }

    #[test]
    fn pace_of_this_process_is_measured() {
        let mut pace = Pace::new(std::process::id());
        let mut sum = 0u64;
        while used(std::process::id()).unwrap() < Duration::from_millis(30) {
            sum = std::hint::black_box(sum + 1);
        }
        pace.look(Instant::now() + Duration::from_millis(1));
        assert!(pace.share().unwrap() > 0.0);
        assert!(!is_stopped(std::process::id()));
    }
}
