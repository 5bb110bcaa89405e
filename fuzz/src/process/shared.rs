//! A small file that a child and its parent both see, as words.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A mapping of the file.
#[derive(Debug)]
pub(crate) struct Shared(*mut u64);

impl Shared {
    /// Maps `bytes` of a file that is at least so long, for the process's life.
    pub(crate) fn map(path: &Path, bytes: usize) -> io::Result<Shared> {
        let file = fs::File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared file is too short"));
        }
        // SAFETY: a fresh mapping of a file that is long enough; it stays for the process's life.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Shared(at.cast())) }
    }

    /// Writes a word, which must lie within the mapping.
    pub(crate) fn set(&self, word: usize, value: u64) {
        // SAFETY: within the mapping (all callers name words below its size); the other side
        // may see any mixture of old and new words.
        unsafe { self.0.add(word).write_volatile(value) };
    }

    /// Reads a word, which must lie within the mapping.
    pub(crate) fn get(&self, word: usize) -> u64 {
        // SAFETY: as for `set`.
        unsafe { self.0.add(word).read_volatile() }
    }

    /// Where the words begin.
    #[cfg(feature = "libfuzzer")]
    pub(crate) fn as_ptr(&self) -> *mut u64 {
        self.0
    }
}
