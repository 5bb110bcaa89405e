//! Laying and lifting breakpoints, and passing those that stay.

use std::collections::BTreeSet;

use super::breakpoints::Lifetime;
use super::displaced::{self, Effect};
use super::error::{Error, Result};
use super::event::Event;
use super::maps;
use super::memory::Memory;
use super::space::{AREA, Passage};
use super::thread::{ReturnBy, Unwritten};
use super::tracer::Tracer;

impl Tracer {
    /// Lays breakpoints at these addresses of a process, which are boundaries of instructions. One
    /// that is there already gets the new lifetime. Either all are laid, or everything is as before.
    ///
    /// Neighbours are written together with the bytes between them. In code that the program itself
    /// rewrites while it runs, lay one address at a time.
    ///
    /// # Errors
    ///
    /// If some address is not mapped, or the instruction under a breakpoint that is to stay cannot
    /// be run out of line.
    pub fn lay(
        &mut self,
        pid: i32,
        addresses: impl IntoIterator<Item = u64>,
        lifetime: Lifetime,
    ) -> Result<()> {
        let addresses: Vec<u64> = BTreeSet::from_iter(addresses).into_iter().collect();
        let stopped = self.stopped_in(pid);
        let space = self.space_mut(pid)?;
        if lifetime == Lifetime::Stays {
            space.check(&addresses)?;
        }
        space.breakpoints.lay(&space.memory, &addresses, lifetime, stopped)?;
        space.relaid(&addresses);
        // From now on these are the caller's.
        for address in &addresses {
            space.returns.remove(address);
        }
        Ok(())
    }

    /// Lifts those of these breakpoints that are laid.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to restore the code.
    pub fn lift(&mut self, pid: i32, addresses: impl IntoIterator<Item = u64>) -> Result<()> {
        let mut addresses = BTreeSet::from_iter(addresses);
        let stopped = self.stopped_in(pid);
        self.keep_restorers(pid, |restorer| addresses.remove(&restorer))?;
        let addresses: Vec<u64> = addresses.into_iter().collect();
        let space = self.space_mut(pid)?;
        space.breakpoints.lift(&space.memory, &addresses, stopped)
    }

    /// Lifts every breakpoint in a range of addresses, such as a function's. Returns them, to be
    /// laid again.
    ///
    /// # Errors
    ///
    /// As [`Tracer::lift`].
    pub fn lift_within(&mut self, pid: i32, range: std::ops::Range<u64>) -> Result<Vec<(u64, Lifetime)>> {
        let mut laid = self.space(pid)?.breakpoints.laid_within(range);
        laid.retain(|(address, _)| self.is_laid(pid, *address));
        self.lift(pid, laid.iter().map(|(address, _)| *address))?;
        Ok(laid)
    }

    /// Breakpoints at restorers to which handlers are still to return stay laid, unseen by the caller.
    fn keep_restorers(&mut self, pid: i32, mut lifted: impl FnMut(u64) -> bool) -> Result<()> {
        let open = match self.return_by {
            ReturnBy::DebugRegister => BTreeSet::new(),
            ReturnBy::Breakpoint => self.open_restorers(pid),
        };
        let space = self.space_mut(pid)?;
        for restorer in open.into_iter().chain(space.returns.clone()) {
            if lifted(restorer) && space.breakpoints.is_laid(restorer) {
                space.returns.insert(restorer);
            }
        }
        Ok(())
    }

    /// Forgets the breakpoints in a range that the program has unmapped (`dlclose`): other code may
    /// be mapped there next.
    ///
    /// # Errors
    ///
    /// If the process is not traced.
    pub fn forget(&mut self, pid: i32, range: std::ops::Range<u64>) -> Result<()> {
        self.space_mut(pid)?.forget(range);
        Ok(())
    }

    /// Returns whether a breakpoint of the caller's is laid at this address.
    pub fn is_laid(&self, pid: i32, address: u64) -> bool {
        self.space(pid)
            .is_ok_and(|space| space.breakpoints.is_laid(address) && !space.returns.contains(&address))
    }

    /// The number of the caller's breakpoints that are laid in a process.
    pub fn laid(&self, pid: i32) -> usize {
        self.space(pid).map_or(0, |space| space.breakpoints.laid() - space.returns.len())
    }

    /// Makes a stopped thread pass the breakpoint at its PC out of line. Returns `false` if it has
    /// done so without running, and its single step is over.
    pub(super) fn pass(&mut self, tid: i32, address: u64, signal: &mut i32) -> Result<bool> {
        let Some(thread) = self.threads.get(&tid) else { return Ok(false) };
        let (pid, step) = (thread.pid, thread.stepping);
        let mut passage = self.space_mut(pid)?.passage(address, step, tid)?;
        if matches!(passage, Passage::NeedsArea) {
            self.map_area(tid, address)?;
            passage = self.space_mut(pid)?.passage(address, step, tid)?;
        }
        match passage {
            Passage::Slot(slot) => self.set_pc(tid, slot),
            Passage::OwnTrap => {
                self.set_pc(tid, address + 1);
                *signal = libc::SIGTRAP;
            }
            Passage::Emulate(instruction) => {
                let Some(thread) = self.threads.get(&tid) else { return Ok(false) };
                let mut regs = thread.regs;
                let space = self.space(pid)?;
                let word = |address| space.memory.word(address).ok();
                let slot = match displaced::emulate(&instruction, &mut regs, word) {
                    Effect::Done => None,
                    Effect::Call(target) => {
                        let sp = regs.sp().wrapping_sub(8);
                        if Memory::write_as_program(tid, sp, instruction.next_ip()) {
                            (regs.0.rsp, regs.0.rip) = (sp, target);
                            None
                        } else {
                            Some(self.call_slot(tid, address, Some(target))?)
                        }
                    }
                    Effect::Fault => Some(self.call_slot(tid, address, None)?),
                };
                if let Some(slot) = slot {
                    self.set_pc(tid, slot);
                    return Ok(true);
                }
                if let Some(thread) = self.threads.get_mut(&tid) {
                    (thread.regs, thread.unwritten) = (regs, Unwritten::All);
                    if std::mem::take(&mut thread.stepping) {
                        self.events.push_back(Event::Stepped { tid });
                        return Ok(false);
                    }
                }
            }
            Passage::NeedsArea => return Err(no_room(address)),
        }
        Ok(true)
    }

    fn call_slot(&mut self, tid: i32, address: u64, target: Option<u64>) -> Result<u64> {
        let pid = self.process_of(tid).unwrap_or(tid);
        if let Some(slot) = self.space_mut(pid)?.call_slot(address, target, tid)? {
            return Ok(slot);
        }
        self.map_area(tid, address)?;
        self.space_mut(pid)?.call_slot(address, target, tid)?.ok_or_else(|| no_room(address))
    }

    fn set_pc(&mut self, tid: i32, pc: u64) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.set_pc(pc);
        }
    }

    /// Has the thread map a scratch area near `address`.
    fn map_area(&mut self, tid: i32, address: u64) -> Result<()> {
        let pid = self.process_of(tid).unwrap_or(tid);
        let mapped = self.map(tid, address, AREA, libc::PROT_READ | libc::PROT_EXEC)?;
        let place = mapped.map_err(|source| Error::Scratch { address, source })?;
        self.space_mut(pid)?.add_area(place);
        Ok(())
    }
}

fn no_room(address: u64) -> Error {
    Error::Scratch { address, source: maps::no_room() }
}
