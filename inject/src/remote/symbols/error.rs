//! Why an object or a process cannot be read.

use std::io;
use std::path::PathBuf;

/// Why an object (a program or a library) cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The file cannot be opened or read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is something else, a script for example.
    #[error("{} is no ELF file: it begins with {start:02x?}", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
        /// Its first bytes, at most four.
        start: Vec<u8>,
    },
    /// The object is for another kind of machine, or for 32 bits.
    #[error("{} is {machine} code; only x86-64 can be read", path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// The machine, such as `32-bit EM_386`.
        machine: String,
    },
    /// The file is an ELF file that no process runs: a relocatable object, a core dump.
    #[error("{} is {kind}, neither a program nor a shared library", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The ELF file's type.
        kind: String,
    },
    /// The file contradicts itself.
    #[error("{} is damaged or cut short: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        detail: String,
    },
}

/// Why a process's objects cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The kernel does not show the process's mappings.
    #[error("the mappings of process {pid} cannot be read: {source}")]
    Maps {
        /// The process.
        pid: i32,
        /// The system's reason.
        source: io::Error,
    },
}
