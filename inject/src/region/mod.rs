//! The marked code region, cut into instructions.
//!
//! # Book-keeping
//!
//! The caller names functions by their addresses; the region numbers them in
//! that order and cuts each into instructions, numbered from 0. A *boundary* is
//! an instruction's first byte: where a thread can be stopped before running it.
//!
//! A schedule names a boundary by function, index and **check**, seven bits of
//! a hash over the instruction's bytes. Displacements from the instruction
//! pointer and branch targets are hashed as zeros, so the same source has the same
//! check in a binary that was laid out differently; a schedule that was made for
//! other code is noticed (127 times in 128) rather than misread.
//!
//! # Gotchas
//!
//! - The bytes are copied when the region is decoded (and what an armed
//!   breakpoint covers is put back in the copy), so later patches do not show.
//! - They are read through `/proc/self/mem`: an address that is not there is an
//!   error, not a fault, and decoding is safe to call.
//! - A linker that relaxes `call [rip+f@GOTPCREL]` to `call f` changes an
//!   opcode, and so a check. One toolchain does it always or never. Absolute
//!   addresses as plain immediates (code that is not position-independent)
//!   cannot be told from numbers and are hashed.
//! - Everything between `start` and `end` is taken for instructions, but for the filler
//!   (`nop`, `int3`) that aligns what follows: keep jump tables out of the region.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::local;

mod const_prop;
mod listing;

pub use const_prop::Known;

/// A function of the region, by its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeFunction {
    /// What people call it.
    pub name: &'static str,
    /// Its first byte.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

/// An instruction of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Where it starts, counted from the function's start.
    pub offset: u16,
    /// How many bytes it has, 1 to 15.
    pub len: u8,
    /// Seven bits (0 to 127) that tell it from others, whatever the addresses.
    pub check: u8,
}

/// Where an instruction leads within its function, calls taken to return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The instructions that can come next.
    pub next: [Option<usize>; 2],
    /// What it calls, if that is written in it or in the table that it names.
    pub calls: Option<usize>,
    /// Whether it jumps wherever a register says.
    pub anywhere: bool,
}

/// Where an address lies in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The function's number.
    pub function: usize,
    /// The number of the instruction that has the byte.
    pub index: usize,
    /// The address, counted from the function's start.
    pub offset: u16,
    /// Whether it is the instruction's first byte.
    pub exact: bool,
}

/// Why a region cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// A function ends before it starts.
    #[error("{name} ends at {end:#x}, before its start at {start:#x}")]
    EndBeforeStart {
        /// The function.
        name: &'static str,
        /// Its first byte.
        start: usize,
        /// One past its last byte.
        end: usize,
    },
    /// A function has no bytes.
    #[error("{name} is empty")]
    Empty {
        /// The function.
        name: &'static str,
    },
    /// A function is longer than offsets can say.
    #[error("{name} has {size} bytes, more than the 65,536 that an offset can name")]
    TooLong {
        /// The function.
        name: &'static str,
        /// How many bytes it has.
        size: usize,
    },
    /// Two functions share bytes.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// The one that starts first.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A function is not mapped.
    #[error("{name} cannot be read: {source}")]
    Unreadable {
        /// The function.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Bytes that are no instruction, or one that reaches beyond the end.
    #[error("{name}+{offset:#x} is no instruction: {bytes:02x?}")]
    Undecodable {
        /// The function.
        name: &'static str,
        /// Where in it.
        offset: usize,
        /// The bytes from there, at most 15.
        bytes: Vec<u8>,
    },
}

/// What is known of one function.
#[derive(Debug)]
struct Decoded {
    code: Vec<u8>,
    boundaries: Vec<Boundary>,
}

/// A marked code region and its instruction boundaries.
#[derive(Debug)]
pub struct Region {
    functions: Vec<CodeFunction>,
    /// One for each of `functions`.
    decoded: Vec<Decoded>,
    /// The functions' numbers, by address.
    by_address: Vec<usize>,
}

impl Region {
    /// Decodes `functions`, which keep their order.
    pub fn decode(functions: &[CodeFunction]) -> Result<Self, RegionError> {
        for function in functions {
            let CodeFunction { name, start, end } = *function;
            match end.checked_sub(start) {
                None => return Err(RegionError::EndBeforeStart { name, start, end }),
                Some(0) => return Err(RegionError::Empty { name }),
                Some(size) if size > 1 << 16 => return Err(RegionError::TooLong { name, size }),
                Some(_) => {}
            }
        }
        let mut by_address: Vec<usize> = (0..functions.len()).collect();
        by_address.sort_by_key(|f| functions[*f].start);
        for pair in by_address.windows(2) {
            let (first, second) = (functions[pair[0]], functions[pair[1]]);
            if first.end > second.start {
                return Err(RegionError::Overlap { first: first.name, second: second.name });
            }
        }
        let decoded = functions.iter().map(decode_function).collect::<Result<_, _>>()?;
        Ok(Self { functions: functions.to_vec(), decoded, by_address })
    }

