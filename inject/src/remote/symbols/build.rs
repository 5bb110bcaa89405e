//! Reading an object's symbol tables into [`Functions`].

use object::elf::{self, Sym64};
use object::{LittleEndian, pod};

use super::eh_frame;
use super::functions::{Function, Functions, Origin};
use super::go::{self, GoFunction};
use super::image::{Image, LE, Section};
use super::names;
use super::relocations::Relocation;

/// A name in a [`Functions`]' text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    start: u32,
    len: u32,
    pub(super) ifunc: bool,
    pub(super) global: bool,
}

impl Name {
    pub(super) fn text(&self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// A symbol on its way into the table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    size: u64,
    /// A label without a type.
    label: bool,
    go: bool,
    name: Name,
}

struct Builder<'a> {
    image: &'a Image,
    text: String,
    entries: Vec<Entry>,
    problems: Vec<String>,
}

/// Reads the functions of an object. `debug` is its debug file.
pub(super) fn functions(
    image: &Image,
    debug: Option<&Image>,
    unwind: &[eh_frame::Range],
    relocations: &[Relocation],
) -> Functions {
    let mut builder = Builder { image, text: String::new(), entries: Vec::new(), problems: Vec::new() };
    let full = [Some(image), debug].into_iter().flatten().find(|image| symbol_section(image).is_some());
    if let Some((source, section)) = full.and_then(|image| Some((image, symbol_section(image)?))) {
        builder.table(source, section);
    }
    match image.sections.iter().find(|section| section.kind == elf::SHT_DYNSYM) {
        Some(section) => builder.table(image, section),
        None => builder.dynamic_table(),
    }
    let is_go = builder.go_table(relocations);
    builder.finish(unwind, is_go)
}

/// The full symbol table, if it has contents.
pub(super) fn symbol_section(image: &Image) -> Option<&Section> {
    image.sections.iter().find(|section| section.kind == elf::SHT_SYMTAB && section.size > 0)
}

/// The names of the dynamic symbols, by number.
pub(super) fn dynamic_names(image: &Image) -> Vec<String> {
    let Some(section) = image.sections.iter().find(|section| section.kind == elf::SHT_DYNSYM) else {
        return Vec::new();
    };
    let strings =
        image.sections.get(section.link as usize).and_then(|s| image.contents(s)).unwrap_or_default();
    let symbols = image.contents(section).unwrap_or_default();
    let size = size_of::<Sym64<LittleEndian>>();
    let Ok((symbols, _)) = pod::slice_from_bytes::<Sym64<LittleEndian>>(&symbols, symbols.len() / size)
    else {
        return Vec::new();
    };
    let name = |symbol: &Sym64<LittleEndian>| {
        let rest = strings.get(symbol.st_name.get(LE) as usize..).unwrap_or_default();
        let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    };
    symbols.iter().map(name).collect()
}

