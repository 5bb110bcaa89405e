//! One ELF object: a program, a library, the vDSO. Everything but its headers is read on demand,
//! once.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use object::elf;

use super::build;
use super::debug_file;
use super::descent;
use super::eh_frame;
use super::error::ObjectError;
use super::functions::Functions;
use super::image::Image;
use super::lines::Lines;
use super::names;
use super::relocations::{self, Relocation};
use super::rows::Rows;
use super::source::Source;

/// How an object is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// A program at fixed addresses, with libraries.
    Executable,
    /// A program at any address, with libraries.
    Pie,
    /// A program at fixed addresses, without libraries.
    Static,
    /// A program at any address, without libraries.
    StaticPie,
    /// A library, or the loader.
    Library,
}

impl Linkage {
    /// Returns whether addresses in the file differ from those in a process.
    pub fn is_position_independent(self) -> bool {
        !matches!(self, Linkage::Executable | Linkage::Static)
    }
}

/// A restartable sequence (`rseq_cs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) range: Range<u64>,
    pub(super) abort: u64,
}

/// An ELF object.
///
/// Addresses are the file's own (link-time) addresses. [`super::Mapped`] has the bias.
#[derive(Debug)]
pub struct Object {
    image: Image,
    linkage: Linkage,
    debug: OnceLock<Option<Image>>,
    unwind: OnceLock<Vec<eh_frame::Range>>,
    rows: OnceLock<Mutex<Rows>>,
    relocations: OnceLock<Vec<Relocation>>,
    functions: OnceLock<Functions>,
    families: OnceLock<HashMap<String, Vec<usize>>>,
    rseq: OnceLock<Vec<Sequence>>,
    incoming: OnceLock<Vec<u64>>,
    lines: OnceLock<Option<Mutex<Lines>>>,
}

impl Object {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is no x86-64 program or shared library.
    pub fn open(path: &Path) -> Result<Self, ObjectError> {
        Ok(Self::new(Image::open(path)?))
    }

