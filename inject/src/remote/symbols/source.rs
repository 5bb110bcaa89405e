//! The bytes of an ELF file: a file that stays open, or a copy of a process's memory.
//!
//! Nothing is mapped. A mapped file that a build cuts short kills the reader with SIGBUS, and a
//! program's file may well be built again while the program runs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

#[derive(Debug)]
pub(super) enum Source {
    File(File),
    Memory(Vec<u8>),
}

impl Source {
    /// The number of bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Source::File(file) => Ok(file.metadata()?.len()),
            Source::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `into` with the bytes from `offset` on; an error if there are fewer.
    pub(super) fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Source::File(file) => file.read_exact_at(into, offset),
            Source::Memory(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                let part =
                    from.and_then(|from| from.get(..into.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
                into.copy_from_slice(part);
                Ok(())
            }
        }
    }

    /// The `size` bytes from `offset` on. A size beyond the end is an error, not an allocation.
    pub(super) fn read(&self, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        if offset.checked_add(size).is_none_or(|end| self.len().is_ok_and(|len| end > len)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| io::ErrorKind::UnexpectedEof)?];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// A position in a source, for readers of streams.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    source: &'a Source,
    position: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, position: 0 }
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.source.len()?.saturating_sub(self.position);
        let size = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.source.read_exact_at(self.position, &mut into[..size])?;
        self.position += size as u64;
        Ok(size)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.source.len()?.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
