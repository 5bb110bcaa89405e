//! The museum: mistakes of real runtimes, planted one at a time and hunted from an empty corpus.
//!
//! [`specimens`] is the one table of what was wrong, where it was said, and what an oracle
//! must say of it; [`statistics`] are medians and survival of trials of which some end
//! before anything was found. Which defects can be planted is `Defect::ALL`, and nothing
//! else is: a defect that joins it is hunted.
//!
//! A *trial* is one worker on one core with an empty corpus and a seed of its own; it ends
//! with its first finding or with its budget, and in the latter case it is censored. Of each
//! trial three times are known: when the specimen's faulty code first ran, when its condition
//! first held (both from the canary in the defect), and when anything was found.
//!
//! `trials` runs them, `tally` sums them up, `judge` says whether all were caught, `table` is for terminals
//! and for `museum.md`, `storms` sets storms beside them, `pages` writes the files, `plot`
//! draws the survival curves.

#[cfg(feature = "supervise")]
pub mod judge;
#[cfg(feature = "supervise")]
pub mod pages;
#[cfg(feature = "supervise")]
mod plot;
pub mod specimens;
pub mod statistics;
#[cfg(feature = "supervise")]
pub mod storms;
#[cfg(feature = "supervise")]
pub mod table;
#[cfg(feature = "supervise")]
pub mod tally;
#[cfg(feature = "supervise")]
pub mod trials;

use sigstorm_runtime::Defect;

pub use specimens::{Specimen, specimen};

/// The subject of a trial: a defect, or the core as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject(pub Option<Defect>);

impl Subject {
    /// The core as it is, as the command line and the tables name it.
    pub const NONE: &'static str = "none";

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.map_or(Subject::NONE, Defect::name)
    }

    /// Returns whether nothing may be found.
    pub fn must_be_silent(self) -> bool {
        self.0.and_then(specimen).is_none_or(|specimen| specimen.expected.is_empty())
    }
}

/// How schedules come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Baseline {
    /// Feedback chooses what to mutate.
    Hunt,
    /// Each one is made from nothing.
    Random,
}

impl Baseline {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Baseline::Hunt => "hunt",
            Baseline::Random => "random",
        }
    }
}
