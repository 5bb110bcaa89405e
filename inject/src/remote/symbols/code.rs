//! A function cut into instructions, by two methods that must agree.
//!
//! A *boundary* is an instruction's first byte. A breakpoint on anything else corrupts the
//! program, so a boundary counts only if two methods find it:
//!
//! 1. **Linear sweep** decodes from the first byte to the last, each instruction where the one
//!    before it ends. Data among the code puts it out of step.
//! 2. **Descent** starts where execution can start (the entry, landing pads, other symbols in the
//!    range, abort handlers of restartable sequences) and follows branches and jump tables.
//!
//! Where descent reaches a byte that the sweep takes for the middle of an instruction, the
//! function is left out ([`LeftOut`]). One such place is no contradiction: code that jumps over a
//! `lock` prefix, as glibc's allocator does while the process has one thread.
//!
//! Instructions that descent does not reach (behind a call that never returns, or behind a jump
//! through a table that is not found) are no boundaries either; they are counted.

use std::collections::BTreeSet;
use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::descent::{self, Descent};
use super::object::Object;

/// How an instruction leads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To the next instruction.
    Plain,
    /// To another function, and back.
    Call,
    /// Into the kernel (`syscall`, `sysenter`).
    Syscall,
    /// Back to the caller.
    Return,
    /// To another instruction, always or on a condition.
    Jump,
    /// Into a trap (`ud2`, `int3`).
    Trap,
}

/// An instruction of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Bytes from the function's start to the instruction's first byte.
    pub offset: u32,
    /// The instruction's length in bytes, 1 to 15.
    pub len: u8,
    /// How the instruction leads on.
    pub kind: Kind,
    /// Whether it lies in a restartable sequence, which a breakpoint would abort for ever.
    pub in_rseq: bool,
}

/// A function's bytes and boundaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// The link-time address of the first byte.
    pub address: u64,
    /// The bytes as they are in the file.
    pub bytes: Vec<u8>,
    /// The boundaries, in order of offset.
    pub boundaries: Vec<Boundary>,
    /// The number of instructions, other than filler, that descent does not reach.
    pub unreached: u32,
}

impl Code {
    /// Instruction `index` as it is decoded with the object's bias added to its address.
    pub fn instruction(&self, index: usize, bias: u64) -> Option<Instruction> {
        let boundary = self.boundaries.get(index)?;
        let start = boundary.offset as usize;
        let bytes = self.bytes.get(start..start + usize::from(boundary.len))?;
        let address = self.address.wrapping_add(u64::from(boundary.offset)).wrapping_add(bias);
        Some(Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode())
    }

    /// The link-time addresses outside the function that its instructions call or jump to,
    /// each once. Calls through a register or a pointer are not among them.
    pub fn callees(&self) -> impl Iterator<Item = u64> {
        let own = self.address..self.address + self.bytes.len() as u64;
        let target = |index| self.instruction(index, 0).map(|instruction| instruction.near_branch_target());
        let leads_out = |b: &Boundary| matches!(b.kind, Kind::Call | Kind::Jump);
        let branches = (0..self.boundaries.len()).filter(|index| leads_out(&self.boundaries[*index]));
        let targets = branches.filter_map(target).filter(|target| *target != 0 && !own.contains(target));
        targets.collect::<BTreeSet<u64>>().into_iter()
    }

    /// The number of the boundary at an offset.
    pub fn at(&self, offset: u32) -> Option<usize> {
        self.boundaries.binary_search_by_key(&offset, |boundary| boundary.offset).ok()
    }
}

/// Why no breakpoint may be set in a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// The symbol is an IFUNC's: its code is the resolver. The function that it chose is not known.
    Resolver,
    /// Bytes that are no instruction.
    NoInstruction {
        /// Bytes from the function's start.
        offset: u32,
        /// The bytes from there, at most 15.
        bytes: Vec<u8>,
    },
    /// A path leads to a byte that the sweep takes for the middle of an instruction.
    DataInText {
        /// Bytes from the function's start.
        offset: u32,
    },
    /// The file does not have the function's bytes, or there are over 4 GiB of them.
    Unreadable,
}

impl LeftOut {
    /// The reason as a key: `ifunc-resolver`, `no-instruction`, `data-in-text`, `unreadable`.
    pub fn reason(&self) -> &'static str {
        match self {
            LeftOut::Resolver => "ifunc-resolver",
            LeftOut::NoInstruction { .. } => "no-instruction",
            LeftOut::DataInText { .. } => "data-in-text",
            LeftOut::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeftOut::Resolver => f.write_str(
                "the symbol names a resolver (IFUNC), and the function that it chose is not known",
            ),
            LeftOut::NoInstruction { offset, bytes } => {
                write!(f, "there is no instruction at +{offset:#x}, but {bytes:02x?}")
            }
            LeftOut::DataInText { offset } => {
                write!(
                    f,
                    "there is data in the code: a path leads to +{offset:#x}, the middle of an instruction in order of address"
                )
            }
            LeftOut::Unreadable => f.write_str("the file does not have its bytes"),
        }
    }
}

impl std::error::Error for LeftOut {}

impl Object {
    /// Cuts function `f` into instructions.
    ///
    /// # Errors
    ///
    /// If no breakpoint may be set in the function, with the reason.
    pub fn decode(&self, f: usize) -> Result<Code, LeftOut> {
        let functions = self.functions();
        let function = functions.all().get(f).ok_or(LeftOut::Unreadable)?;
        let family = functions.family(self.families(), f);
        let descent = Descent::run(self, &family);
        let part = descent.part(f).ok_or(LeftOut::Unreadable)?;
        if let Some(offset) = part.conflict {
            return Err(LeftOut::DataInText { offset });
        }
        if let Some(offset) = part.no_instruction {
            let bytes = part.bytes[offset as usize..].iter().copied().take(15).collect();
            return Err(LeftOut::NoInstruction { offset, bytes });
        }
        let in_rseq = |offset: u32| {
            let address = function.address + u64::from(offset);
            self.rseq().iter().any(|sequence| sequence.range.contains(&address))
        };
        let mut boundaries = Vec::with_capacity(part.steps.len());
        let mut unreached = 0;
        // The filler that aligns the next function may follow a call that never returns.
        let filler = part.steps.iter().rev().take_while(|step| step.filler).count();
        let steps = &part.steps[..part.steps.len() - filler];
        for (step, reached) in steps.iter().zip(&part.reached) {
            if *reached {
                let (offset, len, kind) = (step.offset, step.len, step.kind);
                boundaries.push(Boundary { offset, len, kind, in_rseq: in_rseq(offset) });
            } else if !step.filler {
                unreached += 1;
            }
        }
        let descent::Part { bytes, .. } = descent.into_part(f).ok_or(LeftOut::Unreadable)?;
        Ok(Code { address: function.address, bytes, boundaries, unreached })
    }
}