impl Builder<'_> {
    fn problem(&mut self, what: &str, source: &Image) {
        self.problems.push(format!("{what} of {} cannot be read", source.path.display()));
    }

    fn table(&mut self, source: &Image, section: &Section) {
        let strings = source.sections.get(section.link as usize).and_then(|s| source.contents(s));
        match (source.contents(section), strings) {
            (Some(symbols), Some(strings)) => self.symbols(&symbols, &strings),
            _ => self.problem(&format!("the symbol table {}", section.name), source),
        }
    }

    /// The dynamic symbols of an object without sections.
    fn dynamic_table(&mut self) {
        const DT_HASH: i64 = 4;
        const DT_STRTAB: i64 = 5;
        const DT_SYMTAB: i64 = 6;
        const DT_STRSZ: i64 = 10;
        let dynamic = self.image.dynamic();
        let value = |tag| dynamic.iter().find(|(t, _)| *t == tag).map(|(_, value)| *value);
        let (Some(symbols), Some(strings), Some(size)) =
            (value(DT_SYMTAB), value(DT_STRTAB), value(DT_STRSZ))
        else {
            return;
        };
        let hashed = value(DT_HASH).and_then(|hash| {
            let mut counts = [0; 8];
            self.image.read(hash, &mut counts)?;
            Some(
                u64::from(u32::from_le_bytes(*counts.last_chunk()?))
                    * size_of::<Sym64<LittleEndian>>() as u64,
            )
        });
        // Linkers put the strings behind the symbols.
        let span = hashed.or_else(|| strings.checked_sub(symbols));
        let bytes = span.and_then(|span| self.image.read_up_to(symbols, span));
        match (bytes, self.image.read_up_to(strings, size)) {
            (Some(symbols), Some(strings)) => self.symbols(&symbols, &strings),
            _ => self.problem("the dynamic symbol table", self.image),
        }
    }

    fn symbols(&mut self, symbols: &[u8], strings: &[u8]) {
        let count = symbols.len() / size_of::<Sym64<LittleEndian>>();
        let Ok((symbols, _)) = pod::slice_from_bytes::<Sym64<LittleEndian>>(symbols, count) else { return };
        self.entries.reserve(count);
        for symbol in symbols {
            let kind = symbol.st_info.0 & 0xf;
            let label = kind == elf::STT_NOTYPE.0;
            let (address, size) = (symbol.st_value.get(LE), symbol.st_size.get(LE));
            let global = symbol.st_info.0 >> 4 != elf::STB_LOCAL.0;
            let code = kind == elf::STT_FUNC.0 || kind == elf::STT_GNU_IFUNC.0 || (label && global);
            let index = symbol.st_shndx.get(LE);
            let defined = index.0 != elf::SHN_UNDEF.0 && index.0 != elf::SHN_ABS.0;
            if !code || !defined || self.image.code_end(address).is_none() {
                continue;
            }
            let rest = strings.get(symbol.st_name.get(LE) as usize..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == 0).filter(|end| *end > 0) else { continue };
            let ifunc = kind == elf::STT_GNU_IFUNC.0;
            if let Some(name) = self.name(&String::from_utf8_lossy(&rest[..end]), ifunc, global) {
                self.entries.push(Entry { address, size, label, go: false, name });
            }
        }
    }

    fn name(&mut self, name: &str, ifunc: bool, global: bool) -> Option<Name> {
        let start = u32::try_from(self.text.len()).ok()?;
        let len = u32::try_from(name.len()).ok()?;
        start.checked_add(len)?;
        self.text.push_str(name);
        Some(Name { start, len, ifunc, global })
    }

    /// Go's functions; returns whether there are any.
    fn go_table(&mut self, relocations: &[Relocation]) -> bool {
        let section =
            [".gopclntab", ".data.rel.ro.gopclntab"].iter().find_map(|name| self.image.section(name));
        let Some(section) = section else { return false };
        let Some(mut table) = self.image.contents(section) else {
            self.problem("Go's function table", self.image);
            return false;
        };
        // In a position-independent program the loader fills in the addresses.
        let first = relocations.partition_point(|r| r.address < section.address);
        for relocation in &relocations[first..] {
            let Some(offset) = relocation.address.checked_sub(section.address) else { continue };
            let Some(word) = usize::try_from(offset).ok().and_then(|offset| table.get_mut(offset..)) else {
                break;
            };
            if let (elf::R_X86_64_RELATIVE, Some(word)) = (relocation.kind, word.first_chunk_mut::<8>()) {
                *word = relocation.addend.to_le_bytes();
            }
        }
        let symbol = self.entries.iter().find(|entry| &self.text[entry.name.text()] == "runtime.text");
        let text = symbol.map(|entry| entry.address);
        let text = text.or_else(|| self.image.section(".text").map(|section| section.address)).unwrap_or(0);
        let functions = match go::go_functions(&table, text) {
            Ok(functions) => functions,
            Err(error) => {
                self.problems.push(format!("{}: {error}", self.image.path.display()));
                return false;
            }
        };
        for GoFunction { start, end, name } in functions {
            if self.image.code_end(start).is_some_and(|limit| end <= limit)
                && let Some(name) = self.name(&name, false, true)
            {
                self.entries.push(Entry { address: start, size: end - start, label: false, go: true, name });
            }
        }
        true
    }

    fn finish(mut self, unwind: &[eh_frame::Range], is_go: bool) -> Functions {
        let text = std::mem::take(&mut self.text);
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by(|a, b| {
            (a.address, &text[a.name.text()]).cmp(&(b.address, &text[b.name.text()]))
        });
        entries.dedup_by(|next, kept| {
            let same = next.address == kept.address && text[next.name.text()] == text[kept.name.text()];
            if same {
                kept.label &= next.label;
                kept.name.global |= next.name.global;
                // The symbol's size is exact; Go's table counts the padding, too.
                if kept.go && !next.go && next.size > 0 {
                    (kept.size, kept.go) = (next.size, false);
                }
            }
            same
        });
        let mut functions: Vec<Function> = Vec::with_capacity(entries.len());
        let mut names = Vec::with_capacity(entries.len());
        let mut highest: u64 = 0;
        for group in entries.chunk_by(|a, b| a.address == b.address) {
            let address = group[0].address;
            let exact = group.iter().filter(|e| !e.go).map(|e| e.size).max().unwrap_or(0);
            let listed = group.iter().map(|e| e.size).max().unwrap_or(0);
            // A label within another function is a place to jump to.
            if group.iter().all(|e| e.label)
                && (highest > address || exact == 0 && self.inside(unwind, address))
            {
                continue;
            }
            let (size, origin) = match (exact, listed) {
                (0, 0) => (0, Origin::Guess),
                (0, listed) => (listed, Origin::Go),
                (exact, _) => (exact, Origin::Symbol),
            };
            let limit = self.image.code_end(address).unwrap_or(address);
            let size = size.min(limit - address);
            let first = names.len();
            names.extend(group.iter().map(|entry| entry.name));
            names[first..].sort_by(|a: &Name, b: &Name| {
                names::rank(&text[a.text()], a.global).cmp(&names::rank(&text[b.text()], b.global))
            });
            functions.push(Function {
                address,
                size,
                origin,
                is_resolver: names[first..].iter().all(|name| name.ifunc),
                names: first as u32,
                name_count: (names.len() - first) as u32,
            });
            highest = highest.max(address + size);
        }
        self.find_sizes(&mut functions, unwind);
        functions.retain(|function| function.size > 0);
        self.add_unnamed(&mut functions, unwind);
        let object = self.image.path.file_name().unwrap_or(self.image.path.as_os_str());
        let mut highest = 0;
        let highest_end = functions
            .iter()
            .map(|function| {
                highest = function.end().max(highest);
                highest
            })
            .collect();
        let object = object.to_string_lossy().into_owned();
        Functions { functions, highest_end, names, text, object, is_go, problems: self.problems }
    }

    /// Returns whether an address lies in a range of the unwind table, behind its start.
    fn inside(&self, unwind: &[eh_frame::Range], address: u64) -> bool {
        let after = unwind.partition_point(|range| range.start < address);
        after > 0 && unwind[after - 1].end > address
    }

    /// Gives a size to the functions that have none.
    fn find_sizes(&self, functions: &mut [Function], unwind: &[eh_frame::Range]) {
        for f in 0..functions.len() {
            if functions[f].size > 0 {
                continue;
            }
            let address = functions[f].address;
            let after = unwind.partition_point(|range| range.start < address);
            if let Some(range) = unwind.get(after).filter(|range| range.start == address) {
                (functions[f].size, functions[f].origin) = (range.end - address, Origin::Unwind);
                continue;
            }
            let mut end = self.image.code_end(address).unwrap_or(address);
            end = functions.get(f + 1).map_or(end, |next| end.min(next.address));
            end = unwind.get(after).map_or(end, |range| end.min(range.start));
            functions[f].size = end - address;
        }
    }

    /// Adds the ranges of the unwind table that no function overlaps.
    fn add_unnamed(&self, functions: &mut Vec<Function>, unwind: &[eh_frame::Range]) {
        let stubs: Vec<&Section> =
            self.image.sections.iter().filter(|s| s.executable && s.name.starts_with(".plt")).collect();
        let mut added = Vec::new();
        let (mut next, mut highest) = (0, 0);
        for range in unwind {
            while next < functions.len() && functions[next].address < range.end {
                highest = functions[next].end().max(highest);
                next += 1;
            }
            if highest > range.start || stubs.iter().any(|stub| stub.contains(range.start)) {
                continue;
            }
            highest = range.end;
            added.push(Function {
                address: range.start,
                size: range.end - range.start,
                origin: Origin::Unwind,
                is_resolver: false,
                names: 0,
                name_count: 0,
            });
        }
        if added.is_empty() {
            return;
        }
        functions.extend(added);
        functions.sort_by_key(|function| function.address);
        let mut nearest = u32::MAX;
        for (f, function) in functions.iter_mut().enumerate() {
            match function.name_count {
                0 => function.names = nearest,
                _ => nearest = f as u32,
            }
        }
    }
}
