//! Canaries in the planted defects: that one was come to, and that it bit.
//!
//! To say how long a mistake took to be found, one must know when it was made. A defect
//! is *reached* once its faulty code has run, and *triggered* once its condition held:
//! the list was not empty that should have been emptied, the lock was not taken while
//! another was in there. Both are noted here by the defect itself, so they do not depend
//! on any oracle: what was triggered and never reported is what an oracle has missed, and
//! what was reported and never triggered is a false alarm.
//!
//! For critical sections that a defect leaves without the stack lock there is one rule:
//! the defect is triggered when somebody is in there at the same time, which is to say
//! that somebody holds the lock as the section begins, or tries it before it ends.
//!
//! Nothing here decides anything, and nothing of it is left without the `defects` feature.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::core::GOROUTINES;
use crate::defect::Defect;
use crate::g::G;

static REACHED: AtomicU64 = AtomicU64::new(0);
static TRIGGERED: AtomicU64 = AtomicU64::new(0);
/// For each goroutine the defects whose unlocked sections are under way on its stack.
static EXPOSED: [AtomicU64; GOROUTINES] = [const { AtomicU64::new(0) }; GOROUTINES];

/// Sets bits; a write only where one is new.
#[inline]
fn set(word: &AtomicU64, bits: u64) {
    if word.load(Relaxed) & bits != bits {
        word.fetch_or(bits, Relaxed);
    }
}

#[inline]
fn bit(defect: Defect) -> u64 {
    1 << defect.code()
}

#[cold]
#[inline(never)]
pub(crate) fn reach(defect: Defect) {
    set(&REACHED, bit(defect));
}

#[cold]
#[inline(never)]
pub(crate) fn trigger(defect: Defect) {
    set(&TRIGGERED, bit(defect));
}

/// Notes that the defect bites if it does.
#[cold]
#[inline(never)]
pub(crate) fn trigger_if(defect: Defect, condition: &dyn Fn() -> bool) {
    if condition() {
        trigger(defect);
    }
}

/// True once the faulty code has run in this process.
pub fn reached(defect: Defect) -> bool {
    REACHED.load(Relaxed) & bit(defect) != 0
}

/// True once the defect's condition has held in this process.
pub fn triggered(defect: Defect) -> bool {
    TRIGGERED.load(Relaxed) & bit(defect) != 0
}

fn exposed(g: &G) -> &'static AtomicU64 {
    &EXPOSED[usize::from(g.id) % GOROUTINES]
}

/// A critical section without its lock, because a defect is planted; it ends when dropped.
#[derive(Debug)]
pub struct Unlocked {
    g: &'static G,
    defect: Defect,
}

impl Unlocked {
    /// The section begins.
    #[cold]
    #[inline(never)]
    pub fn begin(defect: Defect, g: &'static G) -> Unlocked {
        let others = exposed(g).fetch_or(bit(defect), Relaxed);
        if g.lock.owner().is_some() {
            trigger(defect);
        }
        if others != 0 {
            // Two of them: neither is alone any more.
            set(&TRIGGERED, others | bit(defect));
        }
        Unlocked { g, defect }
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        end(self.g, self.defect);
    }
}

#[cold]
#[inline(never)]
fn end(g: &G, defect: Defect) {
    exposed(g).fetch_and(!bit(defect), Relaxed);
}

/// First bytes of what runs only where a defect is planted. None of it is marked code, and
/// what calls it runs with a defect alone.
pub fn code() -> [usize; 6] {
    [
        reach as *const () as usize,
        trigger as *const () as usize,
        trigger_if as *const () as usize,
        Unlocked::begin as *const () as usize,
        end as *const () as usize,
        met_in as *const () as usize,
    ]
}

/// Somebody takes or tries `g`'s stack lock. Signal-safe.
#[inline]
pub(crate) fn met(g: &G) {
    let sections = exposed(g).load(Relaxed);
    if sections != 0 {
        met_in(sections);
    }
}

#[cold]
#[inline(never)]
fn met_in(sections: u64) {
    set(&TRIGGERED, sections);
}
