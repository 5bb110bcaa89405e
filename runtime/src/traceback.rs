//! Walking a goroutine's stack.
//!
//! A walk starts from a PC and SP, which a signal or a saved state gives, looks up how
//! far the return address is, and goes on at the caller until it comes to the outermost
//! frame. Whoever walks holds the stack lock, or owns the stopped goroutine.
//!
//! ## Where a signal can find a goroutine
//!
//! * In a frame, prologue and epilogue included: the table has a delta for every
//!   instruction.
//! * In the trampoline: the return has happened and the position may or may not have
//!   moved. The walk acts as if the trampoline had finished: it takes the entry at the
//!   position if that one's slot lies below SP, else the one before it.
//! * In the switch, with SP on the goroutine's stack: leaving, it is a call like any
//!   other; arriving, the PC is still in the saved state and SP is already right.
//! * With SP elsewhere: the saved state is complete, since it was saved before SP left
//!   and is cleared only after SP came back; or, in a system call, the transition point.
//!
//! A walk never guesses: what it cannot explain it refuses, and says why.

use crate::arch;
use crate::g::G;
use crate::table::{Row, Table};

/// One frame, from the inside out.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Where it is: the interrupted PC, or the return address of its callee.
    pub pc: usize,
    /// SP at that PC.
    pub sp: usize,
    /// The table's row for that PC.
    pub row: Row,
    /// The slot of its return address; none in the outermost frame.
    pub slot: Option<usize>,
}

impl Frame {
    /// SP after the frame has returned; the frame's end.
    pub fn cfa(&self) -> Option<usize> {
        self.slot.map(|slot| slot + 8)
    }
}

/// Where a walk starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Program counter.
    pub pc: usize,
    /// Stack pointer.
    pub sp: usize,
}

/// Why a walk was refused or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The walk would start in code that is in no table.
    UnknownStart {
        /// That code.
        pc: usize,
    },
    /// A return address is in no table.
    UnknownReturn {
        /// The slot.
        slot: usize,
        /// What it holds.
        pc: usize,
    },
    /// A frame reaches out of its stack.
    OutOfStack {
        /// The slot that would have been read.
        slot: usize,
    },
    /// A slot could not be read.
    Fault {
        /// The slot.
        slot: usize,
    },
    /// A slot holds the trampoline and the next entry is not this slot's.
    MissedBarrier {
        /// The slot.
        slot: usize,
    },
    /// The walk came to the outermost frame and entries were left over.
    LeftoverBarriers {
        /// The first one's slot.
        slot: usize,
        /// How many.
        entries: usize,
    },
    /// The walk came to the outermost frame, and that does not end at the stack's top.
    ShortOfTop {
        /// Where it ends.
        end: usize,
    },
    /// In the trampoline, and no entry explains it.
    LostTrampoline {
        /// SP in the trampoline.
        sp: usize,
    },
    /// Nothing is saved to start from.
    NothingSaved,
}

/// A word that no load returns: a load that faults leaves it.
const FAULTED: usize = 0x5ca1_ab1e_0000_fa17;

/// What a walk passes on that has gone wrong, which none does on a right core. With the points
/// it is a call, so that such code can be told from what a run can come to.
#[cfg(feature = "points")]
#[cold]
#[inline(never)]
pub(crate) fn wrong() {
    core::hint::black_box(());
}

/// Nothing without the points.
#[cfg(not(feature = "points"))]
#[inline(always)]
pub(crate) fn wrong() {}

/// First byte of what is called only where a walk goes wrong.
#[cfg(feature = "points")]
pub fn wrong_code() -> usize {
    wrong as *const () as usize
}

/// An error of a walk that has gone wrong.
#[inline(always)]
pub(crate) fn failed<T>(error: WalkError) -> Result<T, WalkError> {
    wrong();
    Err(error)
}

/// A walk under way.
#[derive(Debug)]
pub struct Unwinder {
    g: &'static G,
    table: Table,
    pc: usize,
    sp: usize,
    row: Row,
    /// The row's delta, as it is added to SP: the next load waits for nothing else.
    delta: usize,
    /// Index of the next barrier to be met.
    barrier: usize,
    barriers: usize,
    lo: usize,
    top: usize,
    done: bool,
}

/// The saved place to walk from while the goroutine is off its stack.
#[inline(always)]
pub fn saved(g: &G) -> Result<Start, WalkError> {
    for state in [&g.sched, &g.syscall] {
        let sp = state.sp.get();
        if sp != 0 {
            return Ok(Start { pc: state.pc.get(), sp });
        }
    }
    failed(WalkError::NothingSaved)
}

