//! Goroutine stacks: their memory, their lock, their barriers, and how they move.
//!
//! [`barrier`] has the protocol that the whole core is about.

pub mod barrier;
pub mod barrier_list;
mod caller_pc;
pub(crate) mod copystack;
pub mod lock;
pub mod lock_word;
pub mod mappings;
pub mod memory;
pub(crate) mod pool;

pub use memory::{MAX_STACK, MIN_STACK, STACK_RESERVE};
