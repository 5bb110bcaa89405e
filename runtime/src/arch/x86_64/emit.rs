//! Macros that emit code and rows: each piece that several functions share is written once.
//!
//! A macro here expands to one string of a `naked_asm!` and names operands in braces that its
//! user must give: `{size}`, `{guard}`, `{next_op}`, `{morestack}`, `{switch_out}` for code,
//! `{pro}`, `{body}`, `{epi}`, `{id}`, `{slots}` for rows. The labels are those of the legend at
//! the head of [`super`].

/// Row classes, as in [`CodeClass`](crate::unwind::rows::CodeClass).
pub(super) const PROLOGUE: u32 = 1 << 8;
pub(super) const BODY: u32 = 2 << 8;
pub(super) const EPILOGUE: u32 = 3 << 8;
pub(super) const TRAMPOLINE: u32 = 4 << 8;
pub(super) const SWITCH: u32 = 5 << 8;
pub(super) const STUB: u32 = 6 << 8;

/// The prologue of every frame with slots, from label 20 to label 23.
///
/// In: SP at the return address, `rbp` the caller's, `r14` = G. Out (at 23): SP and `rbp` as in
/// the body, four zeroed slots. Clobbers `r11` with a stack check, and nothing otherwise.
///
/// * `check`: leaves for 27 where the frame does not fit or a request has raised the guard.
/// * `nocheck`: as `nosplit` code; the reserve below the guard has room for one such frame.
/// * `outermost`: has no caller, so the saved `rbp` is the zero that ends the chain. In: SP at the
///   top of the stack.
macro_rules! prologue {
    (check) => {
        concat!(
            "20:\n",
            "lea r11, [rsp - ({size} + 16)]\n",
            "cmp r11, [r14 + {guard}]\n",
            "jb 27f\n",
            prologue!(@frame)
        )
    };
    (nocheck) => {
        concat!("20:\n", prologue!(@frame))
    };
    (outermost) => {
        concat!("20:\n", "xor ebp, ebp\n", prologue!(@frame))
    };
    // The one instruction between `push` and `sub` keeps SP, so label 21 covers both.
    (@frame) => {
        concat!(
            "push rbp\n",
            "21:\n",
            "mov rbp, rsp\n",
            "sub rsp, {size}\n",
            "22:\n",
            "mov qword ptr [rbp - 8], 0\n",
            "mov qword ptr [rbp - 16], 0\n",
            "mov qword ptr [rbp - 24], 0\n",
            "mov qword ptr [rbp - 32], 0\n",
        )
    };
}

/// The prologue's rows.
macro_rules! prologue_rows {
    () => {
        concat!(
            row!("20b", "21b", "0", "{pro}"),
            row!("21b", "22b", "8", "{pro}"),
            row!("22b", "23b", "{size} + 8", "{pro}")
        )
    };
}

/// The body, from label 23 up to the epilogue: ask, call the address that comes back, ask again.
///
/// In: SP and `rbp` as in the body. Out: at 26, where the answer is to return. Clobbers `rax`,
/// `rcx`, `rdx`.
macro_rules! body {
    () => {
        concat!(
            "23:\n",
            "mov eax, {next_op}\n",
            "call {switch_out}\n",
            "24:\n",
            "test rax, rax\n",
            "jz 26f\n",
            "call rax\n",
            "25:\n",
            "jmp 23b\n",
        )
    };
}

/// Label 27: the stack check has failed. In: all as at label 20. The runtime moves the stack or
/// answers a request; then the prologue starts over. Clobbers `rax`, `rcx`, `rdx`.
macro_rules! morestack {
    () => {
        concat!("27:\n", "mov eax, {morestack}\n", "call {switch_out}\n", "28:\n", "jmp 20b\n")
    };
}

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
            ".popsection\n"
        )
    };
}

/// Emits a function's row of the function table: id, size, slots, and the labels of its start,
/// its end, the return addresses of its ask, its calls and its `MORESTACK`, its landing, and the
/// other return address of its calls (the first one again, where there is no other).
macro_rules! functab {
    ($start:literal, $end:literal, $next_op:literal, $call:literal, $morestack:literal, $landing:literal) => {
        functab!($start, $end, $next_op, $call, $morestack, $landing, $call)
    };
    ($start:literal, $end:literal, $next_op:literal, $call:literal, $morestack:literal, $landing:literal, $other:literal) => {
        concat!(
            ".pushsection stkbar_dir,\"aR\",@progbits\n.balign 4\n",
            ".long {id}\n.long {size}\n.long {slots}\n",
            ".long ",
            $start,
            " - .\n.long ",
            $end,
            " - .\n.long ",
            $next_op,
            " - .\n",
            ".long ",
            $call,
            " - .\n.long ",
            $morestack,
            " - .\n.long ",
            $landing,
            " - .\n.long ",
            $other,
            " - .\n",
            ".popsection\n"
        )
    };
}
