//! Ctrl-C: the first one asks for an end, the second one ends.

use anyhow::Context;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on an interrupt (or a `kill`, or a closed terminal) only sets a flag.
pub fn install() -> anyhow::Result<&'static AtomicBool> {
    let handler = || {
        if ASKED.swap(true, Ordering::SeqCst) {
            // The children end with this process: see [`sigstorm::process`].
            process::exit(130);
        }
    };
    ctrlc::set_handler(handler)
        .context("cannot handle Ctrl-C, which takes a thread (a tight `ulimit -u` or `-v`?)")?;
    Ok(&ASKED)
}
