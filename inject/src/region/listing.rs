//! A region's instructions as text.
//!
//! A listing goes into reports and traces, which must be equal from run to run: it shows no
//! address. A target in the region is written `function+0xoffset`; a target elsewhere is only
//! said to be elsewhere.

use iced_x86::{
    Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, OpKind, SymbolResolver, SymbolResult,
};

use super::decode::is_relative_branch;
use super::{CodeFunction, Region};

impl Region {
    /// Instruction `index` of function `f` as text, such as `mov rax,[r14+10h]` or
    /// `jne short leaf+0x1c`. A target outside the region is `<code>` or `<data>`.
    pub fn disassemble(&self, f: usize, index: usize) -> String {
        let (Some(decoded), Some(boundary), Some(address)) =
            (self.decoded.get(f), self.boundaries(f).get(index), self.address(f, index))
        else {
            return format!("<no instruction {index} of function {f}>");
        };
        let bytes = &decoded.code[usize::from(boundary.offset)..][..usize::from(boundary.len)];
        let instruction = Decoder::with_ip(64, bytes, address as u64, DecoderOptions::NONE).decode();
        let names = Names(self.functions.clone());
        let mut text = String::new();
        IntelFormatter::with_options(Some(Box::new(names)), None).format(&instruction, &mut text);
        text
    }
}

struct Names(Vec<CodeFunction>);

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _operand: u32,
        instruction_operand: Option<u32>,
        address: u64,
        _address_size: u32,
    ) -> Option<SymbolResult<'_>> {
        let kind = instruction.op_kind(instruction_operand?);
        // Anything else (a plain displacement, an immediate) is a number.
        let outside = if is_relative_branch(instruction) {
            "<code>"
        } else if kind == OpKind::Memory && instruction.is_ip_rel_memory_operand() {
            "<data>"
        } else {
            return None;
        };
        let target = address as usize;
        let text = self.0.iter().find(|f| (f.start..f.end).contains(&target)).map_or_else(
            || outside.to_owned(),
            |f| match target - f.start {
                0 => f.name.to_owned(),
                offset => format!("{}+{offset:#x}", f.name),
            },
        );
        Some(SymbolResult::with_string(address, text))
    }
}
