//! An address space: its memory, its breakpoints, and the scratch area in which instructions under
//! breakpoints run.
//!
//! Threads share one, and so does a child of `vfork` until it calls `exec`.

use std::collections::{BTreeSet, HashMap};

use super::breakpoints::Breakpoints;
use super::displaced::{self, Copied, LONGEST, OutOfLine, SLOT};
use super::error::{Error, Result};
use super::memory::Memory;
use super::registers::Registers;

/// The bytes of a scratch area.
pub(super) const AREA: u64 = 1 << 20;
/// The bytes of a page.
pub(in crate::remote) const PAGE: u64 = 1 << 12;

/// Slots in memory that was mapped for them.
#[derive(Clone, Debug)]
struct Area {
    start: u64,
    slots: Vec<Copied>,
    /// Takes no more slots: a forked child may have a copy of fewer, or none.
    closed: bool,
}

/// An address's instruction, ready to run elsewhere.
#[derive(Clone, Copy, Debug)]
struct Prepared {
    bytes: [u8; LONGEST],
    out_of_line: OutOfLine,
    slot: Option<u64>,
    /// The bytes are still those at the address: no breakpoint was laid there since they were read.
    current: bool,
}

/// The way in which a thread passes an instruction out of line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Passage {
    /// Continue at this slot.
    Slot(u64),
    /// Emulate it.
    Emulate(iced_x86::Instruction),
    /// Pass on the trap.
    OwnTrap,
    /// Map an area within reach of the address first.
    NeedsArea,
}

#[derive(Debug)]
pub(super) struct Space {
    pub(super) memory: Memory,
    pub(super) breakpoints: Breakpoints,
    /// Restorers with a breakpoint that no caller has laid: handlers' returns are seen there.
    pub(super) returns: BTreeSet<u64>,
    areas: Vec<Area>,
    prepared: HashMap<u64, Prepared>,
    /// Slots of indirect calls whose return address the tracer cannot push, by address and target.
    calls: HashMap<(u64, u64), u64>,
    /// The address of a `syscall` instruction, once one was looked for.
    pub(super) syscall: Option<u64>,
    /// A page of the tracer's own, for the records of injected system calls, once one was mapped.
    pub(super) page: Option<u64>,
    /// The number of processes that live in it.
    pub(super) processes: usize,
}

impl Space {
    pub(super) fn new(memory: Memory) -> Space {
        Space {
            memory,
            breakpoints: Breakpoints::default(),
            returns: BTreeSet::new(),
            areas: Vec::new(),
            prepared: HashMap::new(),
            calls: HashMap::new(),
            syscall: None,
            page: None,
            processes: 1,
        }
    }

    /// The space of a forked child, which has a copy of everything. Other threads may have mapped areas
    /// and filled slots since it was made, so the child gets its own; the parent's only tell where a
    /// thread in one of them is.
    pub(super) fn copy(&self, memory: Memory) -> Space {
        Space {
            memory,
            breakpoints: self.breakpoints.clone(),
            returns: self.returns.clone(),
            areas: self.areas.iter().map(|area| Area { closed: true, ..area.clone() }).collect(),
            prepared: HashMap::new(),
            calls: HashMap::new(),
            syscall: self.syscall,
            // It may have been mapped after the child was made.
            page: None,
            processes: 1,
        }
    }

