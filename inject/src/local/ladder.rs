//! A ladder: breakpoints at many boundaries of a region at once.
//!
//! # Uses
//!
//! *Recording*: every boundary is armed. A thread that reaches one stops in the trap handler;
//! the byte there is restored so that the thread can go on, and the boundary at which it
//! stopped before is armed again. So the thread climbs from boundary to boundary, and each
//! visit to each is seen, at a tenth of the trap flag's cost.
//!
//! *Hit counts*: a breakpoint that is to be passed several times before it counts must be set
//! again once its instruction has run. [`Ladder::arm_after`] arms every boundary that can run
//! next; the first of these to be hit is the moment to set the breakpoint again.
//!
//! # Book-keeping
//!
//! A *rung* is a boundary that can be armed. The rung on which the running thread stands is
//! *open*: its instruction is whole, so that the thread can run it. The open rung goes with the
//! baton: a thread [closes](Ladder::close) it before it passes the baton on, so that other
//! threads stop there, and [opens](Ladder::open) it when it has the baton again.
//!
//! # Successors of an instruction
//!
//! | instruction | next |
//! |---|---|
//! | plain | the one after it |
//! | conditional branch | that one and its target |
//! | direct branch or call within the region | its target |
//! | any other call, return, a trap | a *gate*: a function's first instruction, or one after a call |
//! | indirect branch | any |
//!
//! # Gotchas
//!
//! - Code that enters the region from outside by neither a call nor a return (a panic's
//!   clean-up, a handler that rewrites the PC) passes no gate. Recording and plain breakpoints
//!   stop there, but `arm_after` does not count such a visit.
//! - Recording sees an instruction that follows itself (`loop` to its own address) once, and
//!   `arm_after` refuses it: single-step such an instruction.
//! - `arm_after` arms for the calling thread: a thread without the baton that runs into such a
//!   rung waits. `arm_all` arms for any thread, so it stops a thread without the baton, too.
//! - Ladders of several regions can be armed at once, and the breakpoint of
//!   [`set_breakpoint`](crate::set_breakpoint) can lie on a rung: the stop is then the
//!   breakpoint's. Two armed ladders must not share a boundary.

use iced_x86::{Code, FlowControl, Instruction};

use super::patch::rungs::Rungs;
use super::signal::gettid;
use crate::region::Region;

/// No rung.
const NONE: usize = usize::MAX;

/// The instructions that can run after one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// These rungs; `NONE` if there is no second.
    These(usize, usize),
    /// Any gate: the instruction is a call.
    Gates,
    /// Any gate: the instruction is a return.
    Return,
    /// Any.
    Any,
}

/// A region's boundaries, ready to be armed.
#[derive(Debug)]
pub struct Ladder {
    rungs: Rungs,
    /// One for each rung.
    next: Vec<Next>,
    /// The rungs of functions' first instructions, and of those after calls.
    gates: Vec<usize>,
}

impl Ladder {
    /// The ladder of a region. Nothing is armed by this.
    pub fn new(region: &Region) -> Ladder {
        let mut decoded: Vec<(usize, u8, Instruction)> = Vec::new();
        for (f, function) in region.functions().iter().enumerate() {
            let code = region.code(f);
            for (boundary, instruction) in region.boundaries(f).iter().zip(region.instructions(f)) {
                let offset = usize::from(boundary.offset);
                decoded.push((function.start + offset, code[offset], instruction));
            }
        }
        decoded.sort_by_key(|(address, ..)| *address);
        let find = |address: u64| decoded.binary_search_by_key(&(address as usize), |(at, ..)| *at).ok();
        let starts = region.functions().iter().filter_map(|function| find(function.start as u64));
        let after_calls = decoded.iter().filter(|(.., i)| is_call(i)).filter_map(|(.., i)| find(i.next_ip()));
        let mut gates: Vec<usize> = starts.chain(after_calls).collect();
        gates.sort_unstable();
        gates.dedup();
        Ladder {
            rungs: Rungs::new(decoded.iter().map(|(address, original, _)| (*address, *original))),
            next: decoded.iter().map(|(.., instruction)| next(instruction, find)).collect(),
            gates,
        }
    }

    /// The number of boundaries.
    pub fn len(&self) -> usize {
        self.rungs.len()
    }

    /// Returns whether there are no boundaries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Arms every boundary, for any thread.
    ///
    /// # Safety
    ///
    /// - The region's pages are those of a [`Text`](crate::Text) that outlives the breakpoints.
    /// - [`install_trap_handler`](crate::install_trap_handler) has been called.
    /// - Only the thread that holds the baton runs that code before [`Ladder::disarm`], and no
    ///   other thread calls this ladder's methods or changes patches meanwhile.
    pub unsafe fn arm_all(&'static self) {
        self.disarm();
        self.rungs.begin(0);
        // SAFETY: the caller's promise.
        (0..self.len()).for_each(|rung| unsafe { self.rungs.lay(rung) });
    }

    /// Arms, for the calling thread, every boundary that can run after the instruction at
    /// `address`, which that thread is about to run. Returns `false`, with nothing armed, if the
    /// instruction may follow itself or is not in the region.
    ///
    /// # Safety
    ///
    /// As for [`Ladder::arm_all`], except that threads without the baton may run that code, too.
    pub unsafe fn arm_after(&'static self, address: usize) -> bool {
        self.disarm();
        let Some(rung) = self.rungs.find(address) else { return false };
        // A call reaches itself again only through its callee, and an indirect branch only
        // through an instruction that loads the register anew.
        let direct = matches!(self.next[rung], Next::These(..) | Next::Return);
        let mut itself = false;
        self.successors(rung, |next| itself |= next == rung);
        if direct && itself {
            return false;
        }
        self.rungs.begin(gettid());
        self.successors(rung, |next| {
            if next != rung {
                // SAFETY: the caller's promise.
                unsafe { self.rungs.lay(next) };
            }
        });
        true
    }

    /// Removes every breakpoint of this ladder.
    pub fn disarm(&self) {
        self.rungs.clear();
    }

    /// Returns whether any boundary is armed.
    pub fn is_armed(&self) -> bool {
        self.rungs.is_laid()
    }

    /// Arms the open rung again, before other threads run. Returns its address if this ladder
    /// has the open rung.
    pub fn close(&self) -> Option<usize> {
        self.rungs.close()
    }

    /// Opens the rung at `address`, before the thread that stands on it runs again. A rung that
    /// is open already is closed. Does nothing if no rung is armed at `address`.
    pub fn open(&self, address: Option<usize>) {
        self.rungs.close();
        if let Some(rung) = address.and_then(|address| self.rungs.patched(address)) {
            self.rungs.step_onto(rung);
        }
    }

    fn successors(&self, of: usize, mut each: impl FnMut(usize)) {
        match self.next[of] {
            Next::These(one, other) => [one, other].into_iter().filter(|&r| r != NONE).for_each(each),
            Next::Gates | Next::Return => self.gates.iter().copied().for_each(each),
            Next::Any => (0..self.len()).for_each(&mut each),
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
    // A thread that leaves the region comes back through a gate.
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