    /// Reads an object out of a copy of its file, or of the memory that it is loaded into; `path`
    /// is for messages.
    ///
    /// # Errors
    ///
    /// If the bytes are no x86-64 program or shared library.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, ObjectError> {
        Ok(Self::new(Image::parse(path, Source::Memory(bytes))?))
    }

    pub(super) fn new(image: Image) -> Self {
        let linkage = linkage(&image);
        Self {
            image,
            linkage,
            debug: OnceLock::new(),
            unwind: OnceLock::new(),
            rows: OnceLock::new(),
            relocations: OnceLock::new(),
            functions: OnceLock::new(),
            families: OnceLock::new(),
            rseq: OnceLock::new(),
            incoming: OnceLock::new(),
            lines: OnceLock::new(),
        }
    }

    /// The path that the object was opened with.
    pub fn path(&self) -> &Path {
        &self.image.path
    }

    /// The file's name without folders.
    pub fn name(&self) -> String {
        let path = &self.image.path;
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// How it is linked.
    pub fn linkage(&self) -> Linkage {
        self.linkage
    }

    /// The address of the first instruction that a program runs, behind its loader; 0 for a library without one.
    pub fn entry(&self) -> u64 {
        self.image.entry
    }

    /// The build id; empty if it has none.
    pub fn build_id(&self) -> &[u8] {
        &self.image.build_id
    }

    /// The path of the separate debug file, if there is one.
    pub fn debug_file(&self) -> Option<&Path> {
        self.debug().map(|image| image.path.as_path())
    }

    /// Returns whether neither the object nor a debug file has a full symbol table.
    pub fn is_stripped(&self) -> bool {
        let full = |image: &Image| build::symbol_section(image).is_some();
        !full(&self.image) && !self.debug().is_some_and(full)
    }

    /// The object's functions.
    pub fn functions(&self) -> &Functions {
        self.functions.get_or_init(|| {
            // Only a stripped object's symbols are looked for elsewhere.
            let debug = if build::symbol_section(&self.image).is_some() { None } else { self.debug() };
            build::functions(&self.image, debug, self.unwind(), self.relocations())
        })
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    pub(super) fn debug(&self) -> Option<&Image> {
        self.debug.get_or_init(|| debug_file::find(&self.image)).as_ref()
    }

    pub(super) fn unwind(&self) -> &[eh_frame::Range] {
        self.unwind.get_or_init(|| eh_frame::ranges(&self.image))
    }

    pub(super) fn rows(&self) -> &Mutex<Rows> {
        self.rows.get_or_init(|| Mutex::new(Rows::new(self)))
    }

    pub(super) fn relocations(&self) -> &[Relocation] {
        self.relocations.get_or_init(|| relocations::all(&self.image))
    }

    pub(super) fn families(&self) -> &HashMap<String, Vec<usize>> {
        self.families.get_or_init(|| self.functions().families())
    }

    /// The places within functions that other functions jump to; empty where names tell which
    /// parts belong together.
    pub(super) fn incoming(&self) -> &[u64] {
        self.incoming.get_or_init(|| match self.functions().has_unnamed() {
            true => descent::incoming(self),
            false => Vec::new(),
        })
    }

    pub(super) fn lines(&self) -> Option<&Mutex<Lines>> {
        let load = || {
            let has_lines =
                |image: &&Image| image.section(".debug_line").is_some_and(|s| s.kind != elf::SHT_NOBITS);
            let image = Some(&self.image).filter(has_lines).or_else(|| self.debug().filter(has_lines))?;
            Lines::load(image).map(Mutex::new)
        };
        self.lines.get_or_init(load).as_ref()
    }

    /// The addresses of the words that hold the address of an imported function.
    pub(super) fn slots(&self, names: &[&str]) -> Vec<u64> {
        let slot = |r: &&Relocation| matches!(r.kind, elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT);
        let symbols = build::dynamic_names(&self.image);
        let imports = |r: &&Relocation| {
            symbols.get(r.symbol as usize).is_some_and(|symbol| names.contains(&names::split_part(symbol).0))
        };
        self.relocations().iter().filter(slot).filter(imports).map(|r| r.address).collect()
    }

    /// Returns whether an address lies in code.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.image.code_end(address).is_some()
    }

    /// The restartable sequences that the object lists (`__rseq_cs`).
    pub(super) fn rseq(&self) -> &[Sequence] {
        /// Version and flags, start, length, abort handler.
        const SIZE: u64 = 32;
        self.rseq.get_or_init(|| {
            let Some(section) = self.image.section("__rseq_cs") else { return Vec::new() };
            let word = |address: u64| relocations::word(&self.image, self.relocations(), address);
            let sequence = |index: u64| {
                let at = section.address.checked_add(SIZE * index)?;
                let (start, length, abort) = (word(at + 8)?, word(at + 16)?, word(at + 24)?);
                let range = start..start.checked_add(length)?;
                self.is_code(start).then_some(Sequence { range, abort })
            };
            (0..section.size / SIZE).map_while(|index| Some(sequence(index))).flatten().collect()
        })
    }
}

fn linkage(image: &Image) -> Linkage {
    const DT_NEEDED: i64 = 1;
    const DT_SONAME: i64 = 14;
    const DT_FLAGS_1: i64 = 0x6fff_fffb;
    let dynamic = image.dynamic();
    let has = |tag| dynamic.iter().any(|(t, _)| *t == tag);
    let marked = dynamic.iter().any(|(tag, value)| *tag == DT_FLAGS_1 && value & elf::DF_1_PIE.0 != 0);
    match (image.fixed, image.interpreter) {
        (true, true) => Linkage::Executable,
        (true, false) if has(DT_NEEDED) => Linkage::Executable,
        (true, false) => Linkage::Static,
        (false, true) if marked || !has(DT_SONAME) => Linkage::Pie,
        (false, false) if marked && !has(DT_NEEDED) => Linkage::StaticPie,
        _ => Linkage::Library,
    }
}
