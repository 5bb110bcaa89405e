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

/// Mixes what makes up a feature into one number.
#[inline(always)]
pub(crate) fn mix(parts: [u32; 3]) -> u32 {
    let mut hash = 0x9e37_79b9u32;
    for part in parts {
        hash = (hash ^ part).wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 15;
    }
    hash
}

/// Notes a feature.
#[inline(always)]
pub(crate) fn hit(feature: u32) {
    // SAFETY: the index is within the map; the writer holds the baton.
    unsafe { (*MAP.0.get())[feature as usize % MAP_SIZE] = 1 };
}

/// The features of the last run.
///
/// # Safety
/// No run is under way.
pub unsafe fn map() -> &'static [u8; MAP_SIZE] {
    // SAFETY: nobody writes meanwhile (caller).
    unsafe { &*MAP.0.get() }
}

/// Forgets the features: for engines that do not do so themselves.
///
/// # Safety
/// No run is under way.
pub unsafe fn clear() {
    // SAFETY: nobody reads or writes meanwhile (caller).
    unsafe { *MAP.0.get() = [0; MAP_SIZE] };
}

/// Every feature seen in any run.
#[derive(Debug)]
pub struct Seen {
    bits: Box<[u8; MAP_SIZE]>,
    count: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Seen { bits: Box::new([0; MAP_SIZE]), count: 0 }
    }
}

impl Seen {
    /// Adds the last run's. Returns whether any was new.
    ///
    /// # Safety
    /// No run is under way.
    pub unsafe fn add(&mut self) -> bool {
        // SAFETY: no run is under way (caller).
        let map = unsafe { map() };
        let before = self.count;
        for (seen, now) in self.bits.chunks_exact_mut(8).zip(map.chunks_exact(8)) {
            let fresh = now.iter().zip(&*seen).filter(|(n, s)| **n != 0 && **s == 0).count();
            if fresh != 0 {
                self.count += fresh as u64;
                for (s, n) in seen.iter_mut().zip(now) {
                    *s |= *n;
                }
            }
        }
        self.count != before
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }
}