    /// The functions, as they were given.
    pub fn functions(&self) -> &[CodeFunction] {
        &self.functions
    }

    /// The instructions of function `f`; none where there is no such function.
    pub fn boundaries(&self, f: usize) -> &[Boundary] {
        self.decoded.get(f).map_or(&[], |decoded| &decoded.boundaries)
    }

    /// Where each instruction of function `f` leads.
    pub fn flow(&self, f: usize) -> Vec<Flow> {
        let (Some(decoded), Some(function)) = (self.decoded.get(f), self.functions.get(f)) else {
            return Vec::new();
        };
        let options = DecoderOptions::NONE;
        let mut decoder = Decoder::with_ip(64, &decoded.code, function.start as u64, options);
        let code: Vec<Instruction> = decoded.boundaries.iter().map(|_| decoder.decode()).collect();
        let find = |ip: u64| code.binary_search_by_key(&ip, Instruction::ip).ok();
        let flow = |instruction: &Instruction| {
            let next = find(instruction.next_ip());
            let target = instruction.near_branch_target();
            match instruction.flow_control() {
                FlowControl::UnconditionalBranch => Flow { next: [find(target), None], ..Flow::default() },
                FlowControl::ConditionalBranch => Flow { next: [next, find(target)], ..Flow::default() },
                FlowControl::Call => {
                    Flow { next: [next, None], calls: Some(target as usize), ..Flow::default() }
                }
                FlowControl::IndirectCall => {
                    let calls = instruction
                        .is_ip_rel_memory_operand()
                        .then(|| word(instruction.ip_rel_memory_address()));
                    Flow { next: [next, None], calls: calls.flatten(), ..Flow::default() }
                }
                // The last call of a function, by the linker's table or by a function's pointer.
                FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
                    Flow { calls: word(instruction.ip_rel_memory_address()), ..Flow::default() }
                }
                FlowControl::IndirectBranch if is_last_call(&code, instruction) => Flow::default(),
                FlowControl::IndirectBranch => Flow { anywhere: true, ..Flow::default() },
                FlowControl::Return | FlowControl::Exception => Flow::default(),
                _ => Flow { next: [next, None], ..Flow::default() },
            }
        };
        code.iter().map(flow).collect()
    }

    /// For each instruction of function `f` whether every way from it ends in a trap (`ud2`),
    /// calls taken to return: such code throws, panics, or cleans up after a panic.
    pub fn doomed(&self, f: usize) -> Vec<bool> {
        let (Some(decoded), Some(function)) = (self.decoded.get(f), self.functions.get(f)) else {
            return Vec::new();
        };
        let options = DecoderOptions::NONE;
        let mut decoder = Decoder::with_ip(64, &decoded.code, function.start as u64, options);
        let code: Vec<Instruction> = decoded.boundaries.iter().map(|_| decoder.decode()).collect();
        let find = |ip: u64| code.binary_search_by_key(&ip, Instruction::ip).ok();
        let mut doomed = vec![true; code.len()];
        // What can leave the function is not doomed, nor is what can come to that.
        loop {
            let mut changed = false;
            for (index, instruction) in code.iter().enumerate() {
                let next = || find(instruction.next_ip()).is_some_and(|next| !doomed[next]);
                let target = || find(instruction.near_branch_target()).is_none_or(|target| !doomed[target]);
                let escapes = match instruction.flow_control() {
                    FlowControl::Return | FlowControl::IndirectBranch => true,
                    FlowControl::UnconditionalBranch => target(),
                    FlowControl::ConditionalBranch => next() || target(),
                    FlowControl::Exception => false,
                    _ => next(),
                };
                if escapes && doomed[index] {
                    doomed[index] = false;
                    changed = true;
                }
            }
            if !changed {
                return doomed;
            }
        }
    }

    /// The bytes of function `f` as they were decoded.
    pub(crate) fn code(&self, f: usize) -> &[u8] {
        self.decoded.get(f).map_or(&[], |decoded| &decoded.code)
    }

    /// How many instructions function `f` has.
    #[inline]
    pub fn count(&self, f: usize) -> usize {
        self.boundaries(f).len()
    }

    /// The address of instruction `index` of function `f`.
    #[inline]
    pub fn address(&self, f: usize, index: usize) -> Option<usize> {
        let function = self.functions.get(f)?;
        let boundary = self.boundaries(f).get(index)?;
        Some(function.start + usize::from(boundary.offset))
    }

    /// Where `address` lies, if it lies in the region. Two binary searches;
    /// may be called in a signal handler.
    pub fn locate(&self, address: usize) -> Option<Location> {
        let start = |f: &usize| self.functions.get(*f).map_or(usize::MAX, |f| f.start);
        let after = self.by_address.partition_point(|f| start(f) <= address);
        let function = *self.by_address.get(after.checked_sub(1)?)?;
        let CodeFunction { start, end, .. } = *self.functions.get(function)?;
        if address >= end {
            return None;
        }
        // Below 65,536, as `decode` made sure.
        let offset = (address - start) as u16;
        let boundaries = self.boundaries(function);
        let index = boundaries.partition_point(|b| b.offset <= offset).checked_sub(1)?;
        let exact = boundaries.get(index)?.offset == offset;
        Some(Location { function, index, offset, exact })
    }
}

