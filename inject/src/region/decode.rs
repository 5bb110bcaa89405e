//! From bytes to boundaries: one function of a region is read, decoded and hashed.

use std::collections::BTreeMap;
use std::io;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::{Boundary, CodeFunction, CodeMemory, Region, RegionError};

/// One function's bytes and instructions.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) code: Vec<u8>,
    pub(super) boundaries: Vec<Boundary>,
}

/// Decodes a function, and adds to `words` the words of memory that its instructions name.
pub(super) fn function(
    function: &CodeFunction,
    memory: &impl CodeMemory,
    words: &mut BTreeMap<u64, u64>,
) -> Result<Decoded, RegionError> {
    let name = function.name;
    let mut code = vec![0; function.end - function.start];
    memory.read(function.start, &mut code).map_err(|source| RegionError::Unreadable { name, source })?;
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
        if instruction.is_ip_rel_memory_operand() && instruction.memory_size().size() == size_of::<u64>() {
            let address = instruction.ip_rel_memory_address();
            if let Ok(word) = read_word(memory, address) {
                words.insert(address, word);
            }
        }
        filler = if is_filler(&instruction) { filler + 1 } else { 0 };
        boundaries.push(Boundary { offset: offset as u16, len: len as u8, check: check(&bytes) });
    }
    if filler < boundaries.len() {
        boundaries.truncate(boundaries.len() - filler);
    }
    Ok(Decoded { code, boundaries })
}

impl Region {
    /// The instructions of function `f`, one for each of its boundaries.
    pub(crate) fn instructions(&self, f: usize) -> Vec<Instruction> {
        let Some(function) = self.functions.get(f) else { return Vec::new() };
        let mut decoder = Decoder::with_ip(64, self.code(f), function.start as u64, DecoderOptions::NONE);
        self.boundaries(f).iter().map(|_| decoder.decode()).collect()
    }
}

fn read_word(memory: &impl CodeMemory, address: u64) -> io::Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    memory.read(address as usize, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Returns whether compilers and linkers put this instruction between functions.
fn is_filler(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}

/// Returns whether the first operand is a place in the code.
pub(super) fn is_relative_branch(instruction: &Instruction) -> bool {
    use OpKind::{NearBranch16, NearBranch32, NearBranch64};
    matches!(instruction.op0_kind(), NearBranch16 | NearBranch32 | NearBranch64)
}

/// FNV-1a, folded to seven bits. Kept schedules contain these values; a test pins some of them.
fn check(bytes: &[u8]) -> u8 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The lowest bits of FNV-1a depend only on the lowest bits of the bytes: fold the rest in.
    let hash = hash ^ (hash >> 32);
    let hash = hash ^ (hash >> 16);
    ((hash ^ (hash >> 7)) & 0x7f) as u8
}
