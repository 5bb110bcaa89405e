//! The linker's stubs (`.plt`): small jumps through a word that the loader fills in. No symbol
//! names them; their relocation does.

use iced_x86::{Decoder, DecoderOptions, FlowControl};
use object::elf;

use super::build;
use super::names;
use super::object::Object;

/// The size of a stub in each section that has some.
fn size(section: &str) -> Option<u64> {
    match section {
        ".plt" | ".plt.sec" => Some(16),
        ".plt.got" => Some(8),
        _ => None,
    }
}

impl Object {
    /// Returns whether a link-time address lies in a stub, or in the code that stubs share.
    pub(in crate::remote) fn is_stub(&self, address: u64) -> bool {
        let section = self.image().sections.iter().find(|s| s.executable && s.contains(address));
        section.is_some_and(|section| size(&section.name).is_some())
    }

    /// The name of the stub that contains a link-time address, such as `malloc@plt`, and its
    /// address.
    pub(super) fn stub(&self, address: u64) -> Option<(String, u64)> {
        let section = self.image().sections.iter().find(|s| s.executable && s.contains(address))?;
        let mut size = size(&section.name)?;
        if section.name == ".plt.got" && section.size % 16 == 0 && self.image().section(".plt.sec").is_some()
        {
            size = 16;
        }
        let start = address - (address - section.address) % size;
        let bytes = self.image().read_up_to(start, size)?;
        let mut decoder = Decoder::with_ip(64, &bytes, start, DecoderOptions::NONE);
        let jump =
            decoder.iter().find(|instruction| instruction.flow_control() == FlowControl::IndirectBranch)?;
        let slot = jump.is_ip_rel_memory_operand().then(|| jump.ip_rel_memory_address())?;
        let at = self.relocations().binary_search_by_key(&slot, |relocation| relocation.address).ok()?;
        let relocation = self.relocations()[at];
        if relocation.kind == elf::R_X86_64_IRELATIVE {
            let name = self.functions().describe(relocation.addend)?;
            return Some((format!("{name}@plt"), start));
        }
        let symbols = build::dynamic_names(self.image());
        let name = symbols.get(relocation.symbol as usize).filter(|name| !name.is_empty())?;
        Some((format!("{}@plt", names::demangle(name)), start))
    }
}
