//! A ladder: breakpoints at many boundaries of a region at once.
//!
//! # What it is for
//!
//! *Recording*: every boundary is armed. A thread that comes to one stops in the trap
//! handler; its byte is restored so that it can go on, and the one that it stopped at
//! before is armed again. So a thread climbs from boundary to boundary, each seen each
//! time, at a tenth of what the trap flag costs.
//!
//! *Coming back*: a breakpoint that is to be passed some times before it counts must be
//! armed again once its instruction has run. [`Ladder::arm_after`] arms whatever can run
//! next; the first of these that is hit is the moment to do so.
//!
//! # Book-keeping
//!
//! A *rung* is a boundary with its first byte. At most one rung is *open*: not armed
//! although its ladder is, since the running thread stands on it. It goes with the baton:
//! who gives the baton away [closes](Ladder::close) its rung, so that others stop there,
//! and [opens](Ladder::open) it again when it is back.
//!
//! # What can run next
//!
//! | instruction | next |
//! |---|---|
//! | plain | the one after it |
//! | conditional branch | that one and its target |
//! | direct branch or call within the region | its target |
//! | any other call, return, a trap | a *gate*: a function's first instruction, or one after a call |
//! | indirect branch | anything |
//!
//! # Gotchas
//!
//! - What jumps into the region from outside other than by a call or a return (a panic's
//!   clean-up, a handler that rewrites PC) passes no gate. Such code is stopped in by
//!   recording and by plain breakpoints, and its visits are not counted by `arm_after`.
//! - An instruction that follows itself (`loop` to its own address) is seen once by
//!   recording, and `arm_after` refuses it: that is left to the trap flag.
//! - What `arm_after` arms is for the calling thread, and another that comes there without
//!   the baton waits. What `arm_all` arms is for whoever comes: a thread that has to run
//!   without the baton would be stopped by it.
//! - A ladder and the breakpoint of [`arm`](crate::arm) exclude each other: each would take
//!   the other's byte for code.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence};

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};

use super::signal::gettid;
use super::text::{BREAKPOINT, set_owner};
use crate::region::Region;

/// The ladder that is armed, for the trap handler.
static CURRENT: AtomicPtr<Ladder> = AtomicPtr::new(std::ptr::null_mut());

/// No rung.
const NONE: usize = usize::MAX;
/// In `Ladder::set`: nothing is armed.
const NOTHING: usize = usize::MAX;
/// In `Ladder::set`: every rung is.
const ALL: usize = usize::MAX - 1;

/// A boundary that can be armed.
#[derive(Debug)]
struct Rung {
    address: usize,
    original: u8,
    next: Next,
    armed: AtomicBool,
}

/// What can run after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// These rungs; `NONE` where there is no second.
    These(usize, usize),
    /// A function's first instruction or one that follows a call: this is a call.
    Gates,
    /// The same: this is a return.
    Return,
    /// Any.
    Any,
}

/// A region's boundaries, ready to be armed. One a process is in use at a time.
#[derive(Debug)]
pub struct Ladder {
    /// By address.
    rungs: Vec<Rung>,
    gates: Vec<usize>,
    /// The rung whose successors are armed, or `ALL`, or `NOTHING`.
    set: AtomicUsize,
    /// The open rung, or `NONE`.
    open: AtomicUsize,
}

impl Ladder {
    /// The ladder of a region. Nothing is armed by this.
    pub fn new(region: &Region) -> Ladder {
        let mut decoded: Vec<(usize, u8, Instruction)> = Vec::new();
        for f in 0..region.functions().len() {
            let start = region.functions()[f].start;
            let code = region.code(f);
            let mut decoder = Decoder::with_ip(64, code, start as u64, DecoderOptions::NONE);
            for boundary in region.boundaries(f) {
                let instruction = decoder.decode();
                let offset = usize::from(boundary.offset);
                decoded.push((start + offset, code[offset], instruction));
            }
        }
        decoded.sort_by_key(|(address, ..)| *address);
        let find = |address: u64| decoded.binary_search_by_key(&(address as usize), |(at, ..)| *at).ok();
        let starts: Vec<usize> =
            region.functions().iter().filter_map(|function| find(function.start as u64)).collect();
        let after_calls = decoded.iter().filter(|(.., i)| is_call(i)).filter_map(|(.., i)| find(i.next_ip()));
        let mut gates: Vec<usize> = starts.iter().copied().chain(after_calls).collect();
        gates.sort_unstable();
        gates.dedup();
        let rungs = decoded
            .iter()
            .map(|(address, original, instruction)| Rung {
                address: *address,
                original: *original,
                next: next(instruction, find),
                armed: AtomicBool::new(false),
            })
            .collect();
        Ladder { rungs, gates, set: AtomicUsize::new(NOTHING), open: AtomicUsize::new(NONE) }
    }

