//! An ELF file's headers, copied out of it: segments, sections, build id.
//!
//! Addresses are the file's own (link-time addresses). A process adds the object's load bias.

use std::ops::Range;
use std::path::{Path, PathBuf};

use object::elf::{self, FileHeader64};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, pod};

use super::error::ObjectError;
use super::source::{Cursor, Source};

pub(super) const LE: LittleEndian = LittleEndian;

/// The bytes of a header up to the machine's number.
const IDENT: usize = 20;

/// The largest section that is unpacked.
const MAX_UNPACKED: u64 = 4 << 30;

/// A part of the file that is loaded into memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) executable: bool,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) kind: elf::SectionType,
    pub(super) allocated: bool,
    pub(super) executable: bool,
    pub(super) compressed: bool,
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) link: u32,
}

impl Section {
    pub(super) fn contains(&self, address: u64) -> bool {
        self.allocated && address.checked_sub(self.address).is_some_and(|offset| offset < self.size)
    }
}

#[derive(Debug)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) source: Source,
    /// Whether the file's addresses are the process's (`ET_EXEC`).
    pub(super) fixed: bool,
    pub(super) interpreter: bool,
    /// The address of its first instruction; 0 for none.
    pub(super) entry: u64,
    pub(super) segments: Vec<Segment>,
    /// Address and size of `PT_DYNAMIC` and of `PT_GNU_EH_FRAME`.
    pub(super) dynamic: Option<(u64, u64)>,
    pub(super) eh_frame_hdr: Option<(u64, u64)>,
    /// Empty if the file has none, or unreadable ones.
    pub(super) sections: Vec<Section>,
    /// The addresses of code that the file has the bytes of.
    pub(super) code: Vec<Range<u64>>,
    pub(super) build_id: Vec<u8>,
    /// The load bias that the loader has added to the dynamic table's addresses, in a copy of a
    /// process's memory.
    pub(super) loaded_at: u64,
}

impl Image {
    pub(super) fn open(path: &Path) -> Result<Self, ObjectError> {
        let unreadable = |source| ObjectError::Unreadable { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(unreadable(std::io::Error::other("it is no regular file")));
        }
        Self::parse(path, Source::File(file))
    }

