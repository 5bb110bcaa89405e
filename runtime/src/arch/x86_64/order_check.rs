//! The one planted defect that lies in assembly: the trampoline's check of the order, inverted.

use core::ops::Range;

use super::trampoline::TRAMPOLINE_RETURN_GAP;

/// Makes the trampoline's check of the order one that cannot fire, as it once was: the slot's own
/// address in the place of the word above the slot, and the sense of the branch inverted. Calls
/// after the first do nothing.
///
/// `trampoline` is the range of its code. Only the bytes of two instructions change, and neither
/// which instructions they are nor where they lie, so the assembly stays what it should be.
///
/// # Panics
/// If the check is not found, or the text cannot be made writable.
pub(crate) fn invert_order_check(trampoline: Range<usize>) {
    const JNE: u8 = 0x75;
    const JE: u8 = 0x74;
    // add rax, 8; cmp rax, rsp; jne
    const CHECK: [u8; 8] = [0x48, 0x83, 0xc0, TRAMPOLINE_RETURN_GAP as u8, 0x48, 0x39, 0xe0, JNE];
    // SAFETY: the trampoline's own code, which is readable.
    let code = unsafe { core::slice::from_raw_parts(trampoline.start as *const u8, trampoline.len()) };
    let Some(offset) = code.windows(CHECK.len()).position(|bytes| bytes == CHECK) else {
        return assert!(
            code.contains(&JE),
            "the trampoline's check of the order is not where it is expected"
        );
    };
    const PAGE: usize = 4096;
    let at = trampoline.start + offset;
    let first = at & !(PAGE - 1);
    let len = (at + CHECK.len()).next_multiple_of(PAGE) - first;
    // SAFETY: pages of this program's own text, executable all the while; the caller plants
    // defects before any thread runs on a goroutine stack.
    unsafe {
        let writable = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        assert_eq!(libc::mprotect(first as *mut _, len, writable), 0, "the text cannot be made writable");
        ((at + 3) as *mut u8).write_volatile(0);
        ((at + 7) as *mut u8).write_volatile(JE);
        assert_eq!(libc::mprotect(first as *mut _, len, libc::PROT_READ | libc::PROT_EXEC), 0);
    }
}