    /// How many boundaries it has.
    pub fn len(&self) -> usize {
        self.rungs.len()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.rungs.is_empty()
    }

    /// Arms every boundary.
    ///
    /// # Safety
    ///
    /// - The region's pages are those of a [`Text`](crate::Text) that outlives the
    ///   breakpoints, and no breakpoint of [`arm`](crate::arm) is in them.
    /// - [`install`](crate::install) has been called; only the thread that holds the baton
    ///   runs that code before [`Ladder::disarm`], and no other calls this ladder's methods.
    pub unsafe fn arm_all(&'static self) {
        self.disarm();
        set_owner(0);
        self.begin(ALL);
        (0..self.rungs.len()).for_each(|rung| self.patch(rung));
    }

    /// Arms whatever can run after the instruction at `address`, which a thread is about to
    /// run. False, and nothing is armed, where that cannot be told from running it again.
    ///
    /// # Safety
    ///
    /// As for [`Ladder::arm_all`].
    pub unsafe fn arm_after(&'static self, address: usize) -> bool {
        self.disarm();
        let Some(rung) = self.find(address) else { return false };
        // A call comes back to itself only by way of its callee, and an indirect branch by way
        // of something that loads the register anew.
        let direct = matches!(self.rungs[rung].next, Next::These(..) | Next::Return);
        let mut itself = false;
        self.successors(rung, |next| itself |= next == rung);
        if direct && itself {
            return false;
        }
        // It is this thread that is to come back.
        set_owner(gettid());
        self.begin(rung);
        self.successors(rung, |next| {
            if next != rung {
                self.patch(next);
            }
        });
        true
    }

