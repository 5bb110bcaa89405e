//! Stubs: the outermost frame, and the ways from a goroutine stack into the kernel, into foreign
//! code and back in.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::emit::STUB;
use super::switch::switch_out;
use crate::arch::exit_reason;
use crate::arch::row_flags::{POINTERS, TOP};
use crate::sched::g::G;
use crate::sched::system_call::{NO_CALL, SystemCall};
use crate::unwind::func_id::FuncId;

/// The outermost frame.
///
/// In: SP = top of the stack, `r14` = G; `rbp` is of no interest. Never returns: told to return,
/// it leaves with `GOEXIT0` and is never resumed. Clobbers `rax`, `rcx`, `rdx`.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
pub(super) unsafe extern "C" fn entry() {
    naked_asm!(
        prologue!(outermost),
        body!(),
        // The answer was to return: there is no caller, so the goroutine ends.
        "26:",
        "mov eax, {goexit0}",
        "call {switch_out}",
        // Not reached.
        "28:",
        "ud2",
        // A callee that has replaced its caller's PC returns here.
        "33:",
        "jmp 23b",
        "32:",
        // It has no return address: the delta leads to the top of the stack.
        prologue_rows!(),
        row!("23b", "32b", "{size} + 8", "{body}"),
        functab!("20b", "32b", "24b", "25b", "28b", "28b", "33b"),
        id = const FuncId::Entry as u32,
        size = const 32,
        slots = const 4,
        pro = const (STUB | TOP | FuncId::Entry as u32),
        body = const (STUB | TOP | POINTERS | FuncId::Entry as u32),
        next_op = const exit_reason::NEXT_OP,
        goexit0 = const exit_reason::GOEXIT0,
        switch_out = sym switch_out,
    )
}

/// The stub of a system call: no stack check, no slots.
///
/// In: SP at the return address, `rbp` the caller's, `r14` = G. Out (at `ret`): SP above the
/// return address, `rbp` as at entry. Clobbers what the kernel does (`rax`, `rcx`, `r11`), the six
/// registers of arguments, `rbx` and `r12`.
///
/// The goroutine counts as stopped between the two asks, and the kernel is entered there, on this
/// stack. So nothing is written to the stack between them (see [`crate::sched::syscall`]).
///
/// The first ask's answer is the list of calls to make, `SystemCalls`. Each is made, and made
/// again as long as a signal interrupts it. `r12` points to the call at hand and `rbx` counts how
/// often the kernel was entered; the kernel keeps both.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
pub(super) unsafe extern "C" fn syscall() {
    naked_asm!(
        "20:",
        "push rbp",
        "21:",
        "mov rbp, rsp",
        "mov eax, {enter}",
        "call {switch_out}",
        // The goroutine counts as stopped; `rax` = the calls to make.
        "24:",
        "mov r12, rax",
        "xor ebx, ebx",
        // One call, for the first time or again.
        "33:",
        "inc rbx",
        "mov rdi, [r12 + {args}]",
        "mov rsi, [r12 + {args} + 8]",
        "mov rdx, [r12 + {args} + 16]",
        "mov r10, [r12 + {args} + 24]",
        "mov r8, [r12 + {args} + 32]",
        "mov r9, [r12 + {args} + 40]",
        "mov rax, [r12 + {number}]",
        "syscall",
        // A signal that interrupts the call is handled here.
        "34:",
        "cmp rax, -{eintr}",
        "je 33b",
        "add r12, {one}",
        "cmp qword ptr [r12 + {number}], {no_call}",
        "jne 33b",
        // The last call is done. The goroutine counts as stopped until the second ask is answered.
        "35:",
        "mov [r14 + {entered}], rbx",
        "mov [r14 + {result}], rax",
        "mov eax, {leave}",
        "call {switch_out}",
        // The goroutine runs again.
        "28:",
        "pop rbp",
        "31:",
        "ret",
        "32:",
        row!("20b", "21b", "0", "{info}"),
        row!("21b", "31b", "8", "{info}"),
        row!("31b", "32b", "0", "{info}"),
        functab!("20b", "32b", "24b", "35b", "28b", "34b"),
        id = const FuncId::Syscall as u32,
        size = const 0,
        slots = const 0,
        info = const (STUB | FuncId::Syscall as u32),
        enter = const exit_reason::SYSCALL_ENTER,
        leave = const exit_reason::SYSCALL_EXIT,
        number = const offset_of!(SystemCall, number),
        args = const offset_of!(SystemCall, args),
        one = const size_of::<SystemCall>(),
        no_call = const NO_CALL,
        eintr = const libc::EINTR,
        entered = const offset_of!(G, kernel.entered),
        result = const offset_of!(G, kernel.result),
        switch_out = sym switch_out,
    )
}