    /// Reads the headers of an ELF file; `path` is for messages.
    pub(super) fn parse(path: &Path, source: Source) -> Result<Self, ObjectError> {
        let damaged = |detail: String| ObjectError::Damaged { path: path.to_owned(), detail };
        let unreadable = |source| ObjectError::Unreadable { path: path.to_owned(), source };
        let len = source.len().map_err(unreadable)?;
        let mut ident = vec![0; len.min(IDENT as u64) as usize];
        source.read_exact_at(0, &mut ident).map_err(unreadable)?;
        if !ident.starts_with(&elf::ELFMAG) {
            ident.truncate(4);
            return Err(ObjectError::NotElf { path: path.to_owned(), start: ident });
        }
        check_machine(path, &ident)?;

        let cache = ReadCache::new(Cursor::new(&source));
        let said = |error: object::read::Error| damaged(error.to_string());
        let header = FileHeader64::<LittleEndian>::parse(&cache).map_err(said)?;
        let fixed = match header.e_type(LE) {
            elf::ET_EXEC => true,
            elf::ET_DYN => false,
            other => {
                let kind = match other {
                    elf::ET_REL => "a relocatable object".to_owned(),
                    elf::ET_CORE => "a core dump".to_owned(),
                    other => format!("an ELF file of type {}", other.0),
                };
                return Err(ObjectError::Kind { path: path.to_owned(), kind });
            }
        };

        let headers = header.program_headers(LE, &cache).map_err(said)?;
        let mut segments = Vec::new();
        let (mut interpreter, mut dynamic, mut eh_frame_hdr) = (false, None, None);
        let mut build_id = Vec::new();
        for header in headers {
            let (address, size) = (header.p_vaddr(LE), header.p_memsz(LE));
            match header.p_type(LE) {
                elf::PT_LOAD => segments.push(Segment {
                    executable: header.p_flags(LE).0 & elf::PF_X.0 != 0,
                    offset: header.p_offset(LE),
                    address,
                    file_size: header.p_filesz(LE),
                    memory_size: size,
                }),
                elf::PT_INTERP => interpreter = true,
                elf::PT_DYNAMIC => dynamic = Some((address, size)),
                elf::PT_GNU_EH_FRAME => eh_frame_hdr = Some((address, size)),
                elf::PT_NOTE => {
                    if let Ok(Some(mut notes)) = header.notes(LE, &cache) {
                        while let Ok(Some(note)) = notes.next() {
                            if note.name() == elf::ELF_NOTE_GNU && note.n_type(LE) == elf::NT_GNU_BUILD_ID {
                                build_id = note.desc().to_vec();
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(damaged("no part of it is to be loaded".to_owned()));
        }
        for segment in &segments {
            let memory = segment.address.checked_add(segment.memory_size);
            if memory.is_none() || segment.file_size > segment.memory_size {
                return Err(damaged(format!("the segment at {:#x} has no sensible size", segment.address)));
            }
        }
        // Debug information has headers only: the segments' contents stay in the program.
        let sections = sections(header, &cache);
        let whole = |s: &Segment| s.offset.checked_add(s.file_size).is_some_and(|end| end <= len);
        let debug = sections.iter().any(|s| s.kind == elf::SHT_NOBITS && s.executable);
        if !debug && let Some(cut) = segments.iter().find(|s| !whole(s)) {
            let detail = format!(
                "the segment at {:#x} ends at offset {:#x} of {len:#x}",
                cut.address,
                cut.offset.saturating_add(cut.file_size)
            );
            return Err(damaged(detail));
        }
        if build_id.is_empty() {
            build_id = build_id_in_sections(header, &cache);
        }
        let entry = header.e_entry(LE);
        drop(cache);
        let path = path.to_owned();
        Ok(Image {
            path,
            source,
            fixed,
            interpreter,
            entry,
            dynamic,
            eh_frame_hdr,
            code: code(&segments, &sections),
            segments,
            sections,
            build_id,
            loaded_at: 0,
        })
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// A section's contents, unpacked; `None` if it has none or they cannot be read.
    pub(super) fn contents(&self, section: &Section) -> Option<Vec<u8>> {
        if section.kind == elf::SHT_NOBITS {
            return None;
        }
        let bytes = self.source.read(section.offset, section.size).ok()?;
        if !section.compressed {
            return Some(bytes);
        }
        let (header, packed) = pod::from_bytes::<elf::CompressionHeader64<LittleEndian>>(&bytes).ok()?;
        let format = match header.ch_type.get(LE) {
            elf::ELFCOMPRESS_ZLIB => object::CompressionFormat::Zlib,
            elf::ELFCOMPRESS_ZSTD => object::CompressionFormat::Zstandard,
            _ => return None,
        };
        let uncompressed_size = header.ch_size.get(LE);
        if uncompressed_size > MAX_UNPACKED {
            return None;
        }
        let packed = object::read::CompressedData { format, data: packed, uncompressed_size };
        Some(packed.decompress().ok()?.into_owned())
    }

    /// The loaded segment that holds the file's bytes for an address.
    pub(super) fn segment(&self, address: u64) -> Option<&Segment> {
        let holds = |s: &&Segment| address.checked_sub(s.address).is_some_and(|offset| offset < s.file_size);
        self.segments.iter().find(holds)
    }

    /// Fills `into` with what the file has for `address`; `None` if it has less.
    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let segment = self.segment(address)?;
        let offset = address - segment.address;
        if into.len() as u64 > segment.file_size - offset {
            return None;
        }
        self.source.read_exact_at(segment.offset.checked_add(offset)?, into).ok()
    }

    /// Reads up to `size` bytes from `address` on, fewer where the segment ends.
    pub(super) fn read_up_to(&self, address: u64, size: u64) -> Option<Vec<u8>> {
        let segment = self.segment(address)?;
        let offset = address - segment.address;
        let size = size.min(segment.file_size - offset);
        self.source.read(segment.offset.checked_add(offset)?, size).ok()
    }

    /// The end of the executable bytes that the file has around `address`; `None` if there is no
    /// code. Sections, where there are any, tell more than segments.
    pub(super) fn code_end(&self, address: u64) -> Option<u64> {
        self.code.iter().find(|code| code.contains(&address)).map(|code| code.end)
    }

    /// The lowest address, rounded down to a page: the load address that a process shows for it.
    pub(super) fn base(&self) -> u64 {
        self.segments.iter().map(|s| s.address).min().unwrap_or(0) & !0xfff
    }

    /// The tags and values of the dynamic table.
    pub(super) fn dynamic(&self) -> Vec<(i64, u64)> {
        let Some((address, size)) = self.dynamic else { return Vec::new() };
        let bytes = self.read_up_to(address, size.min(1 << 20)).unwrap_or_default();
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let value = |value: u64| match value.checked_sub(self.loaded_at) {
            Some(own) if self.loaded_at != 0 && self.segment(own).is_some() => own,
            _ => value,
        };
        let entries =
            bytes.chunks_exact(16).map(|entry| (word(&entry[..8]) as i64, value(word(&entry[8..]))));
        entries.take_while(|(tag, _)| *tag != 0).collect()
    }
}

fn check_machine(path: &Path, ident: &[u8]) -> Result<(), ObjectError> {
    // The magic number, class, byte order, ten more bytes, type, machine.
    let Ok(&[_, _, _, _, class, data, .., low, high]) = <&[u8; IDENT]>::try_from(ident) else {
        let detail = "it ends within its header".to_owned();
        return Err(ObjectError::Damaged { path: path.to_owned(), detail });
    };
    let bits = match elf::FileClass(class) {
        elf::ELFCLASS64 => "",
        elf::ELFCLASS32 => "32-bit ",
        _ => {
            let detail = format!("its header names class {class}");
            return Err(ObjectError::Damaged { path: path.to_owned(), detail });
        }
    };
    let big = elf::DataEncoding(data) == elf::ELFDATA2MSB;
    let number = [low, high];
    let number = if big { u16::from_be_bytes(number) } else { u16::from_le_bytes(number) };
    if bits.is_empty() && !big && elf::Machine(number) == elf::EM_X86_64 {
        return Ok(());
    }
    let name = match elf::Machine(number) {
        elf::EM_386 => "x86".to_owned(),
        elf::EM_X86_64 => "x86-64".to_owned(),
        elf::EM_AARCH64 => "AArch64".to_owned(),
        elf::EM_ARM => "ARM".to_owned(),
        elf::EM_RISCV => "RISC-V".to_owned(),
        elf::EM_PPC64 => "PowerPC".to_owned(),
        elf::EM_S390 => "S/390".to_owned(),
        elf::EM_MIPS => "MIPS".to_owned(),
        other => format!("machine-{}", other.0),
    };
    let order = if big { "big-endian " } else { "" };
    Err(ObjectError::Machine { path: path.to_owned(), machine: format!("{bits}{order}{name}") })
}

/// The addresses of code: executable sections within executable segments, or those segments.
fn code(segments: &[Segment], sections: &[Section]) -> Vec<Range<u64>> {
    let mut code = Vec::new();
    let is_code = |section: &&Section| section.executable && section.allocated;
    for segment in segments.iter().filter(|segment| segment.executable) {
        let whole = segment.address..segment.address + segment.file_size;
        let within = sections.iter().filter(is_code).filter_map(|section| {
            let end = section.address.saturating_add(section.size).min(whole.end);
            let start = section.address.max(whole.start);
            (start < end).then_some(start..end)
        });
        code.extend(within);
    }
    if !sections.iter().any(|section| is_code(&section)) {
        let executable = segments.iter().filter(|segment| segment.executable);
        code.extend(executable.map(|segment| segment.address..segment.address + segment.file_size));
    }
    // The largest first: most questions are about it.
    code.sort_by_key(|range| range.start.wrapping_sub(range.end));
    code
}

type Cache<'a> = ReadCache<Cursor<'a>>;

/// The sections; none if their table cannot be read, for a process runs without it.
fn sections(header: &FileHeader64<LittleEndian>, cache: &Cache<'_>) -> Vec<Section> {
    let Ok(table) = header.sections(LE, cache) else { return Vec::new() };
    let strings = header.shstrndx(LE, cache).ok().and_then(|index| {
        let section = table.section(object::SectionIndex(index as usize)).ok()?;
        section.data(LE, cache).ok()
    });
    let name = |offset: u32| {
        let rest = strings.and_then(|strings| strings.get(offset as usize..)).unwrap_or_default();
        let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    };
    let section = |header: &elf::SectionHeader64<LittleEndian>| {
        let flags = header.sh_flags(LE).0;
        Section {
            name: name(header.sh_name(LE)),
            kind: header.sh_type(LE),
            allocated: flags & elf::SHF_ALLOC.0 != 0,
            executable: flags & elf::SHF_EXECINSTR.0 != 0,
            compressed: flags & elf::SHF_COMPRESSED.0 != 0,
            address: header.sh_addr(LE),
            offset: header.sh_offset(LE),
            size: header.sh_size(LE),
            link: header.sh_link(LE),
        }
    };
    table.iter().map(section).collect()
}

fn build_id_in_sections(header: &FileHeader64<LittleEndian>, cache: &Cache<'_>) -> Vec<u8> {
    let Ok(table) = header.sections(LE, cache) else { return Vec::new() };
    for section in table.iter() {
        let Ok(Some(mut notes)) = section.notes(LE, cache) else { continue };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(LE) == elf::NT_GNU_BUILD_ID {
                return note.desc().to_vec();
            }
        }
    }
    Vec::new()
}
