//! Flags of an unwinding row, as the assembler emits them and the function table reads them.

/// The row is the outermost frame's, which has no return address.
pub(crate) const TOP: u32 = 1 << 16;
/// SP is the goroutine's already, and its PC is still in the saved state.
pub(crate) const SAVED: u32 = 1 << 17;
/// The frame's slots hold pointers.
pub(crate) const POINTERS: u32 = 1 << 18;
