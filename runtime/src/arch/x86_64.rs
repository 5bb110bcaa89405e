//! x86-64: every instruction that runs on a goroutine stack, and the switch onto it.
//!
//! ## Registers
//!
//! On a goroutine stack `r14` holds the `G` (and nowhere else: on the thread's own
//! stack it is an ordinary register). `rbp` is a frame-pointer chain that ends in
//! zero. Nothing else is live across a call, a return or a switch.
//!
//! ## A goroutine stack
//!
//! ```text
//!  hi    +------------------------------+
//!        | barrier entries              |  carved from the allocation, see `barrier`
//!  top   +------------------------------+
//!        | 0 (end of the rbp chain)     |
//!        | slots of `entry`             |  <- body SP of `entry`
//!        | return address into `entry`  |  <- what a barrier replaces
//!        | saved rbp                    |  CFA - 16
//!        | slot 0 .. slot 3             |  CFA - 24 .. CFA - 48
//!        | ...                          |  <- body SP = CFA - 16 - size
//!        | return address               |
//!        | ...                          |
//!  guard +------------------------------+  lo + STACK_RESERVE: below it only code without a check
//!  lo    +------------------------------+
//!        | guard page                   |
//! ```
//!
//! ## A frame's life
//!
//! The prologue compares SP with the guard and goes to `switch_out(MORE)` where it
//! does not fit, or where a preemption request has raised the guard above every SP.
//! The body asks, `switch_out(ASK)`, and gets an address to call, or zero: return.
//! So no Rust code ever runs on a goroutine stack, and a frame that is called again
//! and again has one call site and one ask site.
//!
//! ## What is emitted beside the code
//!
//! * `stkbar_tab`: rows of (first byte, end, SP delta, function | class | flags): the
//!   only source of unwinding truth in the core. The delta is the distance from SP to
//!   the return address's slot, before the instruction runs.
//! * `stkbar_dir`: a row a function: where its code is and where its calls and asks
//!   come back to, for those who must know positions but not deltas.
//! * `stkbar_exc`: pairs (faulting load, where to go on).
//!
//! All of it is relative to its own place, so nothing needs relocating, and carries
//! the retain flag, without which the linker drops what no code refers to.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use crate::barrier::Entry;
use crate::event;
use crate::g::G;
use crate::syscall::{NO_CALL, SystemCall};

/// Distance from the slot of a replaced return address to SP inside the trampoline.
pub(crate) const TRAMPOLINE_RETURN_GAP: usize = 8;

/// Row classes, as in [`crate::table::CodeClass`].
const PROLOGUE: u32 = 1 << 8;
const BODY: u32 = 2 << 8;
const EPILOGUE: u32 = 3 << 8;
const TRAMPOLINE: u32 = 4 << 8;
const SWITCH: u32 = 5 << 8;
const STUB: u32 = 6 << 8;
/// Row flags, as in [`crate::table::Row`].
const TOP: u32 = 1 << 16;
const SAVED: u32 = 1 << 17;
const POINTERS: u32 = 1 << 18;

/// Emits one row: bytes from label `$a` to label `$b` have this delta and info.
macro_rules! row {
    ($a:literal, $b:literal, $delta:literal, $info:literal) => {
        concat!(
            ".pushsection stkbar_tab,\"aR\",@progbits\n.balign 4\n",
            ".long ",
            $a,
            " - .\n.long ",
            $b,
            " - .\n.long ",
            $delta,
            "\n.long ",
            $info,
            "\n",
            ".popsection"
        )
    };
}

/// Emits a function's directory row: id, size, slots, and the labels
/// start, end, after-ask, after-call, after-more, landing, and the other place where a call
/// may come back to; after-call itself, where there is no other.
macro_rules! directory {
    ($start:literal, $end:literal, $ask:literal, $call:literal, $more:literal, $landing:literal) => {
        directory!($start, $end, $ask, $call, $more, $landing, $call)
    };
    ($start:literal, $end:literal, $ask:literal, $call:literal, $more:literal, $landing:literal, $other:literal) => {
        concat!(
            ".pushsection stkbar_dir,\"aR\",@progbits\n.balign 4\n",
            ".long {id}\n.long {size}\n.long {slots}\n",
            ".long ",
            $start,
            " - .\n.long ",
            $end,
            " - .\n.long ",
            $ask,
            " - .\n",
            ".long ",
            $call,
            " - .\n.long ",
            $more,
            " - .\n.long ",
            $landing,
            " - .\n.long ",
            $other,
            " - .\n",
            ".popsection"
        )
    };
}

