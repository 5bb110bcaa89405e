//! Keeping the program's SIGTRAP as the program has it.
//!
//! A trap is a signal that the kernel forces on the thread. If the thread blocks SIGTRAP or the
//! process ignores it, the kernel unblocks it *and* sets its action to the default first. The tracer
//! never lets the signal through, so nothing dies of this, but the program would find another mask
//! and another action than it set.
//!
//! # What is done
//!
//! - *The mask.* After a trap the tracer cannot see that SIGTRAP was blocked before. It takes it for
//!   blocked if every other signal is (code that blocks signals around something delicate blocks them
//!   all), or if this thread was seen to block it and its mask has lost this signal alone.
//! - *The action.* It is asked for (an injected `rt_sigaction`) when `/proc` says that the process
//!   catches or ignores SIGTRAP, which is looked up at every 256th trap of the process and whenever
//!   the program has a trap of its own. It is set again when it was lost.
//!
//! A thread that blocks SIGTRAP and little else is not noticed, and neither is an action that was set
//! and lost between two look-ups: see [`Tracer::sigtrap_restored`] for how often it was.

use super::error::{During, Result};
use super::ptrace;
use super::signals::{self, bit, has_signal};
use super::tracer::Tracer;

/// A look-up costs as much as two stops.
const LOOK_UP_EVERY: u32 = 256;

/// The signals that code blocks if it blocks all: SIGHUP to SIGSYS without those that cannot be
/// blocked. SIGTRAP itself is what is asked.
fn blocks_the_rest(mask: u64) -> bool {
    let exempt = bit(libc::SIGKILL) | bit(libc::SIGSTOP) | bit(libc::SIGTRAP);
    (mask | exempt) & 0x7fff_ffff == 0x7fff_ffff
}

impl Tracer {
    /// How often SIGTRAP's place in a mask, or its action, was restored after a trap.
    pub fn sigtrap_restored(&self) -> u64 {
        self.mended
    }

    /// Puts right what the trap at which `tid` stopped has done to the program's SIGTRAP.
    pub(super) fn mend_trap(&mut self, tid: i32) -> Result<()> {
        let mask = match ptrace::signal_mask(tid) {
            Err(error) if ptrace::is_gone(&error) => return Ok(()),
            other => other.during("reading the signal mask", tid)?,
        };
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let pid = thread.pid;
        let with = mask | bit(libc::SIGTRAP);
        let lost = mask != with && (blocks_the_rest(mask) || thread.mask == with);
        thread.mask = if lost { with } else { mask };
        thread.mask_is_current = true;
        if lost {
            ptrace::unless_gone(ptrace::set_signal_mask(tid, with))
                .during("restoring the signal mask", tid)?;
            self.mended += 1;
        }
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        let look_up = process.traps.is_multiple_of(LOOK_UP_EVERY);
        process.traps = process.traps.wrapping_add(1);
        let action = process.trap_action;
        if let Some(action) = action
            && (lost || action.handler == libc::SIG_IGN as u64)
        {
            self.set_action(tid, libc::SIGTRAP, &action)?;
            self.mended += 1;
        } else if look_up && !lost {
            self.look_up_trap_action(tid)?;
        }
        Ok(())
    }

    /// Returns whether the program of this thread has an action for SIGTRAP that a trap may take away. The
    /// mask alone needs no care where a handler returns: the kernel sets that of the interrupted code next.
    pub(super) fn keeps_trap_action(&self, tid: i32) -> bool {
        let process = self.process_of(tid).and_then(|pid| self.processes.get(&pid));
        process.is_some_and(|process| process.trap_action.is_some())
    }

    /// Finds out what the program does with SIGTRAP.
    pub(super) fn look_up_trap_action(&mut self, tid: i32) -> Result<()> {
        let Ok(sets) = signals::sets(tid) else { return Ok(()) };
        let wanted = has_signal(sets.caught | sets.ignored, libc::SIGTRAP);
        let action = if wanted { Some(self.action_of(tid, libc::SIGTRAP)?) } else { None };
        if let Some(process) = self.process_of(tid).and_then(|pid| self.processes.get_mut(&pid)) {
            process.trap_action = action;
        }
        Ok(())
    }
}