    /// Fills `into` with the bytes from `address` on as they are without breakpoints.
    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.memory.read(address, into)?;
        self.breakpoints.hide(address, into);
        Ok(())
    }

    /// Checks that the instructions at these addresses can be stepped out of line.
    pub(super) fn check(&self, addresses: &[u64]) -> Result<()> {
        // Functions are read once: 4 KiB at a time, and the longest instruction more.
        let mut window = (0, Vec::new());
        for &address in addresses {
            let (start, bytes) = &mut window;
            let end = *start + bytes.len() as u64;
            if address < *start || address + LONGEST as u64 > end {
                bytes.resize(PAGE as usize, 0);
                let count = self.memory.read_some(address, bytes);
                bytes.truncate(count);
                self.breakpoints.hide(address, bytes);
                *start = address;
            }
            let code = &bytes[(address - *start) as usize..];
            analyse(address, &code[..code.len().min(LONGEST)])?;
        }
        Ok(())
    }

    /// Reads the instruction at `address`. It keeps its slot if it is the one that was there before.
    fn prepare(&mut self, address: u64) -> Result<Prepared> {
        let mut bytes = [0; LONGEST];
        let count = self.memory.read_some(address, &mut bytes);
        self.breakpoints.hide(address, &mut bytes[..count]);
        if let Some(before) = self.prepared.get_mut(&address) {
            let length = before.out_of_line.instruction.len();
            before.current = length <= count && before.bytes[..length] == bytes[..length];
            if before.current {
                return Ok(*before);
            }
            self.calls.retain(|(at, _), _| *at != address);
        }
        let out_of_line = analyse(address, &bytes[..count])?;
        let prepared = Prepared { bytes, out_of_line, slot: None, current: true };
        self.prepared.insert(address, prepared);
        Ok(prepared)
    }

    /// Breakpoints have been laid at these addresses: other code may lie there than when they were
    /// last passed.
    pub(super) fn relaid(&mut self, addresses: &[u64]) {
        if self.prepared.is_empty() {
            return;
        }
        for address in addresses {
            if let Some(prepared) = self.prepared.get_mut(address) {
                prepared.current = false;
            }
        }
    }

    /// Forgets the instructions that were prepared in a range: other code may lie there now.
    pub(super) fn forget(&mut self, range: std::ops::Range<u64>) {
        self.prepared.retain(|address, _| !range.contains(address));
        self.calls.retain(|(address, _), _| !range.contains(address));
        self.returns.retain(|address| !range.contains(address));
        self.breakpoints.forget(range);
    }

    /// How a thread passes the breakpoint at `address`, in a single step or on its way.
    pub(super) fn passage(&mut self, address: u64, step: bool, stopped: i32) -> Result<Passage> {
        let prepared = match self.prepared.get(&address) {
            Some(prepared) if prepared.current => *prepared,
            _ => self.prepare(address)?,
        };
        match (prepared.out_of_line.way, prepared.slot) {
            (displaced::Way::OwnTrap, _) => Ok(Passage::OwnTrap),
            (displaced::Way::Emulate, _) => Ok(Passage::Emulate(prepared.out_of_line.instruction)),
            (displaced::Way::Slot, _)
                if step && displaced::is_direct_call(&prepared.out_of_line.instruction) =>
            {
                Ok(Passage::Emulate(prepared.out_of_line.instruction))
            }
            (displaced::Way::Slot, Some(slot)) => Ok(Passage::Slot(slot)),
            (displaced::Way::Slot, None) => {
                let Some(slot) = self.fill(&prepared, None, stopped)? else {
                    return Ok(Passage::NeedsArea);
                };
                if let Some(prepared) = self.prepared.get_mut(&address) {
                    prepared.slot = Some(slot);
                }
                Ok(Passage::Slot(slot))
            }
        }
    }

    /// A slot for the indirect call at `address` with this target, or for the call itself where
    /// reading the target faults.
    pub(super) fn call_slot(
        &mut self,
        address: u64,
        target: Option<u64>,
        stopped: i32,
    ) -> Result<Option<u64>> {
        let key = (address, target.unwrap_or(0));
        if let Some(slot) = self.calls.get(&key) {
            return Ok(Some(*slot));
        }
        let Some(prepared) = self.prepared.get(&address).copied() else { return Ok(None) };
        let slot = self.fill(&prepared, target, stopped)?;
        if let Some(slot) = slot {
            self.calls.insert(key, slot);
        }
        Ok(slot)
    }

    /// Writes a slot, in an area from which the instruction's operand can be reached.
    fn fill(&mut self, prepared: &Prepared, target: Option<u64>, stopped: i32) -> Result<Option<u64>> {
        for area in &mut self.areas {
            let at = area.start + area.slots.len() as u64 * SLOT;
            if area.closed || at + SLOT > area.start + AREA {
                continue;
            }
            let made = displaced::slot(&prepared.out_of_line.instruction, &prepared.bytes, at, target);
            if let Ok((code, copied)) = made {
                self.memory.write(at, &code, Some(stopped))?;
                area.slots.push(copied);
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Adds an area that has just been mapped. A recorded one that it overlaps is not in this space: the parent of a
    /// forked child mapped it after the fork.
    pub(super) fn add_area(&mut self, start: u64) {
        self.areas.retain(|area| area.start >= start + AREA || area.start + AREA <= start);
        self.areas.push(Area { start, slots: Vec::new(), closed: false });
    }

    /// Changes the registers of a thread that stopped in a slot to the original's. Returns the
    /// original's address if the thread has still to run it; `None` if the thread is in no slot, or
    /// has run it.
    pub(super) fn original(&self, regs: &mut Registers) -> Moved {
        let pc = regs.pc();
        for area in &self.areas {
            let Some(offset) = pc.checked_sub(area.start).filter(|offset| *offset < AREA) else { continue };
            let Some(copied) = area.slots.get((offset / SLOT) as usize) else { continue };
            return if copied.original(offset % SLOT, regs) {
                Moved::Before(copied.address)
            } else {
                Moved::After
            };
        }
        Moved::No
    }
}

/// Where a stopped thread was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// In no slot.
    No,
    /// In a slot, the instruction of this address still to run.
    Before(u64),
    /// In a slot, the instruction done.
    After,
}

fn analyse(address: u64, bytes: &[u8]) -> Result<OutOfLine> {
    displaced::analyse(address, bytes).map_err(|reason| Error::OutOfLine {
        address,
        bytes: bytes.to_vec(),
        reason,
    })
}