/// The body that every frame kind shares.
///
/// In: SP at the return address, `r14` = G. Out (at `ret`): SP above it.
/// Clobbers `rax`, `r11`; keeps `rbp`.
macro_rules! frame_kind {
    ($(#[$doc:meta])* $name:ident = $function:ident, size $size:literal, $class_pro:ident $class_body:ident $class_epi:ident, check) => {
        frame_kind!(@emit $(#[$doc])* $name, $function, $size, $class_pro $class_body $class_epi,
            [
                "lea r11, [rsp - ({size} + 16)]",
                "cmp r11, [r14 + {guard}]",
                "jb 27f",
            ], [guard = const offset_of!(G, guard),]);
    };
    ($(#[$doc:meta])* $name:ident = $function:ident, size $size:literal, $class_pro:ident $class_body:ident $class_epi:ident, nocheck) => {
        frame_kind!(@emit $(#[$doc])* $name, $function, $size, $class_pro $class_body $class_epi, [], []);
    };
    (@emit $(#[$doc:meta])* $name:ident, $function:ident, $size:literal, $class_pro:ident $class_body:ident $class_epi:ident, [$($check:literal,)*], [$($operand:tt)*]) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[unsafe(link_section = "stkbar_text")]
        unsafe extern "C" fn $name() {
            naked_asm!(
                // prologue
                "20:",
                $($check,)*
                "push rbp",
                "21:",
                "mov rbp, rsp",
                "sub rsp, {size}",
                "22:",
                "mov qword ptr [rbp - 8], 0",
                "mov qword ptr [rbp - 16], 0",
                "mov qword ptr [rbp - 24], 0",
                "mov qword ptr [rbp - 32], 0",
                // body: ask, and call what the answer says
                "23:",
                "mov eax, {ask}",
                "call {switch_out}",
                "24:",
                "test rax, rax",
                "jz 26f",
                "call rax",
                "25:",
                "jmp 23b",
                // epilogue; `rbp - 8` up to here still hold pointers
                "26:",
                "add rsp, {size}",
                "30:",
                "pop rbp",
                "31:",
                "ret",
                // the stack check failed: SP is as at entry
                "27:",
                "mov eax, {more}",
                "call {switch_out}",
                "28:",
                "jmp 20b",
                // a recovery lands here with SP and rbp as in the body
                "29:",
                "jmp 23b",
                // a callee that has replaced its caller's PC returns here
                "33:",
                "jmp 23b",
                "32:",
                row!("20b", "21b", "0", "{pro}"),
                row!("21b", "22b", "8", "{pro}"),
                // The one instruction between `push` and `sub` keeps SP; `sub` ends at 22.
                row!("22b", "23b", "{size} + 8", "{pro}"),
                row!("23b", "26b", "{size} + 8", "{body}"),
                row!("26b", "30b", "{size} + 8", "{epi}"),
                row!("30b", "31b", "8", "{epi}"),
                row!("31b", "27b", "0", "{epi}"),
                row!("27b", "29b", "0", "{pro}"),
                row!("29b", "32b", "{size} + 8", "{body}"),
                directory!("20b", "32b", "24b", "25b", "28b", "29b", "33b"),
                id = const crate::Function::$function as u32,
                size = const $size,
                slots = const 4,
                pro = const ($class_pro | crate::Function::$function as u32),
                body = const ($class_body | POINTERS | crate::Function::$function as u32),
                epi = const ($class_epi | crate::Function::$function as u32),
                $($operand)*
                ask = const event::ASK,
                more = const event::MORE,
                switch_out = sym switch_out,
            )
        }
    };
}

frame_kind!(
    /// A frame without a stack check.
    nosplit = Nosplit, size 32, PROLOGUE BODY EPILOGUE, nocheck);
frame_kind!(
    /// The smallest frame with a check.
    tiny = Tiny, size 32, PROLOGUE BODY EPILOGUE, check);
frame_kind!(
    /// 80 bytes.
    small = Small, size 80, PROLOGUE BODY EPILOGUE, check);
frame_kind!(
    /// 240 bytes.
    medium = Medium, size 240, PROLOGUE BODY EPILOGUE, check);
frame_kind!(
    /// 720 bytes.
    large = Large, size 720, PROLOGUE BODY EPILOGUE, check);
frame_kind!(
    /// 2,304 bytes.
    huge = Huge, size 2304, PROLOGUE BODY EPILOGUE, check);
frame_kind!(
    /// The kind whose landing recoveries use.
    deferring = Deferring, size 48, PROLOGUE BODY EPILOGUE, check);
frame_kind!(
    /// Asks for the next deferred call of a panic, calls it, asks again.
    gopanic = Gopanic, size 32, STUB STUB STUB, check);
frame_kind!(
    /// The same for a goroutine that ends itself.
    goexit = Goexit, size 32, STUB STUB STUB, check);

/// The outermost frame. In: SP = top of the stack, `r14` = G. Never returns: told to
/// return, it leaves with `EXIT` and is never resumed.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
unsafe extern "C" fn entry() {
    naked_asm!(
        "20:",
        "xor ebp, ebp",
        "push rbp",
        "21:",
        "mov rbp, rsp",
        "sub rsp, {size}",
        "22:",
        "mov qword ptr [rbp - 8], 0",
        "mov qword ptr [rbp - 16], 0",
        "mov qword ptr [rbp - 24], 0",
        "mov qword ptr [rbp - 32], 0",
        "23:",
        "mov eax, {ask}",
        "call {switch_out}",
        "24:",
        "test rax, rax",
        "jz 26f",
        "call rax",
        "25:",
        "jmp 23b",
        "26:",
        "mov eax, {exit}",
        "call {switch_out}",
        "28:",
        "ud2",
        "33:",
        "jmp 23b",
        "32:",
        // It has no return address: the delta leads to the top of the stack.
        row!("20b", "21b", "0", "{pro}"),
        row!("21b", "22b", "8", "{pro}"),
        row!("22b", "23b", "{size} + 8", "{pro}"),
        row!("23b", "32b", "{size} + 8", "{body}"),
        directory!("20b", "32b", "24b", "25b", "28b", "28b", "33b"),
        id = const crate::Function::Entry as u32,
        size = const 32,
        slots = const 4,
        pro = const (STUB | TOP | crate::Function::Entry as u32),
        body = const (STUB | TOP | POINTERS | crate::Function::Entry as u32),
        ask = const event::ASK,
        exit = const event::EXIT,
        switch_out = sym switch_out,
    )
}

/// A system call's stub: no stack check, no slots. Between its two asks the goroutine
/// counts as stopped, and the kernel is entered there, on this stack. So nothing is written
/// to the stack between them (see `syscall`).
///
/// The first ask's answer is the calls to make, `SystemCalls`: each is made, and again as
/// long as a signal interrupts it. `r12` points to the one at hand and `rbx` counts; the
/// kernel keeps both. Clobbers what the kernel does (`rax`, `rcx`, `r11`), the six registers
/// of arguments, `rbx` and `r12`.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
unsafe extern "C" fn syscall() {
    naked_asm!(
        "20:",
        "push rbp",
        "21:",
        "mov rbp, rsp",
        "mov eax, {enter}",
        "call {switch_out}",
        "24:",
        "mov r12, rax",
        "xor ebx, ebx",
        // one call, for the first time or again
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
        // where a signal that interrupts it is handled
        "34:",
        "cmp rax, -{eintr}",
        "je 33b",
        "add r12, {one}",
        "cmp qword ptr [r12 + {number}], {no_call}",
        "jne 33b",
        // the last is done
        "35:",
        "mov [r14 + {entered}], rbx",
        "mov [r14 + {result}], rax",
        "mov eax, {leave}",
        "call {switch_out}",
        "28:",
        "pop rbp",
        "31:",
        "ret",
        "32:",
        row!("20b", "21b", "0", "{info}"),
        row!("21b", "31b", "8", "{info}"),
        row!("31b", "32b", "0", "{info}"),
        directory!("20b", "32b", "24b", "35b", "28b", "34b"),
        id = const crate::Function::Syscall as u32,
        size = const 0,
        slots = const 0,
        info = const (STUB | crate::Function::Syscall as u32),
        enter = const event::SYSCALL_ENTER,
        leave = const event::SYSCALL_EXIT,
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

/// A foreign call's stub: no stack check, no slots. Between its two asks the goroutine
/// counts as stopped, and its thread runs foreign code on its own stack. Foreign code may
/// call back in meanwhile: `callback` then lies right below, and holds the address after
/// the first ask.
/// Clobbers `rax`, `rcx`, `rdx`.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
unsafe extern "C" fn cgocall() {
    naked_asm!(
        "20:",
        "push rbp",
        "21:",
        "mov rbp, rsp",
        "mov eax, {enter}",
        "call {switch_out}",
        "24:",
        "mov eax, {leave}",
        "call {switch_out}",
        "28:",
        "pop rbp",
        "31:",
        "ret",
        "32:",
        row!("20b", "21b", "0", "{info}"),
        row!("21b", "31b", "8", "{info}"),
        row!("31b", "32b", "0", "{info}"),
        directory!("20b", "32b", "24b", "24b", "28b", "24b"),
        id = const crate::Function::Cgocall as u32,
        size = const 0,
        slots = const 0,
        info = const (STUB | crate::Function::Cgocall as u32),
        enter = const event::FOREIGN_ENTER,
        leave = const event::FOREIGN_EXIT,
        switch_out = sym switch_out,
    )
}

/// The frame through which foreign code calls back in.
///
/// In: SP at a slot with the PC at which the goroutine has left for foreign code, right
/// below its transition point; `rbp` as it was there; `r14` = G. So a walk goes through
/// like through any frame's return address, but nobody returns to it: told to return, the
/// frame is taken down and leaves with `CALLBACK_EXIT`, SP at that slot, and is never
/// resumed. The runtime takes the slot's value for the saved PC again. A barrier must
/// never lie over it. Clobbers `rax`, `rcx`, `rdx`, `r11`.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
unsafe extern "C" fn callback() {
    naked_asm!(
        // prologue
        "20:",
        "lea r11, [rsp - ({size} + 16)]",
        "cmp r11, [r14 + {guard}]",
        "jb 27f",
        "push rbp",
        "21:",
        "mov rbp, rsp",
        "sub rsp, {size}",
        "22:",
        "mov qword ptr [rbp - 8], 0",
        "mov qword ptr [rbp - 16], 0",
        "mov qword ptr [rbp - 24], 0",
        "mov qword ptr [rbp - 32], 0",
        // body
        "23:",
        "mov eax, {ask}",
        "call {switch_out}",
        "24:",
        "test rax, rax",
        "jz 26f",
        "call rax",
        "25:",
        "jmp 23b",
        // the stack check failed: SP is as at entry
        "27:",
        "mov eax, {more}",
        "call {switch_out}",
        "28:",
        "jmp 20b",
        // a panic that nobody has recovered lands here, with SP and rbp as in the body
        "29:",
        "jmp 23b",
        // taken down, and never returned from
        "26:",
        "add rsp, {size}",
        "30:",
        "pop rbp",
        "31:",
        "mov eax, {exit}",
        "call {switch_out}",
        "33:",
        "ud2",
        "32:",
        row!("20b", "21b", "0", "{pro}"),
        row!("21b", "22b", "8", "{pro}"),
        row!("22b", "23b", "{size} + 8", "{pro}"),
        row!("23b", "27b", "{size} + 8", "{body}"),
        row!("27b", "29b", "0", "{pro}"),
        row!("29b", "26b", "{size} + 8", "{body}"),
        row!("26b", "30b", "{size} + 8", "{epi}"),
        row!("30b", "31b", "8", "{epi}"),
        row!("31b", "32b", "0", "{epi}"),
        directory!("20b", "32b", "24b", "25b", "28b", "29b"),
        id = const crate::Function::Callback as u32,
        size = const 48,
        slots = const 4,
        pro = const (STUB | crate::Function::Callback as u32),
        body = const (STUB | POINTERS | crate::Function::Callback as u32),
        epi = const (STUB | crate::Function::Callback as u32),
        guard = const offset_of!(G, guard),
        ask = const event::ASK,
        more = const event::MORE,
        exit = const event::CALLBACK_EXIT,
        switch_out = sym switch_out,
    )
}

/// Code that is in no table. It keeps `rbp` and moves SP, as foreign code may.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
unsafe extern "C" fn leaf() {
    naked_asm!(
        "20:",
        "push rcx",
        "mov ecx, 2",
        "22:",
        "dec ecx",
        "jnz 22b",
        "pop rcx",
        "ret",
        "32:",
        directory!("20b", "32b", "20b", "20b", "20b", "20b"),
        id = const crate::Function::Leaf as u32,
        size = const 0,
        slots = const 0,
    )
}

/// Where a frame returns to when a barrier lies over its return address.
///
/// In: SP one word above the replaced slot, `r14` = G; nothing else is live.
/// Takes the entry at the position, checks that it is the one for this slot, moves the
/// position past it and goes on to the caller. Clobbers `rax`, `rcx`, `rdx`.
/// Dies at `ud2` where the order is broken; `rcx` then holds the position.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
unsafe extern "C" fn trampoline() {
    naked_asm!(
        "20:",
        "mov rcx, [r14 + {pos}]",
        "cmp rcx, [r14 + {len}]",
        "jae 26f",
        "mov rdx, rcx",
        "shl rdx, {shift}",
        "add rdx, [r14 + {base}]",
        "mov rax, [rdx + {slot}]",
        "add rax, {gap}",
        "cmp rax, rsp",
        "jne 26f",
        "mov rax, [rdx + {pc}]",
        "add qword ptr [r14 + {pos}], 1",
        "jmp rax",
        "26:",
        "ud2",
        "32:",
        row!("20b", "32b", "0", "{info}"),
        directory!("20b", "32b", "20b", "20b", "20b", "20b"),
        id = const crate::Function::Trampoline as u32,
        size = const 0,
        slots = const 0,
        info = const (TRAMPOLINE | crate::Function::Trampoline as u32),
        pos = const offset_of!(G, barriers.position),
        len = const offset_of!(G, barriers.len),
        base = const offset_of!(G, barriers.base),
        slot = const offset_of!(Entry, slot),
        pc = const offset_of!(Entry, pc),
        shift = const size_of::<Entry>().trailing_zeros(),
        gap = const TRAMPOLINE_RETURN_GAP,
    )
}

/// Leaves the thread's own stack and goes on where `g` stopped; returns, on the
/// thread's own stack, with the event with which the goroutine leaves.
///
/// In: `rdi` = G whose saved state is complete, `rsi` = what its ask returns.
/// From the change of SP to the jump, SP is the goroutine's and its PC is still only
/// in the saved state: rows with `SAVED`. The saved SP is cleared as it is used, so
/// nobody can walk from a stale one.
///
/// # Safety
/// The thread owns `g`, and the saved state is one that `switch_out`, a spawn or a
/// recovery made.
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
        "22:",
        "mov qword ptr [r14 + {sp}], 0",
        "jmp [r14 + {pc}]",
        "32:",
        row!("20b", "32b", "0", "{info}"),
        directory!("20b", "32b", "22b", "22b", "22b", "22b"),
        id = const crate::Function::SwitchIn as u32,
        size = const 0,
        slots = const 0,
        info = const (SWITCH | SAVED | crate::Function::SwitchIn as u32),
        g0_sp = const offset_of!(G, g0_sp),
        sp = const offset_of!(G, sched.sp),
        pc = const offset_of!(G, sched.pc),
        bp = const offset_of!(G, sched.bp),
    )
}

/// Leaves a goroutine stack for the thread's own.
///
/// In: called from a frame, so SP points to the return address; `r14` = G, `eax` = the
/// event. Saves PC, SP (as after the return) and `rbp` before SP changes, so from the
/// change on the saved state is complete. Clobbers `rcx`, `rdx`.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
unsafe extern "C" fn switch_out() {
    naked_asm!(
        "20:",
        "mov rcx, [rsp]",
        "lea rdx, [rsp + 8]",
        "mov [r14 + {pc}], rcx",
        "mov [r14 + {bp}], rbp",
        "mov [r14 + {sp}], rdx",
        "mov rsp, [r14 + {g0_sp}]",
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
        directory!("20b", "32b", "22b", "22b", "22b", "22b"),
        id = const crate::Function::SwitchOut as u32,
        size = const 0,
        slots = const 0,
        info = const (SWITCH | crate::Function::SwitchOut as u32),
        g0_sp = const offset_of!(G, g0_sp),
        sp = const offset_of!(G, sched.sp),
        pc = const offset_of!(G, sched.pc),
        bp = const offset_of!(G, sched.bp),
    )
}

/// The trampoline's address, which is what a barrier writes over a return address.
#[inline(always)]
pub(crate) fn trampoline_address() -> usize {
    trampoline as *const () as usize
}

/// Makes the trampoline's check of the order one that cannot fire, as it once was: the slot's
/// own address in the place of the word above it, and the sense of the branch inverted.
///
/// What differs is in two instructions' bytes, and not in what they are or where, so the code
/// above stays what it should be.
#[cfg(feature = "defects")]
pub(crate) fn invert_order_check() {
    const JNE: u8 = 0x75;
    const JE: u8 = 0x74;
    // add rax, 8; cmp rax, rsp; jne
    const CHECK: [u8; 8] = [0x48, 0x83, 0xc0, TRAMPOLINE_RETURN_GAP as u8, 0x48, 0x39, 0xe0, JNE];
    let info = crate::table::info(crate::Function::Trampoline);
    // SAFETY: the trampoline's own code, which is readable.
    let code = unsafe { core::slice::from_raw_parts(info.start as *const u8, info.end - info.start) };
    let Some(offset) = code.windows(CHECK.len()).position(|bytes| bytes == CHECK) else {
        return assert!(code.contains(&JE), "the trampoline's check is not where it is looked for");
    };
    const PAGE: usize = 4096;
    let at = info.start + offset;
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

/// Reads a word that may not be readable; `fallback` where the read faults.
///
/// # Safety
/// As of [`load_at_or`].
#[inline(always)]
pub(crate) unsafe fn load_or(address: usize, fallback: usize) -> usize {
    // SAFETY: the same address (caller).
    unsafe { load_at_or(address, 0, fallback) }
}

/// Reads the word `offset` bytes above `base`; `fallback` where the read faults. A walk
/// knows `base` before it knows `offset`, so the load itself adds the two.
///
/// The load has a row in `stkbar_exc`, from which the SIGSEGV handler finds where to
/// go on; the register then still holds `fallback`.
///
/// # Safety
/// The handler of [`crate::fault`] is installed, or the address is readable.
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

/// The first half of the `index`th word from `base` on, widened.
///
/// # Safety
/// It is readable, and nobody writes it.
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

/// Reads a byte and forgets it. Where it cannot be read, it is this instruction that faults.
///
/// # Safety
/// `address` is readable, or the fault is wanted.
#[inline(always)]
pub(crate) unsafe fn touch(address: usize) {
    // SAFETY: a plain load, of which nothing is kept (caller).
    unsafe { asm!("test byte ptr [{address}], 0", address = in(reg) address, options(nostack, readonly)) };
}

macro_rules! section {
    ($start:ident, $stop:ident) => {{
        unsafe extern "C" {
            static $start: u8;
            static $stop: u8;
        }
        ((&raw const $start) as usize, (&raw const $stop) as usize)
    }};
}

/// First byte and end of the marked code.
pub fn text_bounds() -> (usize, usize) {
    // Naming the functions keeps their object file, and so their rows, in the link.
    core::hint::black_box([
        entry, nosplit, tiny, small, medium, large, huge, deferring, gopanic, goexit, syscall, leaf,
        trampoline, cgocall, callback,
    ]);
    core::hint::black_box(switch_in as *const ());
    section!(__start_stkbar_text, __stop_stkbar_text)
}

/// First byte and end of foreign code.
pub fn foreign_bounds() -> (usize, usize) {
    section!(__start_stkbar_foreign, __stop_stkbar_foreign)
}

/// First byte and end of the unwinding rows.
pub fn rows_bytes() -> (usize, usize) {
    section!(__start_stkbar_tab, __stop_stkbar_tab)
}

/// First byte and end of the functions' directory.
pub fn directory_bytes() -> (usize, usize) {
    section!(__start_stkbar_dir, __stop_stkbar_dir)
}

/// First byte and end of the exception rows.
pub fn exception_rows() -> (usize, usize) {
    section!(__start_stkbar_exc, __stop_stkbar_exc)
}
