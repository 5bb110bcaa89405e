//! The museum: what each planted defect was, and the statistics of hunts for it.
//!
//! [`exhibits`] is the one table of what was wrong, where it was said, and what an oracle
//! must say of it; [`statistics`] are medians and survival of trials of which some end
//! before anything was found. Which defects can be planted is `Defect::ALL`, and nothing
//! else is: a defect that joins it is hunted.

pub mod exhibits;
pub mod statistics;

pub use exhibits::{Exhibit, exhibit};
