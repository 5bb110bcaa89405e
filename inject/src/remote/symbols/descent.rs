//! Linear sweep and descent over a function and its parts.
//!
//! Symbols tell which parts belong to a function: `f.cold` to `f`. Where they were stripped, any
//! function may jump into any other, so all jumps that leave a function are collected once
//! ([`incoming`]).

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::code::Kind;
use super::eh_frame;
use super::image::Image;
use super::jump_table;
use super::object::Object;

const LOCK: u8 = 0xf0;

/// An instruction of the sweep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) offset: u32,
    pub(super) len: u8,
    pub(super) kind: Kind,
    /// Whether it is what compilers put between functions.
    pub(super) filler: bool,
    /// Whether execution can go on behind it.
    falls_through: bool,
    /// Whether it jumps to an address from a register or a table.
    indirect: bool,
    /// Where it branches to; 0 if it does not.
    target: u64,
}

/// A function of the family.
#[derive(Debug)]
pub(super) struct Part {
    f: usize,
    start: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) steps: Vec<Step>,
    /// One for each of `steps`: whether a path leads to it.
    pub(super) reached: Vec<bool>,
    /// The offset at which the sweep finds no instruction.
    pub(super) no_instruction: Option<u32>,
    /// The offset of a place that a path leads to, in the middle of an instruction of the sweep.
    pub(super) conflict: Option<u32>,
    /// Addresses in the code that may be those of jump tables.
    tables: Vec<u64>,
}

/// A function and its parts, decoded together: each leads into the middle of the other.
#[derive(Debug)]
pub(super) struct Descent {
    parts: Vec<Part>,
}

impl Descent {
    pub(super) fn run(object: &Object, family: &[usize]) -> Self {
        let parts = family.iter().filter_map(|f| Part::read(object, *f)).collect();
        let mut descent = Descent { parts };
        let mut work = descent.roots(object);
        let mut jumps = false;
        while let Some(address) = work.pop() {
            descent.follow(address, &mut work, &mut jumps);
            // The tables are read once, when the first such jump is reached.
            if jumps && work.is_empty() && descent.parts.iter().any(|part| !part.tables.is_empty()) {
                let mut tables = Vec::new();
                for part in &mut descent.parts {
                    tables.append(&mut part.tables);
                }
                work = jump_table::targets(object, &tables, &|address| descent.is_boundary(address));
            }
        }
        descent
    }

    pub(super) fn part(&self, f: usize) -> Option<&Part> {
        self.parts.iter().find(|part| part.f == f)
    }

    pub(super) fn into_part(self, f: usize) -> Option<Part> {
        self.parts.into_iter().find(|part| part.f == f)
    }

    /// The addresses at which execution can enter.
    fn roots(&self, object: &Object) -> Vec<u64> {
        let functions = object.functions();
        let mut roots = Vec::new();
        for part in &self.parts {
            let addresses = part.start..part.end();
            roots.extend(functions.starting_in(addresses.clone()).map(|f| functions.all()[f].address));
            let unwind = object.unwind();
            let first = unwind.partition_point(|range| range.start < addresses.start);
            // The range that covers the start may begin before it.
            for range in &unwind[first.saturating_sub(1)..] {
                if range.start >= addresses.end {
                    break;
                }
                if range.end > addresses.start {
                    roots.extend((range.start >= addresses.start).then_some(range.start));
                    roots.extend(eh_frame::landing_pads(object.image(), range));
                }
            }
            // Others' jumps are taken from a sweep of code that nothing vouches for.
            let incoming = object.incoming();
            let first = incoming.partition_point(|address| *address < addresses.start);
            let into = incoming[first..].iter().take_while(|address| **address < addresses.end);
            roots.extend(into.filter(|address| part.find(**address).is_ok()));
            roots.extend(
                object.rseq().iter().map(|sequence| sequence.abort).filter(|abort| addresses.contains(abort)),
            );
        }
        roots
    }

    fn part_at(&mut self, address: u64) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.start <= address && address < part.end())
    }

    /// Returns whether an address of the family is an instruction's of the sweep; `None` if it lies
    /// elsewhere.
    fn is_boundary(&self, address: u64) -> Option<bool> {
        let part = self.parts.iter().find(|part| part.start <= address && address < part.end())?;
        Some(part.find(address).is_ok())
    }

    /// Follows a path as far as it leads without branching.
    fn follow(&mut self, address: u64, work: &mut Vec<u64>, jumps: &mut bool) {
        let Some(part) = self.part_at(address) else { return };
        let Some(mut index) = part.enter(address) else { return };
        while let Some(step) = part.steps.get(index).copied() {
            if std::mem::replace(&mut part.reached[index], true) {
                return;
            }
            if step.target != 0 {
                work.push(step.target);
            }
            *jumps |= step.indirect;
            if !step.falls_through {
                return;
            }
            index += 1;
        }
        // Past the last instruction: a part of the function may follow.
        let end =
            part.start + part.steps.last().map_or(0, |last| u64::from(last.offset) + u64::from(last.len));
        if part.no_instruction.is_none() && end == part.end() {
            work.push(end);
        }
    }
}

