//! The words that a child shares with its parent, in the file `stats`.
//!
//! Counts come first: [`Counts`](crate::outcome::Counts) of a worker,
//! [`StormCounts`](crate::storm::StormCounts) of a storm. The child writes them while it runs, and the
//! parent only reads, but for [`STOP`].

use crate::outcome::Counts;

/// Words of the file.
pub const WORDS: usize = 192;
/// The word with the number of features that a worker has seen.
pub const FEATURES: usize = 160;
/// Two words each, once it is so: schedules and microseconds until the first defect's faulty
/// code had run,
pub const REACHED: usize = 168;
/// until its condition had held,
pub const TRIGGERED: usize = 170;
/// and until something was found.
pub const DETECTED: usize = 172;
/// The word that the child moves while it lives.
pub const PULSE: usize = 190;
/// The word with which the parent asks for an end.
pub const STOP: usize = 191;

const _: () = assert!(Counts::WORDS <= FEATURES);

/// A copy of all words.
pub type Words = [u64; WORDS];

/// The counts of a worker.
pub fn counts(words: &Words) -> Counts {
    let mut counts = [0; Counts::WORDS];
    counts.copy_from_slice(&words[..Counts::WORDS]);
    Counts::from_words(counts)
}
