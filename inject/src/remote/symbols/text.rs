//! Addresses and instructions as text.

use iced_x86::{
    Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, SymbolResolver, SymbolResult,
};

use super::Symbols;
use super::functions;

/// No instruction is longer.
const LONGEST: u64 = 15;

impl Symbols {
    /// Function and offset of an address, such as `malloc+0x12`; the object and an offset, such as
    /// `libfoo.so+0x1234`, in code without a name; `None` outside all objects.
    pub fn describe(&self, address: u64) -> Option<String> {
        self.describe_in(address, 0)
    }

    /// As [`Symbols::describe`], with `more` added to the offset: the name of an address that may be
    /// the end of the function that contains `address`.
    pub(in crate::remote) fn describe_in(&self, address: u64, more: u64) -> Option<String> {
        let place = self.find(address)?;
        let object = &self.objects()[place.object].object;
        let stub = || {
            let (name, start) = object.stub(place.address)?;
            Some(functions::with_offset(&name, place.address - start + more))
        };
        let name = object.functions().describe_in(place.address, more).or_else(stub);
        Some(name.unwrap_or_else(|| format!("{}+{:#x}", object.name(), place.address + more)))
    }

    /// The instruction at an address as text, with names for addresses that it refers to, such as
    /// `call malloc`. It is read from the file, so breakpoints do not show.
    pub fn disassemble(&self, address: u64) -> Option<String> {
        let place = self.find(address)?;
        let bytes = self.objects()[place.object].object.image().read_up_to(place.address, LONGEST)?;
        self.disassemble_bytes(address, &bytes)
    }

    /// The first instruction of `bytes`, which lie at an address, as text.
    pub fn disassemble_bytes(&self, address: u64, bytes: &[u8]) -> Option<String> {
        let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            return None;
        }
        // The formatter keeps its resolver for ever, so names are looked up before.
        let names =
            Names(targets(&instruction).into_iter().filter_map(|t| Some((t, self.describe(t)?))).collect());
        let mut formatter = IntelFormatter::with_options(Some(Box::new(names)), None);
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        Some(text)
    }
}

/// The addresses that an instruction refers to.
fn targets(instruction: &Instruction) -> Vec<u64> {
    let branch = (instruction.near_branch_target() != 0).then(|| instruction.near_branch_target());
    let data = instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
    branch.into_iter().chain(data).collect()
}

struct Names(Vec<(u64, String)>);

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        _instruction: &Instruction,
        _operand: u32,
        _instruction_operand: Option<u32>,
        address: u64,
        _address_size: u32,
    ) -> Option<SymbolResult<'_>> {
        let (_, name) = self.0.iter().find(|(target, _)| *target == address)?;
        Some(SymbolResult::with_str(address, name))
    }
}