/// The places that functions of a stripped object jump to outside themselves, and that are not the
/// start of a function, in order of address.
pub(super) fn incoming(object: &Object) -> Vec<u64> {
    let functions = object.functions();
    let mut targets = Vec::new();
    for f in 0..functions.len() {
        let Some(mut part) = Part::read(object, f) else { continue };
        let addresses = part.start..part.end();
        targets.extend(part.steps.iter().filter(|step| step.kind == Kind::Jump).map(|step| step.target));
        if part.steps.iter().any(|step| step.indirect) {
            let tables = std::mem::take(&mut part.tables);
            let own = |address| addresses.contains(&address).then(|| part.find(address).is_ok());
            targets.extend(jump_table::leaving(object, &tables, &own));
        }
    }
    targets.retain(|target| functions.at(*target).is_some_and(|f| functions.all()[f].address != *target));
    targets.sort_unstable();
    targets.dedup();
    targets
}

impl Part {
    fn read(object: &Object, f: usize) -> Option<Part> {
        let function = object.functions().all().get(f)?;
        u32::try_from(function.size).ok()?;
        let bytes = object.image().read_up_to(function.address, function.size)?;
        (bytes.len() as u64 == function.size).then(|| Part::sweep(f, function.address, bytes, object.image()))
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Decodes from the first byte to the last.
    fn sweep(f: usize, start: u64, bytes: Vec<u8>, image: &Image) -> Part {
        let mut decoder = Decoder::with_ip(64, &bytes, start, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let mut steps = Vec::with_capacity(bytes.len() / 4);
        let mut tables = Vec::new();
        let mut no_instruction = None;
        while decoder.can_decode() {
            // The caller has checked that 32 bits suffice.
            let offset = decoder.position() as u32;
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                no_instruction = Some(offset);
                break;
            }
            steps.push(step(&instruction, offset));
            tables.extend(table(&instruction, image.fixed));
        }
        let reached = vec![false; steps.len()];
        Part { f, start, bytes, steps, reached, no_instruction, conflict: None, tables }
    }

    /// The number of the instruction at an address, or of the first one behind it.
    fn find(&self, address: u64) -> Result<usize, usize> {
        self.steps.binary_search_by_key(&(address - self.start), |step| u64::from(step.offset))
    }

    /// The number of the instruction that runs first when execution enters at an address of this
    /// part. Records a contradiction.
    fn enter(&mut self, address: u64) -> Option<usize> {
        match self.find(address) {
            Ok(index) => Some(index),
            Err(after) => {
                let offset = (address - self.start) as u32;
                if self.no_instruction.is_some_and(|end| offset >= end) {
                    return None;
                }
                let before = after.checked_sub(1)?;
                // Jumps over a `lock` prefix: the same instruction without it.
                if self.steps[before].offset + 1 == offset && self.bytes[offset as usize - 1] == LOCK {
                    return Some(before);
                }
                self.conflict.get_or_insert(offset);
                None
            }
        }
    }
}

fn step(instruction: &Instruction, offset: u32) -> Step {
    use FlowControl::*;
    let kind = match instruction.flow_control() {
        Next => Kind::Plain,
        Call if matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter) => Kind::Syscall,
        Call | IndirectCall => Kind::Call,
        Return => Kind::Return,
        ConditionalBranch | UnconditionalBranch | IndirectBranch | XbeginXabortXend => Kind::Jump,
        Interrupt | Exception => Kind::Trap,
    };
    let ends =
        matches!(instruction.flow_control(), Return | UnconditionalBranch | IndirectBranch | Exception)
            || instruction.mnemonic() == Mnemonic::Hlt;
    let near =
        matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    // A called address within the family is a place where execution can enter, too.
    let target = if near { instruction.near_branch_target() } else { 0 };
    let tail = instruction.is_ip_rel_memory_operand();
    Step {
        offset,
        len: instruction.len() as u8,
        kind,
        filler: matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3),
        falls_through: !ends,
        indirect: instruction.flow_control() == IndirectBranch && !tail,
        target,
    }
}

/// An address that the instruction names, and that may be a jump table's.
fn table(instruction: &Instruction, fixed: bool) -> Option<u64> {
    if instruction.is_ip_rel_memory_operand() {
        return (instruction.mnemonic() == Mnemonic::Lea).then(|| instruction.ip_rel_memory_address());
    }
    let memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    if memory && instruction.memory_index() != Register::None && instruction.memory_displ_size() >= 4 {
        return Some(instruction.memory_displacement64());
    }
    let immediate =
        fixed && instruction.mnemonic() == Mnemonic::Mov && instruction.op0_kind() == OpKind::Register;
    immediate.then(|| instruction.try_immediate(1).ok()).flatten().filter(|address| *address >= 0x1000)
}
