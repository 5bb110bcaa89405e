//! The names that the harness still uses; they go with the commit after the next.
#![allow(missing_docs, clippy::missing_errors_doc, clippy::missing_safety_doc)]

use std::io;

use crate::{Parking, Region, Trap};

pub use crate::local::{
    Call, MAX_THREADS as SEATS, breakpoint as armed, clear_breakpoint as disarm, install_trap_handler,
    set_breakpoint as arm, set_breakpoint_for as arm_for,
};

pub unsafe fn install(handler: fn(&mut Trap<'_>)) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { install_trap_handler(handler, &[libc::SIGPROF]) }
}

impl Parking {
    pub fn block(&self) -> Call {
        self.block_call()
    }

    pub fn wait(&self) -> Call {
        self.wait_call()
    }
}

impl Region {
    pub fn doomed(&self, f: usize) -> Vec<bool> {
        self.always_traps(f)
    }
}
