//! Rungs: the boundaries of a ladder, each with the byte that a breakpoint there covers.
//!
//! # Book-keeping
//!
//! | state of a rung | byte | meaning |
//! |---|---|---|
//! | `FREE` | original | it is not in the set that its ladder has laid |
//! | `PATCHED` | `int3` | a thread stops there |
//! | `OPEN` | original | it is in the set, and the running thread stands on it |
//!
//! `laid` lists the rungs that are not `FREE`, so clearing costs as much as laying did, however
//! many rungs there are. The open rung is one for the whole process (`OPEN_RUNGS`, `OPEN_AT`),
//! since one thread runs: a thread that goes from one ladder's region into another's closes the
//! rung that it leaves.
//!
//! Ladders that were ever laid form a list to which entries are only added, so a thread
//! without the baton can follow it at any time.
//!
//! # Gotchas
//!
//! - No two laid ladders share a boundary; laying a rung where another ladder has one aborts.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use super::{INT3, breakpoint, write};
use crate::local::sys::die;

const FREE: u8 = 0;
const PATCHED: u8 = 1;
const OPEN: u8 = 2;

/// The first of the ladders that were ever laid.
static LADDERS: AtomicPtr<Rungs> = AtomicPtr::new(std::ptr::null_mut());
/// The ladder that the open rung is of, or null.
static OPEN_RUNGS: AtomicPtr<Rungs> = AtomicPtr::new(std::ptr::null_mut());
/// The open rung's number in its ladder.
static OPEN_AT: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct Rung {
    address: usize,
    original: u8,
    state: AtomicU8,
}

/// A ladder's rungs, by address.
#[derive(Debug)]
pub(in crate::local) struct Rungs {
    rungs: Box<[Rung]>,
    /// The numbers of the rungs that are not `FREE`: the first `laid_count` entries.
    laid: Box<[AtomicU32]>,
    laid_count: AtomicUsize,
    /// The thread that they are for, or 0 for any.
    owner: AtomicI32,
    listed: AtomicBool,
    next: AtomicPtr<Rungs>,
}

