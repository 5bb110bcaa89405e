//! Exit reasons: why a goroutine left its stack.
//!
//! `switch_out` carries one of these words from a frame to the thread's own stack, where
//! `M::resume` acts on it.

/// A frame asks for its next operation.
pub(crate) const NEXT_OP: u32 = 0;
/// A prologue found too little room, or a preemption request.
pub(crate) const MORESTACK: u32 = 1;
/// The outermost frame has returned: the goroutine ends.
pub(crate) const GOEXIT0: u32 = 2;
/// The stub of a system call is about to enter the kernel.
pub(crate) const SYSCALL_ENTER: u32 = 3;
/// The stub of a system call is back from the kernel.
pub(crate) const SYSCALL_EXIT: u32 = 4;
/// The stub of a foreign call is about to run foreign code.
pub(crate) const FOREIGN_ENTER: u32 = 5;
/// The stub of a foreign call is back from foreign code.
pub(crate) const FOREIGN_EXIT: u32 = 6;
/// A callback's frame has been taken down: the thread goes back to foreign code.
pub(crate) const CALLBACK_EXIT: u32 = 7;
