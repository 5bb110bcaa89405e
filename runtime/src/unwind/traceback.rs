//! Tracebacks: walking a goroutine's stack.
//!
//! A walk starts from a PC and an SP, which a signal or a saved state gives. It looks up the
//! distance to the return address, and goes on at the caller until it reaches the outermost frame.
//! Whoever walks holds the stack lock, or owns the stopped goroutine.
//!
//! ## Where a signal can find a goroutine
//!
//! * In a frame, prologue and epilogue included: the table has a delta for every instruction.
//! * In the trampoline: the return has happened, and the position may or may not have moved. The
//!   walk acts as if the trampoline had finished: it takes the entry at the position if that
//!   entry's slot lies right below SP, and otherwise the entry before it.
//! * In the switch, with SP on the goroutine's stack. Leaving, the switch is a call like any other.
//!   Arriving, the PC is still in the saved state, and SP is already right.
//! * With SP elsewhere: the saved state is complete, since it is saved before SP leaves and cleared
//!   only after SP is back. In a system call or a foreign call the transition point is complete.
//!
//! A walk never guesses. It refuses what it cannot explain, and says why.

use super::rows::{Table, UnwindRow};
use crate::arch;
use crate::sched::g::G;

pub use super::walk_error::WalkError;

/// A frame of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Its PC: the interrupted one, or the return address of its callee.
    pub pc: usize,
    /// SP at that PC.
    pub sp: usize,
    /// The row of that PC.
    pub row: UnwindRow,
    /// The slot of its return address; the outermost frame has none.
    pub slot: Option<usize>,
}

impl Frame {
    /// Returns the SP after the frame has returned, which is the frame's end.
    pub fn cfa(&self) -> Option<usize> {
        self.slot.map(|slot| slot + 8)
    }
}

/// The place where a walk starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Program counter.
    pub pc: usize,
    /// Stack pointer.
    pub sp: usize,
}

/// A word that no load returns; a load that faults leaves it.
const FAULTED: usize = 0x5ca1_ab1e_0000_fa17;

/// Marks the place where a walk has gone wrong, as no walk does in a right core. With the `points`
/// feature it is a call, so that such code can be told from code that a run can reach.
#[cfg(feature = "points")]
#[cold]
#[inline(never)]
pub(crate) fn wrong() {
    core::hint::black_box(());
}

/// Does nothing without the `points` feature.
#[cfg(not(feature = "points"))]
#[inline(always)]
pub(crate) fn wrong() {}

/// Returns the first byte of the function that is called only where a walk goes wrong.
#[cfg(feature = "points")]
pub fn wrong_code() -> usize {
    wrong as *const () as usize
}

/// Returns the error of a walk that has gone wrong.
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
    row: UnwindRow,
    /// The row's delta, as wide as it is added to SP: the next load waits for nothing else.
    delta: usize,
    /// Index of the next barrier to be met.
    barrier: usize,
    barriers: usize,
    lo: usize,
    top: usize,
    done: bool,
}

/// Returns the place to walk from while the goroutine is off its stack: its saved state, or its
/// transition point.
///
/// # Errors
/// If nothing is saved.
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

/// Returns where a walk goes on that starts in the trampoline, as if the trampoline had finished:
/// the PC, its row, and the index of the next barrier. It takes no [`Unwinder`], which then need not
/// lie in memory.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn finish_trampoline(
    g: &G,
    table: Table,
    sp: usize,
    position: usize,
) -> Result<(usize, UnwindRow, usize), WalkError> {
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
    ///
    /// # Errors
    /// If the walk would start in code that is in no table, or the trampoline's entry is missing.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    #[cfg_attr(not(feature = "points"), inline)]
    pub fn begin(g: &'static G, start: Start) -> Result<Unwinder, WalkError> {
        let table = Table::get();
        let found = table.find(start.pc);
        if !crate::planted!(UnknownPcDereferenced, found.is_null()) && found.is_null() {
            return Err(WalkError::UnknownStart { pc: start.pc });
        }
        // SAFETY: not null, so it was found.
        let (mut pc, mut row, mut barrier) =
            (start.pc, unsafe { UnwindRow::at(found) }, g.barriers.position());
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

    /// Returns the next frame; none after the outermost.
    ///
    /// # Errors
    /// If the frame's return address cannot be read or explained, or the outermost frame does not
    /// end where stack and barriers end.
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

    /// Handles a return slot that does not name an ordinary frame: a barrier lies over it, it leads
    /// to the outermost frame, or it cannot be explained.
    #[inline]
    fn special(
        &mut self,
        slot: usize,
        mut pc: usize,
        mut row: UnwindRow,
    ) -> Result<(usize, UnwindRow), WalkError> {
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

    /// Returns the return address under the barrier over `slot`.
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
