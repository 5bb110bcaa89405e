//! The two primitives that everything else is made of: a word that others may look at, and a
//! spinning mutual exclusion.

pub(crate) mod spin;
pub mod word;