/// The stub of a foreign call: no stack check, no slots.
///
/// In and out as for [`syscall`]. Clobbers `rax`, `rcx`, `rdx`.
///
/// The goroutine counts as stopped between the two asks, while its thread runs foreign code on the
/// thread's own stack. Foreign code may call back in meanwhile: `callback` then lies right below,
/// and its return slot holds the address after the first ask.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
pub(super) unsafe extern "C" fn cgocall() {
    naked_asm!(
        "20:",
        "push rbp",
        "21:",
        "mov rbp, rsp",
        "mov eax, {enter}",
        "call {switch_out}",
        // Foreign code has returned. The goroutine counts as stopped until the second ask is
        // answered.
        "24:",
        "mov eax, {leave}",
        "call {switch_out}",
        // The goroutine runs again.
        "28:",
        "pop rbp",
        "31:",
        "ret",
        "32:",
        row!("20b", "21b", "0", "{info}"),
        row!("21b", "31b", "8", "{info}"),
        row!("31b", "32b", "0", "{info}"),
        functab!("20b", "32b", "24b", "24b", "28b", "24b"),
        id = const FuncId::Cgocall as u32,
        size = const 0,
        slots = const 0,
        info = const (STUB | FuncId::Cgocall as u32),
        enter = const exit_reason::FOREIGN_ENTER,
        leave = const exit_reason::FOREIGN_EXIT,
        switch_out = sym switch_out,
    )
}

/// The frame through which foreign code calls back in.
///
/// In: SP at a slot that holds the PC at which the goroutine left for foreign code, right below
/// its transition point; `rbp` as it was there; `r14` = G. So a walk goes through that slot as
/// through any return address, but no frame returns through it: told to return, the callback is
/// taken down and leaves with `CALLBACK_EXIT`, SP at that slot, and is never resumed. The runtime
/// reads the slot back as the saved PC. A barrier must never lie over it. Clobbers `rax`, `rcx`,
/// `rdx`, `r11`.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
pub(super) unsafe extern "C" fn callback() {
    naked_asm!(
        prologue!(check),
        body!(),
        morestack!(),
        // A panic that nothing has recovered lands here, with SP and rbp as in the body.
        "29:",
        "jmp 23b",
        // The answer was to return: the frame is taken down.
        "26:",
        "add rsp, {size}",
        "30:",
        "pop rbp",
        "31:",
        "mov eax, {exit}",
        "call {switch_out}",
        // Not reached.
        "33:",
        "ud2",
        "32:",
        prologue_rows!(),
        row!("23b", "27b", "{size} + 8", "{body}"),
        row!("27b", "29b", "0", "{pro}"),
        row!("29b", "26b", "{size} + 8", "{body}"),
        row!("26b", "30b", "{size} + 8", "{epi}"),
        row!("30b", "31b", "8", "{epi}"),
        row!("31b", "32b", "0", "{epi}"),
        functab!("20b", "32b", "24b", "25b", "28b", "29b"),
        id = const FuncId::Callback as u32,
        size = const 48,
        slots = const 4,
        pro = const (STUB | FuncId::Callback as u32),
        body = const (STUB | POINTERS | FuncId::Callback as u32),
        epi = const (STUB | FuncId::Callback as u32),
        guard = const offset_of!(G, guard),
        next_op = const exit_reason::NEXT_OP,
        morestack = const exit_reason::MORESTACK,
        exit = const exit_reason::CALLBACK_EXIT,
        switch_out = sym switch_out,
    )
}
