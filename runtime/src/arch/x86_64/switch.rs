//! The switch between a thread's own stack and a goroutine's.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::emit::SWITCH;
use crate::arch::row_flags::SAVED;
use crate::sched::g::G;
use crate::unwind::func_id::FuncId;

/// Leaves the thread's own stack and goes on where `g` stopped. Returns, on the thread's own
/// stack, the exit reason with which the goroutine leaves.
///
/// In: `rdi` = G whose saved state is complete, `rsi` = the answer to its ask. On the goroutine's
/// stack: `r14` = G, `rax` = the answer, `rbp` and SP as saved.
///
/// From the change of SP to the jump, SP is the goroutine's and its PC is only in the saved state:
/// rows with `SAVED`. The saved SP is cleared as it is used, so that no walk starts from a stale
/// one.
///
/// # Safety
/// The thread owns `g`, and `switch_out`, a spawn or a recovery made the saved state.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
pub(crate) unsafe extern "C" fn switch_in(g: *const G, answer: usize) -> usize {
    naked_asm!(
        "20:",
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov r14, rdi",
        "mov rax, rsi",
        "mov [r14 + {g0_sp}], rsp",
        "mov rbp, [r14 + {bp}]",
        "mov rsp, [r14 + {sp}]",
        // SP is the goroutine's; its PC and, for one instruction more, its SP are in the saved state.
        "22:",
        "mov qword ptr [r14 + {sp}], 0",
        "jmp [r14 + {pc}]",
        "32:",
        row!("20b", "32b", "0", "{info}"),
        functab!("20b", "32b", "22b", "22b", "22b", "22b"),
        id = const FuncId::SwitchIn as u32,
        size = const 0,
        slots = const 0,
        info = const (SWITCH | SAVED | FuncId::SwitchIn as u32),
        g0_sp = const offset_of!(G, g0_sp),
        sp = const offset_of!(G, sched.sp),
        pc = const offset_of!(G, sched.pc),
        bp = const offset_of!(G, sched.bp),
    )
}

/// Leaves a goroutine stack for the thread's own, in the middle of [`switch_in`]'s call.
///
/// In: called from a frame, so SP points to the return address; `r14` = G, `eax` = the exit
/// reason. PC, SP (as after the return) and `rbp` are saved before SP changes, so from the change
/// on the saved state is complete. Clobbers `rcx`, `rdx`.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
pub(super) unsafe extern "C" fn switch_out() {
    naked_asm!(
        "20:",
        "mov rcx, [rsp]",
        "lea rdx, [rsp + 8]",
        "mov [r14 + {pc}], rcx",
        "mov [r14 + {bp}], rbp",
        // Last of the three: a saved SP says that the rest is saved.
        "mov [r14 + {sp}], rdx",
        "mov rsp, [r14 + {g0_sp}]",
        // SP is the thread's own; what follows undoes the pushes of `switch_in`.
        "22:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        "32:",
        row!("20b", "32b", "0", "{info}"),
        functab!("20b", "32b", "22b", "22b", "22b", "22b"),
        id = const FuncId::SwitchOut as u32,
        size = const 0,
        slots = const 0,
        info = const (SWITCH | FuncId::SwitchOut as u32),
        g0_sp = const offset_of!(G, g0_sp),
        sp = const offset_of!(G, sched.sp),
        pc = const offset_of!(G, sched.pc),
        bp = const offset_of!(G, sched.bp),
    )
}
