//! From a process's mappings to objects: the file that is really mapped, and where.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::ObjectError;
use super::image::Image;
use super::maps::{MappedFile, Mapping};
use super::source::Source;

/// No object is copied out of memory if it is larger.
const MAX_COPIED: u64 = 1 << 30;

/// The identity of a file, which tells it from others, and from itself before it was written again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    pub(super) fn new(path: &Path, metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { path: path.to_owned(), inode: metadata.ino(), size: metadata.len(), modified }
    }
}

/// A process's memory.
#[derive(Debug)]
pub(super) struct Memory(File);

impl Memory {
    pub(super) fn open(pid: i32) -> std::io::Result<Self> {
        Ok(Self(File::open(format!("/proc/{pid}/mem"))?))
    }

    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(into, address)
    }

    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// The file of a mapping, if it can still be reached: by its path, if that is still the same file;
/// else through the process (`exe`, `map_files`).
pub(super) fn file(pid: i32, mapping: &Mapping, is_program: bool) -> Option<PathBuf> {
    let inside = PathBuf::from(format!("/proc/{pid}/root{}", mapping.path.display()));
    let Range { start, end } = mapping.addresses;
    let through = PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
    let program = PathBuf::from(format!("/proc/{pid}/exe"));
    let same = |path: &&PathBuf| path.metadata().is_ok_and(|metadata| metadata.ino() == mapping.inode);
    let by_path = [mapping.path.clone(), inside];
    if let Some(path) = by_path.iter().filter(|_| !mapping.deleted).find(same) {
        return Some(path.clone());
    }
    if is_program && program.metadata().is_ok() {
        return Some(program);
    }
    if through.metadata().is_ok() {
        return Some(through);
    }
    // Some file systems show another inode in the mappings than elsewhere.
    by_path.into_iter().find(|path| !mapping.deleted && begins_alike(pid, mapping, path))
}

/// Returns whether a file begins with the bytes that are mapped.
fn begins_alike(pid: i32, mapping: &Mapping, path: &Path) -> bool {
    let (mut mapped, mut own) = (vec![0; 4096], vec![0; 4096]);
    let read = Memory::open(pid).and_then(|memory| memory.read(mapping.addresses.start, &mut mapped));
    let file = File::open(path).and_then(|file| file.read_exact_at(&mut own, mapping.offset));
    read.is_ok() && file.is_ok() && mapped == own
}

/// An image put together from a process's memory, for the vDSO and for files that are gone.
pub(super) fn copy(pid: i32, file: &MappedFile) -> Result<Image, ObjectError> {
    let path = &file.first().path;
    let unreadable = |source| ObjectError::Unreadable { path: path.clone(), source };
    let memory = Memory::open(pid).map_err(unreadable)?;
    let end = |m: &Mapping| m.offset.saturating_add(m.addresses.end - m.addresses.start);
    let size = file.mappings.iter().map(end).max().unwrap_or(0);
    if size > MAX_COPIED {
        return Err(unreadable(std::io::Error::other(
            "it is gone, and too large to be copied out of memory",
        )));
    }
    let mut bytes = vec![0; size as usize];
    for mapping in &file.mappings {
        let into = &mut bytes[mapping.offset as usize..end(mapping) as usize];
        // A mapping beyond the file's end cannot be read; it stays zero.
        if let Err(error) = memory.read(mapping.addresses.start, into)
            && mapping.executable
        {
            return Err(unreadable(error));
        }
    }
    if !file.is_vdso() {
        // The section headers are not mapped: they would be taken from whatever is there.
        const E_SHOFF: usize = 0x28;
        const E_SHNUM: usize = 0x3c;
        for range in [E_SHOFF..E_SHOFF + 8, E_SHNUM..E_SHNUM + 4] {
            if let Some(field) = bytes.get_mut(range) {
                field.fill(0);
            }
        }
    }
    let mut image = Image::parse(path, Source::Memory(bytes))?;
    image.loaded_at = bias(&image, file);
    Ok(image)
}

/// The load bias of an object with these mappings.
pub(super) fn bias(image: &Image, file: &MappedFile) -> u64 {
    if image.fixed {
        return 0;
    }
    let page = |address: u64| address & !0xfff;
    for mapping in &file.mappings {
        let fits = |s: &&super::image::Segment| {
            page(s.offset) == mapping.offset && s.executable == mapping.executable
        };
        if let Some(segment) = image.segments.iter().find(fits) {
            return mapping.addresses.start.wrapping_sub(page(segment.address));
        }
    }
    file.first().addresses.start.wrapping_sub(image.base())
}

#[cfg(test)]
mod tests {
    use super::super::{Object, maps};
    use super::*;

    #[test]
    fn library_that_is_copied_out_of_memory_has_the_exported_functions_of_its_file() {
        let pid = std::process::id() as i32;
        let files = maps::files(maps::read(pid).expect("we exist"));
        let libc = files.iter().find(|file| file.first().path.ends_with("libc.so.6")).expect("glibc");
        let image = Image::open(&libc.first().path).expect("a library");
        let copied = copy(pid, libc).expect("it is mapped");
        assert_eq!(bias(&copied, libc), bias(&image, libc));
        assert_eq!(copied.build_id, image.build_id);
        assert!(copied.sections.is_empty());
        // The copy has a debug file, too: its exports must be the dynamic table's own.
        let mut copied = Object::new(Image { build_id: Vec::new(), ..copied });
        let mut own = Object::new(Image { build_id: Vec::new(), ..image });
        let exported = |object: &mut Object| {
            let functions = object.functions();
            let range = |f: &usize| (functions.all()[*f].address, functions.all()[*f].size);
            let named = (0..functions.len()).filter(|f| functions.all()[*f].is_named());
            named.map(|f| (range(&f), functions.name(f).into_owned())).collect::<Vec<_>>()
        };
        let (copied, own) = (exported(&mut copied), exported(&mut own));
        assert!(copied.len() > 2000, "{}", copied.len());
        assert_eq!(copied, own);
    }
}
