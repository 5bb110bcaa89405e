//! The words that the loader fills in: read from the file, they would be zero.

use object::elf::{self, RelocationType};

use super::image::{Image, LE};

/// A relocation with an explicit addend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relocation {
    pub(super) address: u64,
    pub(super) kind: RelocationType,
    pub(super) symbol: u32,
    pub(super) addend: u64,
}

/// The object's relocations with addends, in order of address.
pub(super) fn all(image: &Image) -> Vec<Relocation> {
    let mut all = Vec::new();
    let mut add = |bytes: &[u8]| {
        let count = bytes.len() / size_of::<elf::Rela64<object::LittleEndian>>();
        let Ok((entries, _)) =
            object::pod::slice_from_bytes::<elf::Rela64<object::LittleEndian>>(bytes, count)
        else {
            return;
        };
        all.extend(entries.iter().map(|entry| Relocation {
            address: entry.r_offset.get(LE),
            kind: entry.r_type(LE, false),
            symbol: entry.r_sym(LE, false),
            addend: entry.r_addend.get(LE) as u64,
        }));
    };
    let sections = image.sections.iter().filter(|s| s.kind == elf::SHT_RELA && s.allocated);
    for contents in sections.filter_map(|section| image.contents(section)) {
        add(&contents);
    }
    if image.sections.is_empty() {
        const DT_PLTRELSZ: i64 = 2;
        const DT_RELA: i64 = 7;
        const DT_RELASZ: i64 = 8;
        const DT_JMPREL: i64 = 23;
        let dynamic = image.dynamic();
        let value = |tag| dynamic.iter().find(|(t, _)| *t == tag).map(|(_, value)| *value);
        for (at, size) in [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)] {
            if let (Some(at), Some(size)) = (value(at), value(size)) {
                add(&image.read_up_to(at, size).unwrap_or_default());
            }
        }
    }
    all.sort_unstable_by_key(|relocation| relocation.address);
    all
}

/// The word at an address once the object is loaded with bias 0.
pub(super) fn word(image: &Image, relocations: &[Relocation], address: u64) -> Option<u64> {
    if let Ok(at) = relocations.binary_search_by_key(&address, |relocation| relocation.address)
        && relocations[at].kind == elf::R_X86_64_RELATIVE
    {
        return Some(relocations[at].addend);
    }
    // Packed relocations (RELR) leave the addend in place.
    let mut bytes = [0; 8];
    image.read(address, &mut bytes)?;
    Some(u64::from_le_bytes(bytes))
}