/// Where a walk goes on that starts in the trampoline, as if that had finished: PC, its row,
/// and the next barrier. Takes no walk, which then need not lie in memory.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn finish_trampoline(
    g: &G,
    table: Table,
    sp: usize,
    position: usize,
) -> Result<(usize, Row, usize), WalkError> {
    let hit = sp - arch::TRAMPOLINE_RETURN_GAP;
    let is_hit = |index: usize| g.barriers.entry(index).filter(|e| e.slot == hit);
    let (entry, next) = if let Some(entry) = is_hit(position) {
        (entry, position + 1)
    } else if let Some(entry) = position.checked_sub(1).and_then(is_hit) {
        (entry, position)
    } else {
        return failed(WalkError::LostTrampoline { sp });
    };
    let row = table.row(entry.pc);
    if row.is_none() {
        return failed(WalkError::UnknownReturn { slot: entry.slot, pc: entry.pc });
    }
    Ok((entry.pc, row, next))
}

impl Unwinder {
    /// Begins a walk of `g`'s stack. Signal-safe, as is [`Unwinder::step`].
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    #[cfg_attr(not(feature = "points"), inline)]
    pub fn begin(g: &'static G, start: Start) -> Result<Unwinder, WalkError> {
        let table = Table::get();
        let found = table.find(start.pc);
        if !crate::planted!(UnknownPcDereferenced, found.is_null()) && found.is_null() {
            return Err(WalkError::UnknownStart { pc: start.pc });
        }
        // SAFETY: not null, so it was found.
        let (mut pc, mut row, mut barrier) = (start.pc, unsafe { Row::at(found) }, g.barriers.position());
        if !crate::planted!(TrampolineNotSimulated, row.is_trampoline()) && row.is_trampoline() {
            match finish_trampoline(g, table, start.sp, barrier) {
                Ok(found) => (pc, row, barrier) = found,
                Err(error) => return failed(error),
            }
        }
        Ok(Unwinder {
            g,
            table,
            pc,
            sp: start.sp,
            row,
            delta: row.delta(),
            barrier,
            barriers: g.barriers.len(),
            lo: g.stack.lo.get(),
            top: g.stack.top.get(),
            done: false,
        })
    }

    /// The next frame; none after the outermost.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    #[cfg_attr(not(feature = "points"), inline)]
    pub fn step(&mut self) -> Result<Option<Frame>, WalkError> {
        if self.done {
            return Ok(None);
        }
        crate::point!(TracebackFrame, self.g, self.top.wrapping_sub(self.sp));
        let frame = Frame { pc: self.pc, sp: self.sp, row: self.row, slot: None };
        if self.row.is_top() {
            self.done = true;
            let entries = self.barriers.saturating_sub(self.barrier);
            if entries != 0 {
                let slot = self.g.barriers.entry(self.barrier).map_or(0, |entry| entry.slot);
                return failed(WalkError::LeftoverBarriers { slot, entries });
            }
            let end = self.sp + self.row.delta();
            return if end == self.top { Ok(Some(frame)) } else { failed(WalkError::ShortOfTop { end }) };
        }
        let slot = self.sp + self.delta;
        if slot < self.lo || slot >= self.top {
            return failed(WalkError::OutOfStack { slot });
        }
        // SAFETY: a slot that cannot be read faults in a load that has an exception row.
        let mut pc = unsafe { arch::load_at_or(self.sp, self.delta, FAULTED) };
        let (mut row, mut delta) = self.table.row_and_delta(pc);
        if !row.is_plain() {
            match self.special(slot, pc, row) {
                Ok(found) => (pc, row) = found,
                Err(error) => return failed(error),
            }
            delta = row.delta();
        }
        self.pc = pc;
        self.sp = slot + 8;
        self.row = row;
        self.delta = delta;
        Ok(Some(Frame { slot: Some(slot), ..frame }))
    }

    /// A return slot does not name an ordinary frame: a barrier lies over it, it is the
    /// outermost frame's, or it cannot be explained.
    #[inline]
    fn special(&mut self, slot: usize, mut pc: usize, mut row: Row) -> Result<(usize, Row), WalkError> {
        if row.is_trampoline() {
            match self.through_barrier(slot) {
                Ok(found) => pc = found,
                Err(error) => return failed(error),
            }
            row = self.table.row(pc);
        }
        if row.is_none() {
            return failed(match pc {
                FAULTED => WalkError::Fault { slot },
                pc => WalkError::UnknownReturn { slot, pc },
            });
        }
        Ok((pc, row))
    }

    /// The return address under the barrier over `slot`.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    #[cfg_attr(not(feature = "points"), inline)]
    pub(crate) fn through_barrier(&mut self, slot: usize) -> Result<usize, WalkError> {
        crate::point!(TracebackBarrier, self.g, self.barrier);
        match self.g.barriers.entry(self.barrier) {
            Some(entry) if self.barrier < self.barriers && entry.slot == slot => {
                self.barrier += 1;
                Ok(entry.pc)
            }
            _ => failed(WalkError::MissedBarrier { slot }),
        }
    }
}
