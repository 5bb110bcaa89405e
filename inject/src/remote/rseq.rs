//! Restartable sequences (`rseq(2)`): code that starts anew when it is interrupted.
//!
//! A breakpoint in such a sequence interrupts it each time, so the program would never get past.
//! [`Tracer::in_restartable_sequence`] says whether a stopped thread is in one that it has
//! registered; the section `__rseq_cs` of an object lists those that it may register.

use super::error::{During, Result};
use super::ptrace;
use super::tracer::Tracer;

impl Tracer {
    /// Returns whether a held thread's PC lies in the restartable sequence that it has registered.
    /// Kernels before 5.13 do not tell, and the result is `false`.
    ///
    /// # Errors
    ///
    /// If the thread is not held, or its record cannot be read.
    pub fn in_restartable_sequence(&mut self, tid: i32) -> Result<bool> {
        let thread = self.held(tid)?;
        let (pid, pc, known) = (thread.pid, thread.regs.pc(), thread.rseq);
        // `struct rseq`: cpu_id_start, cpu_id, then the descriptor's address.
        let descriptor = |tracer: &Self, record: u64| tracer.space(pid)?.memory.word(record + 8);
        let descriptor = match known.map(|record| descriptor(self, record)) {
            Some(Ok(word)) => word,
            // Not registered as yet, or a record that is no longer mapped.
            _ => {
                let record = match ptrace::rseq_record(tid) {
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                        return Ok(false);
                    }
                    other => other.during("reading the restartable sequence", tid)?,
                };
                self.held_mut(tid)?.rseq = (record != 0).then_some(record);
                if record == 0 {
                    return Ok(false);
                }
                descriptor(self, record)?
            }
        };
        if descriptor == 0 {
            return Ok(false);
        }
        let space = self.space(pid)?;
        // `struct rseq_cs`: version, flags, start, length, abort address.
        let (start, length) = (space.memory.word(descriptor + 8)?, space.memory.word(descriptor + 16)?);
        Ok(pc.checked_sub(start).is_some_and(|offset| offset < length))
    }
}
