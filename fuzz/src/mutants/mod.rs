//! Mutants: small changes of the core, each tried, to see whether the oracles notice.
//!
//! [`list`] reads `fuzz/mutants/core.toml`, where each mutant is a piece of the core's text and its
//! replacement. The code of the core stays as it is: [`build`] writes a copy of the workspace in which every such
//! piece became a choice at run time, so that one build serves nearly all of them; a piece that is
//! no expression or statement of Rust, such as a line of assembly, is built by itself.
//! [`trials`] hunts each mutant, or sweeps the default schedules in it (`sweeper`). One that is not found is
//! either equivalent, and the list says why, or something that the oracles do not see.

pub mod build;
pub mod list;
pub(crate) mod sweeper;
pub mod table;
pub mod trials;

use std::path::{Path, PathBuf};

/// The core's sources, from the repository's root.
fn sources(root: &Path) -> PathBuf {
    root.join("runtime/src")
}