impl Rungs {
    /// Rungs at these addresses, which are sorted, with the bytes that are there.
    pub(in crate::local) fn new(boundaries: impl Iterator<Item = (usize, u8)>) -> Rungs {
        let rung = |(address, original)| Rung { address, original, state: AtomicU8::new(FREE) };
        let rungs: Box<[Rung]> = boundaries.map(rung).collect();
        Rungs {
            laid: rungs.iter().map(|_| AtomicU32::new(0)).collect(),
            rungs,
            laid_count: AtomicUsize::new(0),
            owner: AtomicI32::new(0),
            listed: AtomicBool::new(false),
            next: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    pub(in crate::local) fn len(&self) -> usize {
        self.rungs.len()
    }

    /// The number of the rung at `address`.
    pub(in crate::local) fn find(&self, address: usize) -> Option<usize> {
        self.rungs.binary_search_by_key(&address, |rung| rung.address).ok()
    }

    /// Returns whether any rung is laid.
    pub(in crate::local) fn is_laid(&self) -> bool {
        self.laid_count.load(Ordering::Relaxed) != 0
    }

    pub(super) fn owner(&self) -> &AtomicI32 {
        &self.owner
    }

    pub(super) fn original(&self, at: usize) -> u8 {
        self.rungs[at].original
    }

    /// Says which thread the rungs that are laid next are for (0: any).
    pub(in crate::local) fn begin(&'static self, owner: i32) {
        self.owner.store(owner, Ordering::Relaxed);
        if !self.listed.swap(true, Ordering::Relaxed) {
            self.next.store(LADDERS.load(Ordering::Relaxed), Ordering::Relaxed);
            LADDERS.store(std::ptr::from_ref(self).cast_mut(), Ordering::Release);
        }
    }

    /// Lays a rung.
    ///
    /// # Safety
    ///
    /// Its page is mapped and writable until [`Rungs::clear`], and the calling thread holds
    /// the baton.
    pub(in crate::local) unsafe fn lay(&'static self, at: usize) {
        let rung = &self.rungs[at];
        if rung.state.load(Ordering::Relaxed) != FREE {
            return;
        }
        if ladders().any(|other| !std::ptr::eq(other, self) && other.patched(rung.address).is_some()) {
            die("two ladders are armed at one address");
        }
        let count = self.laid_count.load(Ordering::Relaxed);
        self.laid[count].store(at as u32, Ordering::Relaxed);
        self.laid_count.store(count + 1, Ordering::Release);
        self.patch(rung);
    }

    /// Takes every rung away.
    pub(in crate::local) fn clear(&self) {
        for at in &self.laid[..self.laid_count.load(Ordering::Relaxed)] {
            self.restore(&self.rungs[at.load(Ordering::Relaxed) as usize], FREE);
        }
        self.laid_count.store(0, Ordering::Release);
        if std::ptr::eq(OPEN_RUNGS.load(Ordering::Relaxed), self) {
            OPEN_RUNGS.store(std::ptr::null_mut(), Ordering::Relaxed);
        }
    }

    /// Patches the open rung again if it is one of these. Returns its address.
    pub(in crate::local) fn close(&self) -> Option<usize> {
        if !std::ptr::eq(OPEN_RUNGS.load(Ordering::Relaxed), self) {
            return None;
        }
        OPEN_RUNGS.store(std::ptr::null_mut(), Ordering::Relaxed);
        let rung = &self.rungs[OPEN_AT.load(Ordering::Relaxed)];
        self.patch(rung);
        Some(rung.address)
    }

    /// The running thread stands on this rung, which is laid: opens it, and closes the rung
    /// that was open before.
    pub(in crate::local) fn step_onto(&self, at: usize) {
        close_open();
        self.restore(&self.rungs[at], OPEN);
        OPEN_AT.store(at, Ordering::Relaxed);
        OPEN_RUNGS.store(std::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
    }

    /// The number of the rung that is patched at `address`.
    pub(in crate::local) fn patched(&self, address: usize) -> Option<usize> {
        let is_patched = |&at: &usize| self.rungs[at].state.load(Ordering::Relaxed) == PATCHED;
        self.is_laid().then(|| self.find(address)).flatten().filter(is_patched)
    }

    fn patched_rungs(&self) -> impl Iterator<Item = &Rung> {
        let laid = &self.laid[..self.laid_count.load(Ordering::Relaxed)];
        let rungs = laid.iter().map(|at| &self.rungs[at.load(Ordering::Relaxed) as usize]);
        rungs.filter(|rung| rung.state.load(Ordering::Relaxed) == PATCHED)
    }

    fn patch(&self, rung: &Rung) {
        rung.state.store(PATCHED, Ordering::Relaxed);
        // SAFETY: `lay`'s caller promised a writable page until `clear`, before which a rung
        // is not `FREE` again, and that it holds the baton.
        unsafe { write(rung.address, INT3) };
    }

    /// Restores a rung's byte if it is patched, and gives the rung a state.
    fn restore(&self, rung: &Rung, state: u8) {
        if rung.state.load(Ordering::Relaxed) == PATCHED && breakpoint() != Some(rung.address) {
            // SAFETY: As in `patch`.
            unsafe { write(rung.address, rung.original) };
        }
        rung.state.store(state, Ordering::Relaxed);
    }
}

/// The ladder and the rung that are patched at `address`.
pub(super) fn patched_at(address: usize) -> Option<(&'static Rungs, usize)> {
    ladders().find_map(|rungs| Some((rungs, rungs.patched(address)?)))
}

/// Gives the address of each patched rung, and the byte that it covers.
pub(super) fn for_each_patched(each: &mut impl FnMut(usize, u8)) {
    ladders().flat_map(Rungs::patched_rungs).for_each(|rung| each(rung.address, rung.original));
}

/// Clears each ladder that has a rung laid in this range.
pub(super) fn clear_within(start: usize, end: usize) {
    let within = |rung: &Rung| (start..end).contains(&rung.address);
    let laid = |rungs: &&Rungs| {
        rungs.rungs.iter().any(|rung| within(rung) && rung.state.load(Ordering::Relaxed) != FREE)
    };
    ladders().filter(laid).for_each(Rungs::clear);
}

fn ladders() -> impl Iterator<Item = &'static Rungs> {
    // SAFETY: Null, or a `&'static Rungs` that `begin` stored.
    let first = unsafe { LADDERS.load(Ordering::Acquire).as_ref() };
    // SAFETY: As above: `begin` stored the head before in `next`.
    std::iter::successors(first, |rungs| unsafe { rungs.next.load(Ordering::Relaxed).as_ref() })
}

/// Patches the open rung again, whichever ladder it is of.
pub(super) fn close_open() {
    // SAFETY: Null, or rungs that `step_onto` was called on. They are laid, so they are
    // `'static` as `lay` demands.
    if let Some(rungs) = unsafe { OPEN_RUNGS.load(Ordering::Relaxed).as_ref() } {
        rungs.close();
    }
}
