//! Supervision: children from their start to the first finding or the end of their budget.
//!
//! - [`hunt`]: workers, each on a core, that explore schedules. `hunt_worker` is one of them.
//! - [`storm`]: one child in which everything happens at once.
//! - [`jobs`]: many small campaigns, several at a time, for the museum and the mutants.
//!
//! All of them stop where their flag is set (Ctrl-C), and leave no child and no folder behind. A campaign that
//! found nothing and ran nothing that could have found anything is
//! [`Inconclusive`](crate::report::Inconclusive).

pub mod hunt;
mod hunt_worker;
pub mod jobs;
pub mod storm;

use std::time::Duration;

use anyhow::{Context, Result};

/// How often children are looked at, and how often their counts.
pub(crate) const GLANCE: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(100);
/// Two looks further apart than this mean that this process was paused (Ctrl-Z), and its children too.
const PAUSED: Duration = Duration::from_secs(2);

/// A folder for the files that children share with this process. It goes away with its owner.
pub(crate) fn folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("sigstorm-").tempdir();
    folder.context("cannot make a folder for temporary files")
}
