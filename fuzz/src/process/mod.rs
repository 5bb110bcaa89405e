//! Child processes: one protocol for all that run the core.
//!
//! A violation ends the process that ran it: the core is corrupted, or its threads are parked for good.
//! So the core runs in children of this same binary, and the parent judges how each of them ends.
//! There are four kinds: the worker of a hunt, the runner of single schedules, a storm, and the sweeper
//! of a mutant. They share everything but their work:
//!
//! - **Start.** `sigstorm KIND ORDERS`: the orders are one argument of JSON, [`Orders`], which names the
//!   parent and the [`Task`] with its options. Each task's options are one struct, used by the parent
//!   to say what it wants and by the child to do it.
//! - **Life.** A child dies with its parent, however the parent ends, and leaves Ctrl-C to it.
//! - **Shared memory.** A file of [`counters::WORDS`] words in the child's folder: its counts, a pulse that
//!   moves while it lives, and a word with which the parent asks for an end. Beside it a worker's
//!   `current` holds the schedule under way, so that the parent knows it whatever ends the worker.
//! - **Answers.** A runner answers requests, a line of JSON each ([`answer`]). The others leave at most one
//!   finding in their folder, before they end.
//! - **End.** The exit status is a [`Status`]. Any other end is judged by [`child_exit`].
//! - **Log.** What a child prints is kept in memory, and its last lines are evidence where it dies.
//!
//! The child's side is in [`worker`], [`serve`] and [`storm`](crate::storm); the parent's is
//! `Child`, with `Runner` for requests and answers, and [`campaign`](crate::campaign) for the rest.

pub mod answer;
pub mod counters;
#[cfg(feature = "libfuzzer")]
pub mod current;
pub mod mailbox;
pub mod status;
pub mod task;

pub(crate) mod shared;

#[cfg(feature = "supervise")]
mod child;
#[cfg(feature = "supervise")]
pub mod child_exit;
#[cfg(feature = "supervise")]
pub mod cores;
#[cfg(feature = "supervise")]
mod main;
#[cfg(feature = "supervise")]
pub mod pace;
#[cfg(feature = "supervise")]
mod runner;
pub mod serve;
#[cfg(feature = "supervise")]
mod spawn;
#[cfg(feature = "libfuzzer")]
pub mod worker;

pub use answer::Answer;
#[cfg(feature = "supervise")]
pub use child::{Child, Found};
#[cfg(feature = "supervise")]
pub use main::main;
#[cfg(feature = "supervise")]
pub use runner::Runner;
pub use status::Status;
pub use task::{Orders, RunnerOptions, SweeperOptions, Task, WorkerOptions};
