//! Unwinding rows: for every byte of goroutine-side code, the distance to its return address.
//!
//! The assembler emits rows next to the code. At start they are spread into a direct map from text
//! offset to one row, so that a walk pays one load for each frame. The map is the only source of
//! unwinding truth in the core.

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::func_id::FuncId;
use crate::arch::{self, row_flags};

crate::named_codes! {
    /// The kind of code that a PC lies in.
    pub enum CodeClass {
        /// A frame is being built.
        Prologue = 1, "prologue";
        /// A frame is complete.
        Body = 2, "body";
        /// A frame is being taken down.
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

/// The row of one PC: the delta, and packed beside it function, class and flags. There are two
/// words, so that a walk has the delta, for which it waits, with nothing to unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct UnwindRow {
    pub(crate) delta: u32,
    pub(crate) info: u32,
}

impl UnwindRow {
    /// An ordinary frame: neither the outermost, nor the trampoline, nor code without a row.
    const PLAIN: u32 = 1 << 31;

    /// The row of code in no table.
    pub const NONE: UnwindRow = UnwindRow { delta: 0, info: 0 };

    fn pack(delta: u32, info: u32) -> UnwindRow {
        let class = info >> 8 & 0xf;
        assert!(
            delta <= 0xffff && class != 0 && info & UnwindRow::PLAIN == 0,
            "a row of the function table is malformed"
        );
        let plain = info & row_flags::TOP == 0 && class != CodeClass::Trampoline as u32;
        UnwindRow { delta, info: if plain { info | UnwindRow::PLAIN } else { info } }
    }

    /// Reads the row that lies at `found`.
    ///
    /// # Safety
    /// [`Table::find`] has found it. (A planted defect passes null. That must be a fault of the
    /// processor and not whatever a compiler makes of it, so the address is touched first.)
    #[inline]
    pub(crate) unsafe fn at(found: *const UnwindRow) -> UnwindRow {
        // SAFETY: a word of the map, which is never freed (caller).
        unsafe {
            arch::touch(found as usize);
            found.read()
        }
    }

    /// Returns whether the code is in no table.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.info == 0
    }

    /// Returns whether the frame is an ordinary one: neither the outermost, nor the trampoline, nor
    /// in no table.
    #[inline(always)]
    pub(crate) const fn is_plain(self) -> bool {
        self.info & UnwindRow::PLAIN != 0
    }

    /// Returns the bytes from SP to the slot of the return address.
    #[inline(always)]
    pub const fn delta(self) -> usize {
        self.delta as usize
    }

    /// Returns the function, if the row names one.
    #[inline(always)]
    pub const fn function(self) -> Option<FuncId> {
        if self.is_none() { None } else { FuncId::from_code(self.info as u8) }
    }

    /// Returns the class of code.
    pub const fn class(self) -> CodeClass {
        match CodeClass::from_code((self.info >> 8 & 0xf) as u8) {
            Some(class) => class,
            None => CodeClass::Foreign,
        }
    }

    /// Returns whether the frame is the outermost, which has no return address.
    #[inline(always)]
    pub const fn is_top(self) -> bool {
        self.info & row_flags::TOP != 0
    }

    /// Returns whether the code is the switch onto a goroutine, whose PC is still in the saved state.
    #[inline(always)]
    pub const fn is_saved(self) -> bool {
        self.info & row_flags::SAVED != 0
    }

    /// Returns whether the frame's slots hold pointers.
    #[inline(always)]
    pub const fn has_pointers(self) -> bool {
        self.info & row_flags::POINTERS != 0
    }

    /// Returns whether the code is the trampoline.
    #[inline(always)]
    pub const fn is_trampoline(self) -> bool {
        self.info >> 8 & 0xf == CodeClass::Trampoline as u32
    }
}

static BASE: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);
static MAP: AtomicPtr<UnwindRow> = AtomicPtr::new((&raw const BEFORE).cast_mut());
/// The map before [`spread`].
static BEFORE: UnwindRow = UnwindRow::NONE;

/// A view of the map that a walk holds in registers.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    base: usize,
    len: usize,
    map: *const UnwindRow,
}

