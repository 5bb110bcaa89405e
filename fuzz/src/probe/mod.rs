//! `sigstorm probe`: a signal at every instruction of functions in a program that nobody changed.
//!
//! # From a plan to findings
//!
//! 1. The program runs undisturbed, three times where it ends at all ([`Expected`]).
//! 2. *In place*: one process serves boundary after boundary, each once, as they are reached; then the next
//!    process, in which other visits are served. *Fresh*: a first process counts the boundaries that are reached,
//!    and then each gets a process of its own ([`campaign`]).
//! 3. A [`session`] is one process: it serves boundaries and judges what comes of it.
//! 4. What was found is grouped by cause, and tried again in fresh processes ([`confirm`]).
//!
//! | file | |
//! |---|---|
//! | `plan.rs` | what is asked for |
//! | `points.rs`, `defaults.rs`, `kit.rs` | the boundaries; which functions where nobody names any; what is kept |
//! | `session.rs`, `choose.rs`, `serve.rs`, `flight.rs` | one process |
//! | `state.rs`, `look.rs`, `stuck.rs`, `evidence.rs` | the oracles, and the words for what they see |
//! | `campaign.rs`, `confirm.rs`, `finding.rs` | many processes |
//! | `obstacles.rs` | why nothing may come of it, in words |
//! | `replay.rs` | `probe.json` |
//!
//! Everything that touches the traced program is [`sigstorm_inject::remote`]; everything that judges is here.
//!
//! # Ancestors
//!
//! S. Lamb's `race_checker` of sigsafe (2004) steps a program k instructions by ptrace and then sends a signal, for
//! every k. BoringSSL's `abi_test` unwinds at every instruction of its assembly; CoreCLR's GCStress patches each
//! instruction once and heals it. `strace -e inject` injects at system calls. None of them takes a program with
//! threads and says *deadlock* or *crash*.

pub mod campaign;
mod choose;
pub mod confirm;
pub mod defaults;
mod evidence;
pub mod finding;
mod flight;
mod kit;
mod look;
mod obstacles;
pub mod plan;
pub mod points;
pub mod replay;
mod serve;
pub mod session;
mod state;
mod stuck;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The undisturbed program: how it ends, and what it prints.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// How each run ended; none where it did not in the time that was given.
    pub statuses: Vec<ExitStatus>,
    /// The output of each run.
    pub outputs: Vec<Vec<u8>>,
}

impl Expected {
    /// The exit status, where all runs agree on one.
    pub fn code(&self) -> Option<i32> {
        let code = self.statuses.first()?.code()?;
        self.statuses.iter().all(|status| status.code() == Some(code)).then_some(code)
    }

    /// The number of runs.
    pub fn runs(&self) -> usize {
        self.statuses.len()
    }

    /// Returns whether an undisturbed run died of this signal.
    pub fn dies_of(&self, signal: i32) -> bool {
        self.statuses.iter().any(|status| status.signal() == Some(signal))
    }

    /// The program's output, where all runs agree.
    pub fn output(&self) -> Option<&[u8]> {
        let first = self.outputs.first()?;
        self.outputs.iter().all(|output| output == first).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_that_differ_are_not_judged() {
        let of = |codes: &[i32]| Expected {
            statuses: codes.iter().map(|code| ExitStatus::from_raw(*code)).collect(),
            outputs: vec![b"a".to_vec(); codes.len()],
        };
        assert_eq!(of(&[0x300, 0x300]).code(), Some(3));
        assert_eq!((of(&[0x300, 0]).code(), of(&[]).code(), of(&[11]).code()), (None, None, None));
        assert!(of(&[11]).dies_of(11) && !of(&[0x300]).dies_of(11));
        assert_eq!((of(&[0, 0]).output(), of(&[]).output()), (Some(&b"a"[..]), None));
    }
}
