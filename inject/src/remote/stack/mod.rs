//! The stack of a held thread: which functions are running, and from where each was called.
//!
//! # The walk
//!
//! A walk starts with a thread's registers. Each step finds the registers of the next frame outward,
//! by the first of these that applies (`walk.rs`):
//!
//! 1. The PC is at a signal's return (`rt_sigreturn`): the kernel's frame at SP has all registers of
//!    the code that was interrupted.
//! 2. The object's unwind tables have a row for the PC. All general registers are kept, and DWARF
//!    expressions may read memory (`evaluate.rs`): functions that align their stack, and the lazy
//!    resolver, cannot be walked otherwise.
//! 3. The thread has only just come there by a call: it is in a linker's stub, at a function's first
//!    instructions or its return, or a bad pointer was called. The return address is then at SP, or
//!    near it.
//! 4. RBP points to a saved RBP and a return address (frame pointers).
//!
//! A return address must lie in code, and by the last two ways it must lie behind a call instruction.
//!
//! # It ends
//!
//! SP grows from frame to frame. Only a signal's frame may lead anywhere, for its handler may have run
//! on an alternate stack, and each such frame is crossed once. Memory that is not mapped ends the
//! walk ([`Lost::Unreadable`]).
//!
//! # Gotchas
//!
//! - Tables describe what compilers and authors of assembly intended. Where one is wrong, so is the
//!   stack.
//! - A row that leads to another stack (some coroutine libraries have such rows) ends the walk with
//!   [`Lost::Backwards`] if the other stack lies below.
//! - Code is read from files and tables too, so breakpoints do not matter.

mod evaluate;
mod lines;
mod pages;
mod values;
mod walk;

use super::error::Result;
use super::symbols::Symbols;
use super::tracer::Tracer;

/// How a walk came to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// It is the innermost frame: its thread's registers.
    Registers,
    /// By a row of the unwind tables of the frame inside it.
    Table,
    /// A signal interrupted the frame. The frame inside it is the restorer, which the handler
    /// returns to.
    Signal,
    /// The frame inside it had only just been entered, so that the return address lay at SP.
    Entry,
    /// By RBP, for want of a row.
    FramePointer,
}

/// A frame of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The address of the instruction that runs there next.
    pub pc: u64,
    /// SP in this frame. For a frame that has made a call, that is the callee's canonical frame address
    /// (CFA).
    pub sp: u64,
    /// How the walk came to it.
    pub via: Via,
}

impl Frame {
    /// Returns whether the frame has made a call, so that its PC may lie behind the function's end.
    pub fn is_return_address(&self) -> bool {
        !matches!(self.via, Via::Registers | Via::Signal)
    }

    /// Returns whether a signal interrupted the frame.
    pub fn is_interrupted(&self) -> bool {
        self.via == Via::Signal
    }

    /// An address within the instruction that the frame is at: the call, or the one that runs next.
    pub fn lookup_address(&self) -> u64 {
        self.pc.wrapping_sub(u64::from(self.is_return_address()))
    }
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last frame is the outermost one: its return address is undefined or zero, or its
    /// frame pointer is zero.
    Root,
    /// There are more frames than were asked for.
    Depth,
    /// The frame outside the last one cannot be found.
    Lost(Lost),
}

/// Why a frame's caller cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The address is not in code.
    #[error("{pc:#x} is no address of code")]
    NotCode {
        /// The return address, or the thread's PC.
        pc: u64,
    },
    /// Nothing describes the code, and frame pointers lead nowhere.
    #[error("no unwind row describes {pc:#x}, and RBP does not lead to a return address")]
    NoRow {
        /// The frame's PC.
        pc: u64,
    },
    /// The row uses what is not known, or an operation that has no meaning here.
    #[error("the unwind row of {pc:#x} cannot be evaluated")]
    Row {
        /// The frame's PC.
        pc: u64,
    },
    /// The memory is not mapped.
    #[error("the stack cannot be read at {address:#x}")]
    Unreadable {
        /// The address of a word.
        address: u64,
    },
    /// The stack would not grow towards the callers.
    #[error("the caller's SP would be {to:#x}, which is not above {from:#x}")]
    Backwards {
        /// SP of the last frame.
        from: u64,
        /// SP of its caller.
        to: u64,
    },
    /// The frames of signals lead to each other.
    #[error("the signal's frame at {frame:#x} comes twice")]
    Loop {
        /// The address of the kernel's frame.
        frame: u64,
    },
}

/// A thread's stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The frames, the innermost first; at least one.
    pub frames: Vec<Frame>,
    /// The end of the walk, beyond the last frame.
    pub end: End,
}

impl Tracer {
    /// The stack of a held thread: at most `depth` frames, and at least one. `symbols` are those of
    /// the thread's process; an object that was loaded since they were refreshed is not known.
    ///
    /// # Errors
    ///
    /// If the thread is not held. A stack that is damaged is no error: see [`Stack::end`].
    pub fn stack(&self, symbols: &Symbols, tid: i32, depth: usize) -> Result<Stack> {
        let thread = self.held(tid)?;
        Ok(walk::Walk::new(self, symbols, thread.pid).run(&thread.regs, depth))
    }
}
