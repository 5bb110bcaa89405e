//! The function table: for every byte of goroutine-side code, where its return
//! address is.
//!
//! The assembler emits rows next to the code; at start they are spread into a direct
//! map from text offset to one row, so a walk pays one load a frame. This is
//! the only source of unwinding truth in the core.

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::OnceLock;

use crate::arch;
use crate::function::Function;

crate::named_codes! {
    /// What kind of code a PC lies in.
    pub enum CodeClass {
        /// Before a frame is complete.
        Prologue = 1, "prologue";
        /// While it is.
        Body = 2, "body";
        /// While it is taken down.
        Epilogue = 3, "epilogue";
        /// The barrier trampoline.
        Trampoline = 4, "trampoline";
        /// The stack switch.
        Switch = 5, "switch";
        /// Entry, exit, panic and system-call stubs.
        Stub = 6, "stub";
        /// The runtime's Rust code on the thread's own stack.
        Runtime = 7, "runtime";
        /// Code in no table: a leaf, or foreign code on the thread's own stack.
        Foreign = 8, "foreign";
    }
}

/// What the table says of one PC: the delta, and packed beside it function, class, flags.
/// Two words, so that a walk has the delta, for which it waits, with nothing to unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Row {
    delta: u32,
    info: u32,
}

impl Row {
    const TOP: u32 = 1 << 16;
    const SAVED: u32 = 1 << 17;
    const POINTERS: u32 = 1 << 18;
    /// An ordinary frame: neither the outermost, nor the trampoline, nor no row.
    const PLAIN: u32 = 1 << 31;

    /// The row of code in no table.
    pub const NONE: Row = Row { delta: 0, info: 0 };

    fn pack(delta: u32, info: u32) -> Row {
        let class = info >> 8 & 0xf;
        assert!(
            delta <= 0xffff && class != 0 && info & Row::PLAIN == 0,
            "a row of the function table is malformed"
        );
        let plain = info & Row::TOP == 0 && class != CodeClass::Trampoline as u32;
        Row { delta, info: if plain { info | Row::PLAIN } else { info } }
    }

    /// The row that lies there.
    ///
    /// # Safety
    /// [`Table::find`] has found it. (A planted defect comes here with null. That must be the
    /// processor's fault and not whatever a compiler makes of it, so it is touched first.)
    #[inline]
    pub(crate) unsafe fn at(found: *const Row) -> Row {
        // SAFETY: a word of the map, which is never freed (caller).
        unsafe {
            arch::touch(found as usize);
            found.read()
        }
    }

    /// True for code in no table.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.info == 0
    }

    /// True in an ordinary frame: neither the outermost, nor the trampoline, nor in no table.
    #[inline(always)]
    pub(crate) const fn is_plain(self) -> bool {
        self.info & Row::PLAIN != 0
    }

    /// Bytes from SP to the return address's slot.
    #[inline(always)]
    pub const fn delta(self) -> usize {
        self.delta as usize
    }

    /// The function, if the row names one.
    pub const fn function(self) -> Option<Function> {
        if self.is_none() { None } else { Function::from_code(self.info as u8) }
    }

    /// The class of code.
    pub const fn class(self) -> CodeClass {
        match CodeClass::from_code((self.info >> 8 & 0xf) as u8) {
            Some(class) => class,
            None => CodeClass::Foreign,
        }
    }

    /// True in the outermost frame, which has no return address.
    #[inline(always)]
    pub const fn is_top(self) -> bool {
        self.info & Row::TOP != 0
    }

    /// True in the switch onto a goroutine, where the PC is still in the saved state.
    #[inline(always)]
    pub const fn is_saved(self) -> bool {
        self.info & Row::SAVED != 0
    }

    /// True where the frame's pointer slots hold pointers.
    #[inline(always)]
    pub const fn has_pointers(self) -> bool {
        self.info & Row::POINTERS != 0
    }

    /// True in the trampoline.
    #[inline(always)]
    pub const fn is_trampoline(self) -> bool {
        self.info >> 8 & 0xf == CodeClass::Trampoline as u32
    }
}

