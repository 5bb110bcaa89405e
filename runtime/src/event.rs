//! Why a goroutine left its stack: the words that `switch_out` carries to the
//! thread's own stack.

/// A frame asks what to do next.
pub const ASK: u32 = 0;
/// A prologue found no room, or a preemption request.
pub const MORE: u32 = 1;
/// The outermost frame has returned.
pub const EXIT: u32 = 2;
/// A system call's stub is about to enter the kernel.
pub const SYSCALL_ENTER: u32 = 3;
/// A system call's stub is back from the kernel.
pub const SYSCALL_EXIT: u32 = 4;
/// A foreign call's stub is about to run foreign code.
pub const FOREIGN_ENTER: u32 = 5;
/// A foreign call's stub is back from foreign code.
pub const FOREIGN_EXIT: u32 = 6;
/// A callback's frame is taken down: back to foreign code.
pub const CALLBACK_EXIT: u32 = 7;
