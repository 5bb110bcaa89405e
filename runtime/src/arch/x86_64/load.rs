//! Loads that the compiler must not touch: of words that may not be readable, and of a row's
//! first half.

use core::arch::asm;

/// Reads a word that may not be readable. Returns `fallback` if the read faults.
///
/// # Safety
/// As of [`load_at_or`].
#[inline(always)]
pub(crate) unsafe fn load_or(address: usize, fallback: usize) -> usize {
    // SAFETY: the same address (caller).
    unsafe { load_at_or(address, 0, fallback) }
}

/// Reads the word `offset` bytes above `base`. Returns `fallback` if the read faults. A walk
/// knows `base` before it knows `offset`, so the load itself adds the two.
///
/// The load has a row in `stkbar_exc`, which tells the SIGSEGV handler where to go on; the
/// register then still holds `fallback`.
///
/// # Safety
/// The handler of [`crate::unwind::fault`] is installed, or the address is readable.
#[inline(always)]
pub(crate) unsafe fn load_at_or(base: usize, offset: usize, fallback: usize) -> usize {
    let mut value = fallback;
    // SAFETY: a plain load; where it faults the handler resumes after it (caller).
    unsafe {
        asm!(
            "2:",
            "mov {value}, [{base} + {offset}]",
            "3:",
            ".pushsection stkbar_exc,\"aR\",@progbits",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".popsection",
            base = in(reg) base,
            offset = in(reg) offset,
            value = inout(reg) value,
            options(nostack, readonly, preserves_flags),
        );
    }
    value
}

/// Reads the first half of the `index`th word from `base` on, widened.
///
/// # Safety
/// The word is readable, and no thread writes it.
#[inline(always)]
pub(crate) unsafe fn load_wide(base: usize, index: usize) -> usize {
    let value: usize;
    // SAFETY: a plain load (caller); to write half a register clears the other half.
    unsafe {
        asm!(
            "mov {value:e}, dword ptr [{base} + {index} * 8]",
            base = in(reg) base,
            index = in(reg) index,
            value = lateout(reg) value,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    value
}

/// Reads a byte and forgets it. If the byte cannot be read, this is the instruction that faults.
///
/// # Safety
/// `address` is readable, or the fault is wanted.
#[inline(always)]
pub(crate) unsafe fn touch(address: usize) {
    // SAFETY: a plain load, of which nothing is kept (caller).
    unsafe { asm!("test byte ptr [{address}], 0", address = in(reg) address, options(nostack, readonly)) };
}