/// Where a function's code is, and where its calls and asks come back to.
#[derive(Clone, Copy, Debug)]
pub struct FunctionInfo {
    /// Which function.
    pub function: Function,
    /// Bytes between the saved frame pointer and the body's SP.
    pub size: usize,
    /// Pointer slots, from the frame pointer down.
    pub slots: usize,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Return address of its ask (of a system call or a foreign call: of entering it).
    pub after_ask: usize,
    /// Return address of its calls (of the system call: where the last of its calls is done).
    pub after_call: usize,
    /// Return address of its stack check's call (of `entry`, a system call, a foreign call: of leaving).
    pub after_more: usize,
    /// Where a recovery lands (of the system call: where the kernel comes back to).
    pub landing: usize,
    /// The other place where its calls may come back to; `after_call` where there is none.
    pub after_call_other: usize,
}

static BASE: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);
static MAP: AtomicPtr<Row> = AtomicPtr::new((&raw const BEFORE).cast_mut());
/// The map before there is one.
static BEFORE: Row = Row::NONE;
static DIRECTORY: OnceLock<Vec<FunctionInfo>> = OnceLock::new();

/// A view of the map that a walk holds in registers.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    base: usize,
    len: usize,
    map: *const Row,
}

impl Table {
    /// The process's table; empty before [`init`].
    #[inline(always)]
    pub fn get() -> Table {
        Table {
            base: BASE.load(Ordering::Relaxed),
            len: LEN.load(Ordering::Relaxed),
            map: MAP.load(Ordering::Relaxed),
        }
    }

    /// Where the row of `pc` is; null for code in no table.
    #[inline]
    pub(crate) fn find(self, pc: usize) -> *const Row {
        let found = self.place(pc);
        // SAFETY: `place` names a row.
        if unsafe { found.read() }.is_none() { core::ptr::null() } else { found }
    }

    /// The row of a `pc` that may well lie outside, reckoned without a branch.
    #[inline(always)]
    pub(crate) fn row_of_any(self, pc: usize) -> Row {
        // SAFETY: `place` names a row.
        unsafe { self.place(pc).read() }
    }

    /// Where the row of `pc` is; for code outside, the last one, which is none.
    #[inline(always)]
    fn place(self, pc: usize) -> *const Row {
        // SAFETY: `init` leaked a map of LEN rows and one, and stored MAP before LEN; before that
        // it is `BEFORE`, of one row.
        unsafe { self.map.add(pc.wrapping_sub(self.base).min(self.len)) }
    }

    /// The row of `pc`; [`Row::NONE`] for code in no table.
    #[inline(always)]
    pub fn row(self, pc: usize) -> Row {
        let offset = pc.wrapping_sub(self.base);
        if offset >= self.len {
            return Row::NONE;
        }
        // SAFETY: `init` leaked a map of LEN rows and stored MAP before LEN. The address is
        // reckoned from PC itself, so that a walk does not wait for the offset.
        unsafe { self.map.wrapping_sub(self.base).wrapping_add(pc).read() }
    }

    /// The same, and its delta once more, as wide as it is added to SP: widening it after the load
    /// would take a walk a cycle more for each frame.
    #[inline(always)]
    pub(crate) fn row_and_delta(self, pc: usize) -> (Row, usize) {
        if pc.wrapping_sub(self.base) >= self.len {
            return (Row::NONE, 0);
        }
        let map = self.map.wrapping_sub(self.base);
        // SAFETY: as in `row`.
        let (delta, row) = unsafe { (arch::load_wide(map as usize, pc), map.wrapping_add(pc).read()) };
        (Row { delta: delta as u32, ..row }, delta)
    }
}

fn section_words((start, stop): (usize, usize)) -> &'static [i32] {
    // SAFETY: the linker's bounds of a section of `.long`s, retained and read-only.
    unsafe { core::slice::from_raw_parts(start as *const i32, (stop - start) / 4) }
}

fn relative(word: &'static i32) -> usize {
    (core::ptr::from_ref(word) as isize + *word as isize) as usize
}

