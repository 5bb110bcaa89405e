//! System calls as the assembly reads them, and their results.

use crate::sync::word::Word;

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SystemCall {
    /// Its number.
    pub number: usize,
    /// Its arguments, in the kernel's order.
    pub args: [usize; 6],
}

/// Most system calls that a stub makes one after the other.
pub const MAX_CALLS: usize = 4;
/// A number that no system call has.
pub(crate) const NO_CALL: i32 = -1;

impl SystemCall {
    const NONE: SystemCall = SystemCall { number: NO_CALL as usize, args: [0; 6] };

    /// A system call that returns at once and changes nothing.
    pub const HARMLESS: SystemCall = SystemCall { number: libc::SYS_getpid as usize, args: [0; 6] };
}

/// System calls for a stub to make, one after the other, as the assembly reads them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SystemCalls {
    calls: [SystemCall; MAX_CALLS + 1],
    pub(super) len: usize,
}

impl SystemCalls {
    /// Makes a list of these calls. Returns none if there are none, or more than [`MAX_CALLS`].
    pub fn new(calls: &[SystemCall]) -> Option<SystemCalls> {
        if calls.is_empty() || calls.len() > MAX_CALLS {
            return None;
        }
        let mut all = [SystemCall::NONE; MAX_CALLS + 1];
        all[..calls.len()].copy_from_slice(calls);
        Some(SystemCalls { calls: all, len: calls.len() })
    }

    /// [`SystemCall::HARMLESS`] alone.
    pub const HARMLESS: SystemCalls = {
        let mut calls = [SystemCall::NONE; MAX_CALLS + 1];
        calls[0] = SystemCall::HARMLESS;
        SystemCalls { calls, len: 1 }
    };
}

/// The results of a stub's last calls. The stub writes them as it leaves.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Kernel {
    /// How often the stub has entered the kernel.
    pub(crate) entered: Word,
    /// The result of the last call.
    pub(crate) result: Word,
}

impl Kernel {
    pub(crate) const fn new() -> Self {
        Kernel { entered: Word::new(0), result: Word::new(0) }
    }
}