fn decode_function(function: &CodeFunction) -> Result<Decoded, RegionError> {
    let name = function.name;
    let code = copy(function).map_err(|source| RegionError::Unreadable { name, source })?;
    let mut decoder = Decoder::with_ip(64, &code, function.start as u64, DecoderOptions::NONE);
    let mut boundaries = Vec::new();
    let mut instruction = Instruction::default();
    let mut filler = 0;
    while decoder.can_decode() {
        let offset = decoder.position();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            let bytes = code[offset..].iter().copied().take(15).collect();
            return Err(RegionError::Undecodable { name, offset, bytes });
        }
        let len = instruction.len();
        let mut bytes = code[offset..offset + len].to_vec();
        let constants = decoder.get_constant_offsets(&instruction);
        // A branch target counts as an immediate.
        if instruction.is_ip_rel_memory_operand() && constants.has_displacement() {
            let at = constants.displacement_offset();
            bytes[at..at + constants.displacement_size()].fill(0);
        }
        if is_relative_branch(&instruction) && constants.has_immediate() {
            let at = constants.immediate_offset();
            bytes[at..at + constants.immediate_size()].fill(0);
        }
        filler = if is_filler(&instruction) { filler + 1 } else { 0 };
        boundaries.push(Boundary { offset: offset as u16, len: len as u8, check: check(&bytes) });
    }
    if filler < boundaries.len() {
        boundaries.truncate(boundaries.len() - filler);
    }
    Ok(Decoded { code, boundaries })
}

/// The word at an address, such as an entry of a table of functions.
fn word(address: u64) -> Option<usize> {
    let mut bytes = [0; 8];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, address).ok()?;
    Some(u64::from_le_bytes(bytes) as usize)
}

/// Whether it is what compilers and linkers put between functions.
fn is_filler(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}

/// A function's bytes, without the breakpoints that may be in them.
fn copy(function: &CodeFunction) -> io::Result<Vec<u8>> {
    let mut code = vec![0; function.end - function.start];
    File::open("/proc/self/mem")?.read_exact_at(&mut code, function.start as u64)?;
    if let Some((address, original)) = local::text::covered()
        && (function.start..function.end).contains(&address)
    {
        code[address - function.start] = original;
    }
    local::uncover(function.start, &mut code);
    Ok(code)
}

/// Whether a jump to where a register or memory says goes to another function: the address was
/// loaded as it is. That of a case in this function is reckoned from a table's entry.
fn is_last_call(code: &[Instruction], jump: &Instruction) -> bool {
    if jump.op0_kind() == OpKind::Memory {
        return jump.memory_index() == Register::None;
    }
    let register = jump.op0_register();
    let mut before = code.iter().take_while(|i| i.ip() < jump.ip()).collect::<Vec<_>>();
    while let Some(instruction) = before.pop() {
        if instruction.flow_control() != FlowControl::Next {
            return false;
        }
        let writes = instruction.op_count() != 0
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == register;
        if writes && instruction.mnemonic() != Mnemonic::Push {
            return instruction.mnemonic() == Mnemonic::Mov
                && instruction.op1_kind() == OpKind::Memory
                && instruction.memory_index() == Register::None;
        }
    }
    false
}

/// Whether the first operand is a place in the code.
fn is_relative_branch(instruction: &Instruction) -> bool {
    use OpKind::{NearBranch16, NearBranch32, NearBranch64};
    matches!(instruction.op0_kind(), NearBranch16 | NearBranch32 | NearBranch64)
}

/// FNV-1a, folded to seven bits. Kept schedules hold these values: a test pins
/// some.
fn check(bytes: &[u8]) -> u8 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The lowest bits of FNV-1a depend on the lowest bits of the bytes alone:
    // fold the rest in.
    let hash = hash ^ (hash >> 32);
    let hash = hash ^ (hash >> 16);
    ((hash ^ (hash >> 7)) & 0x7f) as u8
}