impl Table {
    /// Returns the process's table. It is empty before [`init`](super::functab::init).
    #[inline(always)]
    pub fn get() -> Table {
        // First: a length that is not zero comes with the base and the map that belong to it.
        let len = LEN.load(Ordering::Acquire);
        Table { base: BASE.load(Ordering::Relaxed), len, map: MAP.load(Ordering::Relaxed) }
    }

    /// Returns the place of the row of `pc`, or null for code in no table.
    #[inline]
    pub(crate) fn find(self, pc: usize) -> *const UnwindRow {
        let found = self.locate(pc);
        // SAFETY: `locate` names a row.
        if unsafe { found.read() }.is_none() { core::ptr::null() } else { found }
    }

    /// Returns the row of a `pc` that may well lie outside, computed without a branch.
    #[inline(always)]
    pub(crate) fn row_of_any(self, pc: usize) -> UnwindRow {
        // SAFETY: `locate` names a row.
        unsafe { self.locate(pc).read() }
    }

    /// Returns the place of the row of `pc`; for code outside, the last one, which is none.
    #[inline(always)]
    fn locate(self, pc: usize) -> *const UnwindRow {
        // SAFETY: `spread` leaked a map of LEN rows and one, and stored MAP before LEN, which `get` has
        // loaded first. Before that LEN is zero, and the first row of each map is none.
        unsafe { self.map.add(pc.wrapping_sub(self.base).min(self.len)) }
    }

    /// Returns the row of `pc`; [`UnwindRow::NONE`] for code in no table.
    #[inline(always)]
    pub fn row(self, pc: usize) -> UnwindRow {
        let offset = pc.wrapping_sub(self.base);
        if offset >= self.len {
            return UnwindRow::NONE;
        }
        // SAFETY: `spread` leaked a map of LEN rows and stored MAP before LEN. The address is
        // computed from PC itself, so that a walk does not wait for the offset.
        unsafe { self.map.wrapping_sub(self.base).wrapping_add(pc).read() }
    }

    /// Returns the row of `pc`, and its delta once more, as wide as it is added to SP: widening it
    /// after the load would take a walk a cycle more for each frame.
    #[inline(always)]
    pub(crate) fn row_and_delta(self, pc: usize) -> (UnwindRow, usize) {
        if pc.wrapping_sub(self.base) >= self.len {
            return (UnwindRow::NONE, 0);
        }
        let map = self.map.wrapping_sub(self.base);
        // SAFETY: as in `row`.
        let (delta, row) = unsafe { (arch::load_wide(map as usize, pc), map.wrapping_add(pc).read()) };
        (UnwindRow { delta: delta as u32, ..row }, delta)
    }
}

/// Spreads the emitted rows into the map for the code from `start` to `end`. The map begins one byte
/// before the code: its first row is none, and so is its last.
///
/// # Panics
/// If the rows are malformed, which is a mistake in the assembly.
pub(super) fn spread(start: usize, end: usize) {
    let base = start - 1;
    let mut map = vec![UnwindRow::NONE; end - base + 1].into_boxed_slice();
    for row in words_of(arch::rows_bytes()).chunks_exact(4) {
        let (from, to) = (address(&row[0]), address(&row[1]));
        let packed = UnwindRow::pack(row[2] as u32, row[3] as u32);
        for byte in &mut map[from - base..to - base] {
            assert!(byte.is_none(), "two rows of the function table overlap");
            *byte = packed;
        }
    }
    MAP.store(Box::leak(map).as_mut_ptr(), Ordering::Relaxed);
    BASE.store(base, Ordering::Relaxed);
    LEN.store(end - base, Ordering::Release);
}

/// Returns the `.long`s of a section with these bounds.
pub(super) fn words_of((start, stop): (usize, usize)) -> &'static [i32] {
    // SAFETY: the linker's bounds of a section of `.long`s, retained and read-only.
    unsafe { core::slice::from_raw_parts(start as *const i32, (stop - start) / 4) }
}

/// Returns the address that a word holds relative to its own place.
pub(super) fn address(word: &'static i32) -> usize {
    (core::ptr::from_ref(word) as isize + *word as isize) as usize
}