    /// Takes every breakpoint of this ladder away.
    pub fn disarm(&self) {
        let restore = |rung| self.restore(rung);
        match self.set.swap(NOTHING, Ordering::Relaxed) {
            NOTHING => return,
            ALL => (0..self.rungs.len()).for_each(restore),
            of => {
                self.successors(of, restore);
                // Passed on the way.
                if let Some(rung) = self.opened() {
                    self.restore(rung);
                }
            }
        }
        self.open.store(NONE, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        CURRENT.store(std::ptr::null_mut(), Ordering::Release);
    }

    /// True while any of it is armed.
    pub fn is_armed(&self) -> bool {
        self.set.load(Ordering::Relaxed) != NOTHING
    }

    /// Arms the open rung again, since other threads are to run, and says which it was.
    pub fn close(&self) -> Option<usize> {
        let rung = self.opened()?;
        self.open.store(NONE, Ordering::Relaxed);
        self.patch(rung);
        Some(self.rungs[rung].address)
    }

    /// Opens the rung at `address`, since the thread that stands on it runs again.
    pub fn open(&self, address: Option<usize>) {
        if !self.is_armed() {
            return;
        }
        self.close();
        if let Some(rung) = address.and_then(|address| self.find(address)) {
            self.restore(rung);
            self.open.store(rung, Ordering::Relaxed);
        }
    }

    /// A thread has met a breakpoint at `address`: if it is one of this ladder's, opens that
    /// rung and arms the one that was open.
    fn hit(&self, address: usize) -> bool {
        match self.find(address) {
            Some(rung) if self.rungs[rung].armed.load(Ordering::Relaxed) => {
                self.close();
                self.restore(rung);
                self.open.store(rung, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    fn begin(&'static self, set: usize) {
        self.set.store(set, Ordering::Relaxed);
        CURRENT.store(std::ptr::from_ref(self).cast_mut(), Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }

    fn opened(&self) -> Option<usize> {
        Some(self.open.load(Ordering::Relaxed)).filter(|&rung| rung != NONE)
    }

    fn find(&self, address: usize) -> Option<usize> {
        self.rungs.binary_search_by_key(&address, |rung| rung.address).ok()
    }

    fn successors(&self, of: usize, mut each: impl FnMut(usize)) {
        match self.rungs[of].next {
            Next::These(one, other) => [one, other].into_iter().filter(|&r| r != NONE).for_each(each),
            Next::Gates | Next::Return => self.gates.iter().copied().for_each(each),
            Next::Any => (0..self.rungs.len()).for_each(&mut each),
        }
    }

    fn patch(&self, rung: usize) {
        let rung = &self.rungs[rung];
        rung.armed.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: Nothing is patched before `arm_all` or `arm_after` was called, whose caller
        // promised writable pages until `disarm`. One byte is written at once.
        unsafe { (rung.address as *mut u8).write_volatile(BREAKPOINT) };
    }

    fn restore(&self, rung: usize) {
        let rung = &self.rungs[rung];
        if rung.armed.load(Ordering::Relaxed) {
            // SAFETY: As in `patch`: it is patched, so the page is writable still.
            unsafe { (rung.address as *mut u8).write_volatile(rung.original) };
            compiler_fence(Ordering::SeqCst);
            rung.armed.store(false, Ordering::Relaxed);
        }
    }
}

fn is_call(instruction: &Instruction) -> bool {
    let call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
    // The decoder counts the kernel's entry among the calls.
    call && !is_kernel_entry(instruction)
}

fn is_kernel_entry(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Code::Syscall | Code::Sysenter)
}

fn next(instruction: &Instruction, find: impl Fn(u64) -> Option<usize>) -> Next {
    // What leaves the region comes back by a gate.
    let one = |target: u64| find(target).map_or(Next::Gates, |rung| Next::These(rung, NONE));
    match instruction.flow_control() {
        FlowControl::Next => one(instruction.next_ip()),
        FlowControl::Call if is_kernel_entry(instruction) => one(instruction.next_ip()),
        FlowControl::UnconditionalBranch | FlowControl::Call => one(instruction.near_branch_target()),
        FlowControl::ConditionalBranch => {
            match (find(instruction.next_ip()), find(instruction.near_branch_target())) {
                (Some(next), Some(target)) => Next::These(next, target),
                _ => Next::Any,
            }
        }
        FlowControl::IndirectBranch => Next::Any,
        FlowControl::Return => Next::Return,
        _ => Next::Gates,
    }
}

/// The armed ladder.
fn current() -> Option<&'static Ladder> {
    // SAFETY: Null, or a `&'static Ladder` that `begin` stored.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// For the trap handler: true where the breakpoint at `address` is a ladder's.
pub(crate) fn hit(address: usize) -> bool {
    current().is_some_and(|ladder| ladder.hit(address))
}

/// Whether the armed ladder has a breakpoint at `address`.
pub(crate) fn covers(address: usize) -> bool {
    let armed = |ladder: &Ladder| {
        ladder.find(address).is_some_and(|rung| ladder.rungs[rung].armed.load(Ordering::Relaxed))
    };
    current().is_some_and(armed)
}

/// Puts back in a copy of the code from `start` what breakpoints cover.
pub(crate) fn uncover(start: usize, code: &mut [u8]) {
    let Some(ladder) = current() else { return };
    for rung in ladder.rungs.iter().filter(|rung| rung.armed.load(Ordering::Relaxed)) {
        if let Some(byte) = rung.address.checked_sub(start).and_then(|at| code.get_mut(at)) {
            *byte = rung.original;
        }
    }
}

/// Takes the armed ladder away if any of it is in this range.
pub(crate) fn disarm_within(start: usize, end: usize) {
    let Some(ladder) = current() else { return };
    if ladder.rungs.iter().any(|rung| (start..end).contains(&rung.address)) {
        ladder.disarm();
    }
}
