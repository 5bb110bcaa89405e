//! What a storm is told.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;

use sigstorm_runtime::Defect;

/// Most threads that run goroutines: the core has one machine more, for the collector.
pub const MAX_THREADS: usize = sigstorm_runtime::sched::runtime::MAX_MACHINES - 1;
/// Most signals a second and thread: beyond it nothing but handlers runs.
pub const MAX_RATE: u32 = sigstorm_runtime::profiler::rate::MAX_RATE;
/// Longest delay, in microseconds.
pub const MAX_DELAY: u32 = 10_000;

/// What the timers count.
pub use sigstorm_runtime::profiler::timer::Clock;

/// Delays at scheduling points: how likely, and how long at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delay {
    /// From 0 to 1.
    pub probability: f64,
    /// Microseconds.
    pub micros: u32,
}

impl Default for Delay {
    fn default() -> Self {
        Delay { probability: 0.001, micros: 100 }
    }
}

impl Display for Delay {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.probability, self.micros)
    }
}

/// What is wrong with a delay.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DelayError {
    /// No colon.
    #[error("a delay is PROBABILITY:MICROSECONDS, such as 0.001:100")]
    Form,
    /// No probability.
    #[error("`{0}` is no probability: it must be a number from 0 to 1")]
    Probability(String),
    /// No length.
    #[error("`{0}` is no length: it must be a whole number of microseconds from 0 to {MAX_DELAY}")]
    Length(String),
}

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Delay, DelayError> {
        let (probability, micros) = text.split_once(':').ok_or(DelayError::Form)?;
        let wrong = || DelayError::Probability(probability.to_owned());
        let p: f64 = probability.trim().parse().map_err(|_| wrong())?;
        if !(0.0..=1.0).contains(&p) {
            return Err(wrong());
        }
        let long = || DelayError::Length(micros.to_owned());
        let us: u32 = micros.trim().parse().map_err(|_| long())?;
        if us > MAX_DELAY {
            return Err(long());
        }
        Ok(Delay { probability: p, micros: us })
    }
}

/// What a storm is told.
#[derive(Clone, Debug)]
pub struct StormOptions {
    /// The folder with `stats`, where the child leaves its finding.
    pub dir: PathBuf,
    /// How long it blows; until it is told to stop, if there is no number.
    pub seconds: Option<u64>,
    /// Signals a second for each thread.
    pub rate: u32,
    /// Threads that run goroutines.
    pub threads: usize,
    /// What the timers go by.
    pub clock: Clock,
    /// Delays at scheduling points.
    pub delay: Delay,
    /// Where the random choices begin.
    pub seed: u64,
    /// What is planted in the core.
    pub defects: Vec<Defect>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_a_probability_and_a_length() {
        assert_eq!("0.01:50".parse(), Ok(Delay { probability: 0.01, micros: 50 }));
        assert_eq!("0:0".parse(), Ok(Delay { probability: 0.0, micros: 0 }));
        assert_eq!("1:10000".parse(), Ok(Delay { probability: 1.0, micros: 10_000 }));
        assert_eq!("1e-3: 7".parse(), Ok(Delay { probability: 0.001, micros: 7 }));
        assert_eq!(Delay::default().to_string().parse(), Ok(Delay::default()));
    }

    #[test]
    fn anything_else_is_refused_and_says_why() {
        let error = |text: &str| text.parse::<Delay>().unwrap_err();
        assert_eq!(error("0.5"), DelayError::Form);
        assert_eq!(error(""), DelayError::Form);
        for (text, part) in [("2:5", "2"), ("-0.1:5", "-0.1"), ("NaN:5", "NaN"), ("inf:1", "inf"), (":5", "")]
        {
            assert_eq!(error(text), DelayError::Probability(part.to_owned()));
        }
        for (text, part) in [("0.1:", ""), ("0.1:10001", "10001"), ("0.1:-5", "-5"), ("0.1:1.5", "1.5")] {
            assert_eq!(error(text), DelayError::Length(part.to_owned()));
        }
        assert!(error("0.1:1:2").to_string().contains("microseconds"));
    }

    #[test]
    fn clocks_have_names() {
        assert_eq!(Clock::from_name("cpu"), Some(Clock::Cpu));
        assert_eq!(Clock::from_name("monotonic"), Some(Clock::Monotonic));
    }
}
