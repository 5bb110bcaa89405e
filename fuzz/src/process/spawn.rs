//! The start of a child, from both sides.
//!
//! A child is killed when its parent ends, however that ends, and does not take a Ctrl-C
//! that is meant for the parent. It arranges for both itself, as it begins. Between its
//! start and that moment the parent may already be gone, so its orders name the parent.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};

use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;

use super::{Orders, Task};

/// Features of glibc for which each switch of threads and each signal pays, and which nothing here needs:
/// restartable sequences (the kernel looks after them at every switch and every signal), and
/// AVX-512 in `memcpy`, whose registers stay in use and are saved with every signal frame and every
/// switch from then on. Without them a worker runs 5 to 9 % more schedules. Another libc takes no notice.
const TUNABLES: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.pthread.rseq=0:glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD",
);

/// The command that does this task, in `program` or else in this same binary.
///
/// Start it on a thread that lives as long as the child shall: the kernel takes the end of
/// that thread for the end of the parent.
pub(super) fn command(program: Option<&Path>, task: &Task) -> Result<Command> {
    // This binary is not named by its path: that may hold a newer build by now, or nothing.
    let mut command = Command::new(program.unwrap_or(Path::new("/proc/self/exe")));
    let (name, ours) = TUNABLES;
    // A later setting overrides an earlier one, so the user's own comes last.
    let value = match std::env::var(name) {
        Ok(theirs) if !theirs.is_empty() => format!("{ours}:{theirs}"),
        _ => ours.to_owned(),
    };
    let orders = Orders { parent: process::id(), task: task.clone() };
    let orders = serde_json::to_string(&orders).context("cannot express a child's orders")?;
    command.arg0("sigstorm").env(name, value).args([task.name(), &orders]);
    Ok(command)
}

/// The first thing that a child does.
pub(super) fn begin(parent: u32) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw().cast_unsigned() != parent {
        process::exit(0);
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()
}
