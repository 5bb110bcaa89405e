//! Canaries in planted defects: they record that the faulty code ran, and that it took effect.
//!
//! To say how long a mistake took to be found, one must know when it was made. A defect is *reached*
//! once its faulty code has run, and *triggered* once its condition has held: the list was not empty
//! that should have been emptied, the lock was not taken while another thread was in the section.
//! The defect itself notes both, so they do not depend on any oracle. A defect that was triggered and
//! never reported is one that an oracle has missed; one that was reported and never triggered is a
//! false alarm.
//!
//! Critical sections that a defect leaves without the stack lock follow one rule: the defect is
//! triggered when another thread is in the section at the same time, that is, when the lock is held
//! as the section begins, or is tried before it ends.
//!
//! Canaries decide nothing, and nothing of them is left without the `defects` feature.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::instrument::defect::Defect;
use crate::sched::g::G;
use crate::sched::runtime::MAX_GOROUTINES;

static REACHED: AtomicU64 = AtomicU64::new(0);
static TRIGGERED: AtomicU64 = AtomicU64::new(0);
/// For each goroutine, by its number, the defects whose unlocked sections are under way on its stack.
static EXPOSED: [AtomicU64; MAX_GOROUTINES + 1] = [const { AtomicU64::new(0) }; MAX_GOROUTINES + 1];

/// Sets bits. Writes only if one of them is new.
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

/// Notes that the defect has taken effect, if `condition` holds.
#[cold]
#[inline(never)]
pub(crate) fn trigger_if(defect: Defect, condition: &dyn Fn() -> bool) {
    if condition() {
        trigger(defect);
    }
}

/// Returns whether the defect's faulty code has run in this process.
pub fn reached(defect: Defect) -> bool {
    REACHED.load(Relaxed) & bit(defect) != 0
}

/// Returns whether the defect's condition has held in this process.
pub fn triggered(defect: Defect) -> bool {
    TRIGGERED.load(Relaxed) & bit(defect) != 0
}

fn exposed(g: &G) -> &'static AtomicU64 {
    &EXPOSED[usize::from(g.id)]
}

/// A critical section without its lock, because a defect is planted; it ends when dropped.
#[derive(Debug)]
pub struct Unlocked {
    g: &'static G,
    defect: Defect,
}

impl Unlocked {
    /// Begins a section.
    #[cold]
    #[inline(never)]
    pub fn begin(defect: Defect, g: &'static G) -> Unlocked {
        let others = exposed(g).fetch_or(bit(defect), Relaxed);
        if g.lock.owner().is_some() {
            trigger(defect);
        }
        if others != 0 {
            // Two sections at once: both defects are triggered.
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

/// Returns the first bytes of the functions that run only with a planted defect. None of them is
/// marked code, and code that calls them runs only with a defect, too.
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

/// Notes that a thread takes or tries `g`'s stack lock. Signal-safe.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlocked_section_is_triggered_by_its_own_goroutine_alone() {
        const DEFECT: Defect = Defect::CopystackUnlocked;
        let goroutines: &'static [G] = (1..=MAX_GOROUTINES as u8).map(G::new).collect::<Vec<_>>().leak();
        let section = Unlocked::begin(DEFECT, &goroutines[0]);
        goroutines[1..].iter().for_each(met);
        assert!(!triggered(DEFECT), "another goroutine's lock");
        met(&goroutines[0]);
        assert!(triggered(DEFECT));
        drop(section);
        assert_eq!(exposed(&goroutines[0]).load(Relaxed), 0);
    }
}
