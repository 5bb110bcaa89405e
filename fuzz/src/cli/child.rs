//! Children of this binary, none of which may outlive it.
//!
//! A child is killed when its parent ends, however that ends, and does not take a Ctrl-C
//! that is meant for the parent. It arranges for both itself, as it begins. Between its
//! start and that moment the parent may already be gone, so it is told who that was.

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;
use sigstorm_runtime::instrument::defect::Defect;
use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};

/// What glibc makes each switch of threads and each signal pay for, and nothing here needs:
/// restartable sequences (the kernel looks after them at every switch and every signal), and
/// AVX-512 in `memcpy`, whose registers stay in use and are saved with every signal frame and every
/// switch from then on. Without them a worker runs 5 to 9 % more schedules. Another libc takes no notice.
const TUNABLES: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.pthread.rseq=0:glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD",
);

/// So many last lines of what a child said are shown.
const TAIL: usize = 20;

/// A command that runs a subcommand of this binary.
///
/// Start it on a thread that lives as long as the child shall: the kernel takes the end of
/// that thread for the end of the parent.
pub fn command(subcommand: &str, defects: &[Defect]) -> Command {
    // Not by its path: that may hold a newer build by now, or nothing.
    command_of(Path::new("/proc/self/exe"), subcommand, defects)
}

/// The same of another build of it.
pub fn command_of(program: &Path, subcommand: &str, defects: &[Defect]) -> Command {
    let mut command = Command::new(program);
    command.arg0("sigstorm");
    let (name, ours) = TUNABLES;
    // What comes later counts: the user's own.
    let value = match std::env::var(name) {
        Ok(theirs) if !theirs.is_empty() => format!("{ours}:{theirs}"),
        _ => ours.to_owned(),
    };
    command.env(name, value);
    command.arg(subcommand).args(["--parent", &process::id().to_string()]);
    for defect in defects {
        command.args(["--defect", defect.name()]);
    }
    command
}

/// What a child does first. `parent` is what [`command`] told it, if it was not started by hand.
pub fn begin(parent: Option<i32>) -> nix::Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != parent {
        process::exit(0);
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()
}

/// The last lines of something long.
#[derive(Clone, Debug, Default)]
pub struct Tail(VecDeque<String>);

impl Tail {
    /// Adds a line, and drops the first if there are too many.
    pub fn push(&mut self, line: &[u8]) {
        if self.0.len() == TAIL {
            self.0.pop_front();
        }
        self.0.push_back(String::from_utf8_lossy(line).trim_end().to_string());
    }

    /// The last lines of a text.
    pub fn of(text: &[u8]) -> Tail {
        let mut tail = Tail::default();
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            tail.push(line);
        }
        tail
    }

    /// The lines.
    pub fn lines(self) -> Vec<String> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_end() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let lines = Tail::of(text.as_bytes()).lines();
        assert_eq!(lines.len(), TAIL);
        assert_eq!(lines[TAIL - 1], "line 99");
        assert!(Tail::of(b"").lines().is_empty());
        assert_eq!(Tail::of(b"\xff\n").lines(), ["\u{fffd}"]);
    }
}
