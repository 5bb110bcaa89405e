//! Frame kinds: functions that ask, call and return, and differ in size and stack check; and the
//! leaf, which is in no table.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::emit::{BODY, EPILOGUE, PROLOGUE, STUB};
use super::switch::switch_out;
use crate::arch::exit_reason;
use crate::arch::row_flags::POINTERS;
use crate::sched::g::G;
use crate::unwind::func_id::FuncId;

/// Emits a frame kind: prologue, body, epilogue, landing, rows.
///
/// In: SP at the return address, `rbp` the caller's, `r14` = G. Out (at `ret`): SP above the
/// return address, `rbp` as at entry. Clobbers `rax`, `rcx`, `rdx`, `r11`.
macro_rules! frame_kind {
    ($(#[$doc:meta])* $name:ident = $function:ident, size $size:literal, $class_pro:ident $class_body:ident $class_epi:ident, check) => {
        frame_kind!(@emit $(#[$doc])* $name, $function, $size, $class_pro $class_body $class_epi,
            check, [guard = const offset_of!(G, guard),]);
    };
    ($(#[$doc:meta])* $name:ident = $function:ident, size $size:literal, $class_pro:ident $class_body:ident $class_epi:ident, nocheck) => {
        frame_kind!(@emit $(#[$doc])* $name, $function, $size, $class_pro $class_body $class_epi, nocheck, []);
    };
    (@emit $(#[$doc:meta])* $name:ident, $function:ident, $size:literal, $class_pro:ident $class_body:ident $class_epi:ident, $check:tt, [$($operand:tt)*]) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[unsafe(link_section = "stkbar_text")]
        pub(super) unsafe extern "C" fn $name() {
            naked_asm!(
                prologue!($check),
                body!(),
                // The answer was to return. `rbp - 8` up to this label held pointers.
                "26:",
                "add rsp, {size}",
                "30:",
                "pop rbp",
                "31:",
                "ret",
                morestack!(),
                // A recovery lands here, with SP and rbp as in the body.
                "29:",
                "jmp 23b",
                // A callee that has replaced its caller's PC returns here.
                "33:",
                "jmp 23b",
                "32:",
                prologue_rows!(),
                row!("23b", "26b", "{size} + 8", "{body}"),
                row!("26b", "30b", "{size} + 8", "{epi}"),
                row!("30b", "31b", "8", "{epi}"),
                row!("31b", "27b", "0", "{epi}"),
                row!("27b", "29b", "0", "{pro}"),
                row!("29b", "32b", "{size} + 8", "{body}"),
                functab!("20b", "32b", "24b", "25b", "28b", "29b", "33b"),
                id = const FuncId::$function as u32,
                size = const $size,
                slots = const 4,
                pro = const ($class_pro | FuncId::$function as u32),
                body = const ($class_body | POINTERS | FuncId::$function as u32),
                epi = const ($class_epi | FuncId::$function as u32),
                $($operand)*
                next_op = const exit_reason::NEXT_OP,
                morestack = const exit_reason::MORESTACK,
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
    /// Does as `gopanic`, for a goroutine that ends itself.
    goexit = Goexit, size 32, STUB STUB STUB, check);

/// Code that is in no table. It keeps `rbp` and moves SP, as foreign code may.
///
/// In: SP at the return address. Out (at `ret`): SP above it. Clobbers nothing: `rcx` is saved.
#[unsafe(naked)]
#[unsafe(link_section = "stkbar_text")]
pub(super) unsafe extern "C" fn leaf() {
    naked_asm!(
        "20:",
        "push rcx",
        "mov ecx, 2",
        // SP one word below the return address; no row says so.
        "22:",
        "dec ecx",
        "jnz 22b",
        "pop rcx",
        "ret",
        "32:",
        functab!("20b", "32b", "20b", "20b", "20b", "20b"),
        id = const FuncId::Leaf as u32,
        size = const 0,
        slots = const 0,
    )
}
