//! A case: something that can be done a number of times, and how long that takes.

use std::fmt::{self, Debug, Formatter};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Something to measure.
pub struct Case {
    pub(crate) name: String,
    /// Number of units in one turn, such as frames. A figure is the time for one unit.
    pub(crate) units: f64,
    run: Box<dyn FnMut(u64) -> Duration>,
}

impl Debug for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("units", &self.units).finish_non_exhaustive()
    }
}

/// How long `times` turns take.
#[inline]
pub fn time(times: u64, mut turn: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        turn();
    }
    start.elapsed()
}

impl Case {
    /// A case that keeps the time itself: it takes a number of turns and returns how long they took.
    pub fn timed(name: impl Into<String>, run: impl FnMut(u64) -> Duration + 'static) -> Case {
        Case { name: name.into(), units: 1.0, run: Box::new(run) }
    }

    /// A case that does `turn` again and again.
    pub fn new<R>(name: impl Into<String>, mut turn: impl FnMut() -> R + 'static) -> Case {
        Case::timed(name, move |times| {
            time(times, || {
                black_box(turn());
            })
        })
    }

    /// A case that does `turn` again and again, with the figure for one of its `units` units.
    #[must_use]
    pub fn per(mut self, units: usize) -> Case {
        self.units = units as f64;
        self
    }

    pub(crate) fn run(&mut self, times: u64) -> Duration {
        (self.run)(times)
    }

    /// How many times fit into `turn`.
    pub(crate) fn fit(&mut self, turn: Duration) -> u64 {
        let mut times = 1;
        loop {
            let took = self.run(times);
            if took >= turn / 8 {
                let fit = turn.as_nanos() * u128::from(times) / took.as_nanos().max(1);
                return u64::try_from(fit).expect("a turn is short").max(1);
            }
            times *= 2;
        }
    }
}
