//! The collector, its heap, and what frames do with that heap.

pub(crate) mod cycle;
pub mod heap;
pub mod mutator;
pub mod phase;
pub(crate) mod scan;
