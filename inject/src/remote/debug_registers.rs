//! Execution breakpoints in a thread's debug registers.
//!
//! They are private to the thread, change no code, and are not inherited: neither new threads nor
//! forked children have them, and `exec` clears them. A thread stops *before* the instruction.
//! There are four.

use std::io;
use std::mem::offset_of;

use super::ptrace;

const COUNT: usize = 4;
const DR6: usize = 6;
const DR7: usize = 7;

fn offset(register: usize) -> usize {
    offset_of!(libc::user, u_debugreg) + register * size_of::<u64>()
}

/// The execution breakpoints that a thread has in its debug registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DebugRegisters {
    addresses: [Option<u64>; COUNT],
}

impl DebugRegisters {
    /// Returns whether the thread stops at `address`.
    pub(super) fn has(&self, address: u64) -> bool {
        self.addresses.contains(&Some(address))
    }

    /// Makes the stopped thread stop at `address`; returns `false` if all registers are taken.
    pub(super) fn set(&mut self, tid: i32, address: u64) -> io::Result<bool> {
        if self.has(address) {
            return Ok(true);
        }
        let Some(free) = self.addresses.iter().position(Option::is_none) else { return Ok(false) };
        ptrace::poke_user(tid, offset(free), address)?;
        self.addresses[free] = Some(address);
        self.enable(tid)?;
        Ok(true)
    }

    /// Removes all of the stopped thread's.
    pub(super) fn clear(&mut self, tid: i32) -> io::Result<()> {
        self.addresses = [None; COUNT];
        self.enable(tid)
    }

    /// Clears the status that a hit leaves behind: the next trap would look like another hit.
    pub(super) fn acknowledge(tid: i32) -> io::Result<()> {
        ptrace::poke_user(tid, offset(DR6), 0)
    }

    fn enable(&self, tid: i32) -> io::Result<()> {
        // For each register its local enable bit; kind and length 0 mean execution.
        let enabled = (0..COUNT).filter(|&n| self.addresses[n].is_some()).map(|n| 1 << (2 * n)).sum();
        ptrace::poke_user(tid, offset(DR7), enabled)
    }
}
