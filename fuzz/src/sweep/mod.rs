//! The sweep: one schedule, disturbed once at every instruction that it reaches.
//!
//! A run that is only watched tells which instructions of the marked code each step
//! reaches, and how often. Then the schedule is run again for each of these visits ([`SweepPlan`]):
//!
//! - with a signal there, for the thread that is held;
//! - with the thread held there while another does what may conflict: what the schedule has
//!   it do later, and a few things that change stacks. It runs to its end, or blocks.
//!
//! Every such run is an ordinary schedule with a stop, so a violation can be replayed
//! and shrunk. Where signals are blocked, as in the handler, there is no signal to send.
//!
//! The loop over visits ends when an index does not fire. That it fires as often as was
//! counted is checked: count and run must agree.
//!
//! [`Coverage`] keeps what was done where, and says why something was not.

mod coverage;
#[cfg(feature = "supervise")]
pub mod grow;
mod listing;
mod plan;
mod reasons;
#[cfg(feature = "supervise")]
pub mod run;

pub use coverage::{Coverage, InstructionCoverage, UnreachedReason};
pub use listing::{html, text};
pub use plan::{Injection, Perturbation, SweepPlan, plain};
