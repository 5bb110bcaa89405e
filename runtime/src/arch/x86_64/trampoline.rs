//! The barrier trampoline.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::emit::TRAMPOLINE;
use crate::sched::g::G;
use crate::stack::barrier_list::Entry;
use crate::unwind::func_id::FuncId;

/// Distance from the slot of a replaced return address to SP inside the trampoline.
pub(crate) const TRAMPOLINE_RETURN_GAP: usize = 8;

/// The code to which a frame returns when a barrier lies over its return address.
///
/// In: SP one word above the replaced slot, `rbp` the caller's, `r14` = G; nothing else is live.
/// Out: at the return address that the barrier has kept, as if the frame had returned there.
///
/// It takes the entry at the position, checks that the entry is the one for this slot, moves the
/// position past it and goes on to the caller. Clobbers `rax`, `rcx`, `rdx`. Where the order is
/// broken it dies at `ud2`, with the position in `rcx`.
///
/// A walk that starts at any instruction here acts as if the trampoline had finished: the one
/// store moves the position, and no instruction before it changes anything that a walk reads.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
pub(super) unsafe extern "C" fn trampoline() {
    naked_asm!(
        "20:",
        "mov rcx, [r14 + {pos}]",
        "cmp rcx, [r14 + {len}]",
        "jae 26f",
        // rdx = the entry at the position
        "mov rdx, rcx",
        "shl rdx, {shift}",
        "add rdx, [r14 + {base}]",
        // the slot of that entry must be the word below SP
        "mov rax, [rdx + {slot}]",
        "add rax, {gap}",
        "cmp rax, rsp",
        "jne 26f",
        "mov rax, [rdx + {pc}]",
        // The barrier is hit.
        "add qword ptr [r14 + {pos}], 1",
        "jmp rax",
        // No entry is left, or the entry is another frame's.
        "26:",
        "ud2",
        "32:",
        row!("20b", "32b", "0", "{info}"),
        functab!("20b", "32b", "20b", "20b", "20b", "20b"),
        id = const FuncId::Trampoline as u32,
        size = const 0,
        slots = const 0,
        info = const (TRAMPOLINE | FuncId::Trampoline as u32),
        pos = const offset_of!(G, barriers.position),
        len = const offset_of!(G, barriers.len),
        base = const offset_of!(G, barriers.base),
        slot = const offset_of!(Entry, slot),
        pc = const offset_of!(Entry, pc),
        shift = const size_of::<Entry>().trailing_zeros(),
        gap = const TRAMPOLINE_RETURN_GAP,
    )
}

/// The trampoline's address, which a barrier writes over a return address.
#[inline(always)]
pub(crate) fn trampoline_address() -> usize {
    trampoline as *const () as usize
}
