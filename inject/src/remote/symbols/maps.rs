//! `/proc/PID/maps`: which files a process has mapped, and where.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) addresses: Range<u64>,
    pub(super) executable: bool,
    pub(super) offset: u64,
    /// Major and minor number of the device.
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    /// The path, or a name in brackets; without the mark of a deleted file.
    pub(super) path: PathBuf,
    pub(super) deleted: bool,
}

/// One object's mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MappedFile {
    pub(super) mappings: Vec<Mapping>,
}

impl MappedFile {
    pub(super) fn first(&self) -> &Mapping {
        &self.mappings[0]
    }

    pub(super) fn is_vdso(&self) -> bool {
        self.first().path.as_os_str() == "[vdso]"
    }
}

/// The mappings of process `pid`.
pub(super) fn read(pid: i32) -> io::Result<Vec<Mapping>> {
    let text = std::fs::read(format!("/proc/{pid}/maps"))?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Mapping> {
    let (addresses, rest) = word(line)?;
    let (flags, rest) = word(rest)?;
    let (offset, rest) = word(rest)?;
    let (device, rest) = word(rest)?;
    let (inode, rest) = word(rest)?;
    let (start, end) = addresses.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let path = rest.trim_ascii_start();
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (path, false),
    };
    Some(Mapping {
        addresses: hex(start)?..hex(end)?,
        executable: flags.as_bytes().get(2) == Some(&b'x'),
        offset: hex(offset)?,
        device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
        inode: inode.parse().ok()?,
        path: PathBuf::from(OsStr::from_bytes(&unescape(path))),
        deleted,
    })
}

fn word(text: &[u8]) -> Option<(&str, &[u8])> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    let word = std::str::from_utf8(&text[..end]).ok().filter(|word| !word.is_empty())?;
    Some((word, &text[end..]))
}

/// The kernel writes a line's end within a path as `\012`.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(after) => {
                plain.push(b'\n');
                rest = after;
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// The files, and the vDSO, of which some mapping is executable. A file that was loaded twice is
/// there twice.
pub(super) fn files(mappings: Vec<Mapping>) -> Vec<MappedFile> {
    let mut files: Vec<MappedFile> = Vec::new();
    for mapping in mappings {
        let is_file = mapping.inode != 0 && mapping.path.as_os_str().as_bytes().starts_with(b"/");
        if !is_file && mapping.path.as_os_str() != "[vdso]" {
            continue;
        }
        let same = |file: &&mut MappedFile| {
            let last = &file.mappings[file.mappings.len() - 1];
            let key = |m: &Mapping| (m.device, m.inode);
            key(last) == key(&mapping)
                && last.path == mapping.path
                && mapping.offset >= last.offset
                && mapping.offset > 0
        };
        match files.iter_mut().rev().find(same) {
            Some(file) => file.mappings.push(mapping),
            None => files.push(MappedFile { mappings: vec![mapping] }),
        }
    }
    files.retain(|file| file.mappings.iter().any(|mapping| mapping.executable));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(text: &str) -> Vec<Mapping> {
        text.lines().filter_map(|line| parse(line.as_bytes())).collect()
    }

    #[test]
    fn line_of_maps_is_read_with_spaces_and_deletion_in_its_path() {
        let line = "7fb6c91c5000-7fb6c91eb000 r-xp 00026000 fe:01 326279    /a b/li\\012b.so (deleted)";
        let mapping = parse(line.as_bytes()).expect("it is a mapping");
        assert_eq!(mapping.addresses, 0x7fb6c91c5000..0x7fb6c91eb000);
        assert!(mapping.executable && mapping.deleted);
        assert_eq!((mapping.offset, mapping.device, mapping.inode), (0x26000, (0xfe, 1), 326279));
        assert_eq!(mapping.path, PathBuf::from("/a b/li\nb.so"));
        for bad in ["", "x", "1-2", "1-2 r-xp", "g-h r-xp 0 0:0 0", "1-2 r-xp 0 0 0", "1-2 r-xp 0 0:0 x"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn file_that_is_loaded_twice_is_there_twice_and_data_files_are_not() {
        let text = "1000-2000 r--p 00000000 fe:00 5 /lib/a.so
2000-3000 r-xp 00001000 fe:00 5 /lib/a.so
3000-4000 rw-p 00000000 00:00 0
4000-5000 r--p 00000000 fe:00 5 /lib/a.so
5000-6000 r-xp 00001000 fe:00 5 /lib/a.so
6000-7000 r--p 00000000 fe:00 6 /lib/locale
7000-8000 r-xp 00000000 00:00 0 [vdso]
8000-9000 --xp 00000000 00:00 0 [vsyscall]
9000-a000 r-xp 00000000 00:00 0";
        let files = files(mappings(text));
        let starts: Vec<u64> = files.iter().map(|file| file.first().addresses.start).collect();
        assert_eq!(starts, [0x1000, 0x4000, 0x7000]);
        assert!(files[2].is_vdso());
    }
}
