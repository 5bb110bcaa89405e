//! The folder in which a child and its parent share files.
//!
//! | file | |
//! |---|---|
//! | `stats` | words that both sides map or read ([`counters`]) |
//! | `current` | the schedule that a worker runs ([`current`](super::current)) |
//! | `finding.json`, `finding.bin` | a finding and the bytes of its schedule, if it has one |

use std::fs;
use std::io;
use std::path::Path;

use super::counters;
use crate::outcome::Finding;
use crate::process::shared::Shared;
use crate::schedule::Schedule;

/// Makes the folder's `stats` for a child that is about to be started. The file is written, not only
/// made that long: a child that maps a file with holes dies where the disk is full.
///
/// # Errors
/// As for writing.
pub fn create(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("stats"), [0; counters::WORDS * 8])
}

/// The child's view of `stats`.
///
/// # Errors
/// As for opening and mapping the file.
pub(crate) fn map(dir: &Path) -> io::Result<Shared> {
    Shared::map(&dir.join("stats"), counters::WORDS * 8)
}

/// Leaves a finding for the parent, with the bytes of the schedule that shows it, or none.
pub(crate) fn leave(dir: &Path, bytes: &[u8], finding: &Finding) {
    let written = fs::write(dir.join("finding.bin"), bytes)
        .and_then(|()| Ok(serde_json::to_vec(finding)?))
        .and_then(|json| fs::write(dir.join("finding.json"), json));
    if let Err(error) = written {
        eprintln!("the finding cannot be written to {}: {error}", dir.display());
        eprintln!("{}: {}", finding.verdict, finding.summary);
        if !bytes.is_empty() {
            eprintln!("{}", Schedule::decode(bytes));
        }
    }
}
