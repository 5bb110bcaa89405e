//! Unwinding: the function table, the walk of a stack, and what is said where a walk or an
//! invariant fails.

pub mod dump;
pub mod fault;
pub mod func_id;
pub mod functab;
mod raw_text;
pub mod reason;
pub mod rows;
pub(crate) mod signals;
pub mod throw;
pub mod traceback;
pub mod walk_error;