/// Builds the direct map and the directory; later calls do nothing.
///
/// # Panics
/// Where the emitted rows are malformed, which is a mistake in the assembly.
pub fn init() {
    DIRECTORY.get_or_init(|| {
        let (start, end) = arch::text_bounds();
        let mut map = vec![Row::NONE; end - start + 1].into_boxed_slice();
        for row in section_words(arch::rows_bytes()).chunks_exact(4) {
            let (from, to) = (relative(&row[0]), relative(&row[1]));
            let packed = Row::pack(row[2] as u32, row[3] as u32);
            for byte in &mut map[from - start..to - start] {
                assert!(byte.is_none(), "two rows of the function table overlap");
                *byte = packed;
            }
        }
        MAP.store(Box::leak(map).as_mut_ptr(), Ordering::Relaxed);
        BASE.store(start, Ordering::Relaxed);
        LEN.store(end - start, Ordering::Release);

        let mut directory: Vec<FunctionInfo> = section_words(arch::directory_bytes())
            .chunks_exact(10)
            .map(|words| FunctionInfo {
                function: Function::from_code(words[0] as u8).expect("a known function"),
                size: words[1] as usize,
                slots: words[2] as usize,
                start: relative(&words[3]),
                end: relative(&words[4]),
                after_ask: relative(&words[5]),
                after_call: relative(&words[6]),
                after_more: relative(&words[7]),
                landing: relative(&words[8]),
                after_call_other: relative(&words[9]),
            })
            .collect();
        directory.sort_by_key(|info| info.function);
        assert!(
            directory
                .iter()
                .map(|i| i.function)
                .eq(Function::ALL.iter().copied().filter(|f| f.on_goroutine_stack())),
            "every function of the goroutine side has one directory row"
        );
        directory
    });
}

/// The functions, in the order of their codes. Builds the table if need be.
#[inline]
pub fn directory() -> &'static [FunctionInfo] {
    if DIRECTORY.get().is_none() {
        init();
    }
    DIRECTORY.get().map_or(&[], Vec::as_slice)
}

/// One function's directory row. Signal-safe.
///
/// # Panics
/// Before [`init`]: a core's making does that.
#[inline]
pub fn info(function: Function) -> &'static FunctionInfo {
    &DIRECTORY.get().expect("the table is made with the core")[function as usize]
}

/// Changes the SP delta of the row at `pc`, to see whether an oracle notices.
///
/// # Safety
/// No walk is under way, and nobody relies on this process's core any more.
pub unsafe fn corrupt(pc: usize, delta_xor: u16) {
    let table = Table::get();
    assert!(!table.row(pc).is_none(), "no row to corrupt");
    // SAFETY: in bounds as just checked; leaked memory of this module, nobody reads it now (caller).
    unsafe { (*table.map.cast_mut().add(pc - table.base)).delta ^= u32::from(delta_xor) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_but_the_leaf_has_rows_for_all_its_bytes() {
        let table = {
            directory();
            Table::get()
        };
        for info in directory() {
            for pc in info.start..info.end {
                let row = table.row(pc);
                if info.function == Function::Leaf {
                    assert!(row.is_none(), "the leaf is in no table");
                } else {
                    assert_eq!(row.function(), Some(info.function));
                }
            }
        }
    }

    #[test]
    fn code_outside_has_no_row() {
        directory();
        let (start, end) = arch::text_bounds();
        let table = Table::get();
        for pc in [0, 1, start - 1, end, usize::MAX, init as *const () as usize] {
            assert!(table.row(pc).is_none());
        }
    }

    #[test]
    fn a_return_lands_where_the_frame_is_complete() {
        let table = {
            directory();
            Table::get()
        };
        for info in directory() {
            if info.slots == 0 {
                continue;
            }
            for pc in [info.after_ask, info.after_call, info.landing, info.after_call_other] {
                assert!(table.row(pc).has_pointers(), "{} at {pc:#x}", info.function);
                assert_eq!(table.row(pc).delta(), info.size + 8);
            }
        }
    }
}
