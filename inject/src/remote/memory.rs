//! A traced process's memory, through `/proc/PID/mem`.
//!
//! The file belongs to the address space that the process had when it was opened: after an `exec`
//! it still names the old one. Writing ignores page protection, which is how code is patched.
//! Kernels can be set up to refuse that (`proc_mem.force_override=never`); words are then written
//! by `PTRACE_POKEDATA`, which needs a stopped thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use super::error::{Error, Result};
use super::ptrace;
use super::tracer::Tracer;
use crate::region::CodeMemory;

const WORD: u64 = size_of::<u64>() as u64;

/// The memory of an address space.
#[derive(Debug)]
pub(super) struct Memory {
    file: File,
}

impl Memory {
    /// The memory that thread `pid` has now. A process whose first thread has ended is opened by
    /// another one.
    pub(super) fn of(pid: i32) -> io::Result<Memory> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        Ok(Memory { file })
    }

    /// This process's memory, which the kernel does not let anybody write through it.
    #[cfg(test)]
    pub(super) fn read_only() -> Memory {
        Memory { file: File::open("/proc/self/mem").expect("our own memory") }
    }

    /// Fills `into` from `address` on.
    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, address).map_err(|source| Error::Memory {
            address,
            length: into.len(),
            action: "read",
            source,
        })
    }

    /// Reads as many bytes as there are, at most those of `into`; returns how many.
    pub(super) fn read_some(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], address + done as u64) {
                Ok(0) | Err(_) => break,
                Ok(count) => done += count,
            }
        }
        done
    }

    pub(super) fn word(&self, address: u64) -> Result<u64> {
        let mut bytes = [0; WORD as usize];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes, page protection notwithstanding. `stopped` is a stopped thread of this address
    /// space, if there is one.
    pub(super) fn write(&self, address: u64, bytes: &[u8], stopped: Option<i32>) -> Result<()> {
        let failed = |source| Error::Memory { address, length: bytes.len(), action: "written", source };
        match self.file.write_all_at(bytes, address) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => match stopped {
                Some(tid) => poke(tid, address, bytes).map_err(failed),
                None => Err(failed(error)),
            },
            other => other.map_err(failed),
        }
    }

    /// Writes as thread `tid` itself could: a page that it must not write stays as it is, and the
    /// result is `false`.
    pub(super) fn write_as_program(tid: i32, address: u64, word: u64) -> bool {
        let local = libc::iovec { iov_base: (&raw const word).cast_mut().cast(), iov_len: size_of::<u64>() };
        let remote = libc::iovec { iov_base: address as *mut _, iov_len: size_of::<u64>() };
        // SAFETY: The kernel reads the local word, which is live, and checks the remote address.
        let count = unsafe { libc::process_vm_writev(tid, &local, 1, &remote, 1, 0) };
        count == WORD as isize
    }
}

/// Writes whole words with `PTRACE_POKEDATA`, keeping the bytes around `bytes`.
pub(super) fn poke(tid: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    let end = address + bytes.len() as u64;
    let mut at = address & !(WORD - 1);
    while at < end {
        let mut word = ptrace::peek(tid, at)?.to_le_bytes();
        for (offset, byte) in word.iter_mut().enumerate() {
            let here = at + offset as u64;
            if (address..end).contains(&here) {
                *byte = bytes[(here - address) as usize];
            }
        }
        ptrace::poke(tid, at, u64::from_le_bytes(word))?;
        at += WORD;
    }
    Ok(())
}

/// A traced process's code, to be decoded: the bytes as they are without breakpoints.
#[derive(Debug)]
pub struct Code<'a> {
    pub(super) tracer: &'a Tracer,
    pub(super) pid: i32,
}

impl CodeMemory for Code<'_> {
    fn read(&self, address: usize, into: &mut [u8]) -> io::Result<()> {
        self.tracer.read(self.pid, address as u64, into).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Launch;

    #[test]
    fn words_are_poked_into_code_and_their_neighbours_kept() {
        let mut tracer = Tracer::spawn(&Launch::new("true")).expect("every machine has it");
        let pid = tracer.pid();
        // The loader's first instructions: read-only code, at no particular alignment.
        let at = tracer.registers(pid).expect("held").pc() + 3;
        let mut before = [0; 32];
        tracer.read(pid, at - 8, &mut before).expect("mapped");
        let patch = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        poke(pid, at, &patch).expect("it is stopped");
        let mut after = [0; 32];
        tracer.read(pid, at - 8, &mut after).expect("mapped");
        let mut expected = before;
        expected[8..19].copy_from_slice(&patch);
        assert_eq!(after, expected);
        tracer.kill();
    }
}
