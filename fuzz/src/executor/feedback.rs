//! Feedback: not which code ran, but what met what.
//!
//! A bit of the map stands for one of: an event of one thread after a conflicting event
//! of another on the same goroutine; an event in a state of that goroutine's lock, list
//! and status; a place at which a thread was held while another did something. The map is
//! a section that libFuzzer finds by its name; other engines copy it.

use core::cell::UnsafeCell;

/// Bytes of the map.
pub const MAP_SIZE: usize = 1 << 14;

/// A map that the thread with the baton writes.
#[derive(Debug)]
#[repr(C, align(64))]
struct Map(UnsafeCell<[u8; MAP_SIZE]>);

// SAFETY: under the baton one thread runs at a time; libFuzzer and other readers look
// between runs.
unsafe impl Sync for Map {}

#[used]
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static MAP: Map = Map(UnsafeCell::new([0; MAP_SIZE]));

/// Mixes what makes up a feature into its place in the map: a kind below eight, something below
/// 2^29, and anything. The high bits of a product depend on all bits of its factors.
#[inline(always)]
pub(crate) fn mix([kind, what, with]: [u32; 3]) -> u32 {
    let all = u64::from(kind) << 61 | u64::from(what) << 32 | u64::from(with);
    let mixed = (all ^ all >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - MAP_SIZE.ilog2())) as u32
}

/// Every feature seen since the process began, a bit each, and how many that are.
#[derive(Debug)]
#[repr(C, align(64))]
struct Ever(UnsafeCell<([u64; MAP_SIZE / 64], u64)>);

// SAFETY: as for `Map`.
unsafe impl Sync for Ever {}

static EVER: Ever = Ever(UnsafeCell::new(([0; MAP_SIZE / 64], 0)));

/// Notes a feature.
#[inline(always)]
pub(crate) fn hit(feature: u32) {
    let index = feature as usize % MAP_SIZE;
    // SAFETY: the index is within both maps; the writer holds the baton.
    unsafe {
        (*MAP.0.get())[index] = 1;
        let (seen, count) = &mut *EVER.0.get();
        let (word, bit) = (&mut seen[index / 64], index % 64);
        *count += !*word >> bit & 1;
        *word |= 1 << bit;
    }
}

/// The features of the last run.
///
/// # Safety
/// No run is under way.
pub unsafe fn map() -> &'static [u8; MAP_SIZE] {
    // SAFETY: nobody writes meanwhile (caller).
    unsafe { &*MAP.0.get() }
}

/// Forgets the last run's features: for engines that do not do so themselves.
///
/// # Safety
/// No run is under way.
pub unsafe fn clear() {
    // SAFETY: nobody reads or writes meanwhile (caller).
    unsafe { *MAP.0.get() = [0; MAP_SIZE] };
}

/// How many features were seen since the process began.
///
/// # Safety
/// No run is under way.
pub unsafe fn seen() -> u64 {
    // SAFETY: nobody writes meanwhile (caller).
    unsafe { (*EVER.0.get()).1 }
}
