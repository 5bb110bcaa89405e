//! The options of a storm.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sigstorm_runtime::Defect;

/// Most threads that run goroutines: the core has one machine more, for the collector.
pub const MAX_THREADS: usize = sigstorm_runtime::sched::runtime::MAX_MACHINES - 1;
/// Most signals a second and thread: beyond it nothing but handlers runs.
pub const MAX_RATE: u32 = sigstorm_runtime::profiler::rate::MAX_RATE;
/// Longest delay, in microseconds.
pub const MAX_DELAY: u32 = 10_000;

/// The clock of the timers.
pub use sigstorm_runtime::profiler::timer::Clock;

/// Delays at scheduling points: how likely, and how long at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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

/// The mistake in a delay.
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

/// The options of a storm. The default is the one of the command line, on one thread.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StormOptions {
    /// Where it finds `stats`, and leaves what it finds.
    #[serde(with = "crate::process::task::path")]
    pub dir: PathBuf,
    /// How many seconds it blows; until it is told to stop, if there is no number.
    pub seconds: Option<u64>,
    /// Signals a second for each thread.
    pub rate: u32,
    /// Threads that run goroutines.
    pub threads: usize,
    /// The clock of the timers.
    #[serde(with = "clock_name")]
    pub clock: Clock,
    /// Delays at scheduling points.
    pub delay: Delay,
    /// Where the random choices begin.
    pub seed: u64,
    /// The cores that it keeps to, counted among the allowed ones; all of them where there are none.
    pub cores: Vec<usize>,
    /// The defects planted in the core.
    #[serde(with = "crate::process::task::defect_names")]
    pub defects: Vec<Defect>,
}

/// The rate of a storm for which none is named.
pub const DEFAULT_RATE: u32 = 10_000;

impl Default for StormOptions {
    fn default() -> Self {
        StormOptions {
            dir: PathBuf::new(),
            seconds: None,
            rate: DEFAULT_RATE,
            threads: 1,
            clock: Clock::Monotonic,
            delay: Delay::default(),
            seed: 0,
            cores: Vec::new(),
            defects: Vec::new(),
        }
    }
}

/// A clock, by its name.
mod clock_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Clock;

    pub fn serialize<S: Serializer>(clock: &Clock, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(clock.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Clock, D::Error> {
        let name = String::deserialize(deserializer)?;
        Clock::from_name(&name).ok_or_else(|| D::Error::custom(format!("there is no clock `{name}`")))
    }
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
