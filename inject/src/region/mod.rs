//! The marked code region, cut into instructions.
//!
//! # Book-keeping
//!
//! The caller names functions by their addresses. The region numbers the functions in that
//! order, cuts each into instructions, and numbers a function's instructions from 0. A
//! *boundary* is an instruction's first byte: a thread can be stopped there before it runs
//! the instruction.
//!
//! A schedule names a boundary by function, index and **check**. The check is seven bits of
//! a hash over the instruction's bytes. Displacements from the instruction pointer and branch
//! targets are hashed as zeros, so the same source has the same check in a binary with
//! another layout. A schedule that was made for other code is noticed (127 times in 128)
//! rather than misread.
//!
//! # Whose memory
//!
//! Nothing here assumes that the code belongs to this process. [`Region::decode_from`] reads
//! through a [`CodeMemory`], once; a region never reads memory again. [`Region::decode`] is
//! the same for this process.
//!
//! # Gotchas
//!
//! - Later patches do not show: the bytes are copied as the region is decoded, and the copy
//!   has the original bytes where breakpoints lie.
//! - An address that is not mapped is an error rather than a fault.
//! - A linker that relaxes `call [rip+f@GOTPCREL]` to `call f` changes an opcode, and so a
//!   check. One toolchain does it always or never.
//! - Absolute addresses as plain immediates (code that is not position-independent) cannot be
//!   told from numbers and are hashed.
//! - Everything between `start` and `end` is taken for instructions, except the filler (`nop`,
//!   `int3`) that aligns the next function. Keep jump tables out of the region.

use std::collections::BTreeMap;
use std::io;

mod const_prop;
mod decode;
mod flow;
mod listing;

pub use const_prop::Known;
pub use flow::Flow;

use decode::Decoded;

/// A function of the region, by its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeFunction {
    /// The name that reports show.
    pub name: &'static str,
    /// The address of its first byte.
    pub start: usize,
    /// One past the address of its last byte.
    pub end: usize,
}

/// An instruction of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Bytes from the function's start to the instruction's first byte.
    pub offset: u16,
    /// The instruction's length in bytes, 1 to 15.
    pub len: u8,
    /// Seven bits (0 to 127) that tell the instruction from others, whatever its address.
    pub check: u8,
}

/// Where an address lies in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The function's number.
    pub function: usize,
    /// The number of the instruction that contains the byte.
    pub index: usize,
    /// Bytes from the function's start to the address.
    pub offset: u16,
    /// Whether the address is the instruction's first byte.
    pub exact: bool,
}

/// Memory with code in it: this process's, or another's.
pub trait CodeMemory {
    /// Fills `into` with the bytes from `address` on, as they are without breakpoints.
    ///
    /// # Errors
    ///
    /// If some of the bytes cannot be read, for example because nothing is mapped there.
    fn read(&self, address: usize, into: &mut [u8]) -> io::Result<()>;
}

/// Why a region cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// A function ends before it starts.
    #[error("{name} ends at {end:#x}, before its start at {start:#x}")]
    EndBeforeStart {
        /// The function.
        name: &'static str,
        /// Its first byte.
        start: usize,
        /// One past its last byte.
        end: usize,
    },
    /// A function has no bytes.
    #[error("{name} is empty")]
    Empty {
        /// The function.
        name: &'static str,
    },
    /// A function is longer than offsets can say.
    #[error("{name} has {size} bytes, more than the 65,536 that an offset can name")]
    TooLong {
        /// The function.
        name: &'static str,
        /// Its size in bytes.
        size: usize,
    },
    /// Two functions share bytes.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// The one that starts first.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A function's bytes cannot be read.
    #[error("{name} cannot be read: {source}")]
    Unreadable {
        /// The function.
        name: &'static str,
        /// The reason that the memory gave.
        source: io::Error,
    },
    /// Bytes that are no instruction, or an instruction that reaches beyond the end.
    #[error("{name}+{offset:#x} is no instruction: {bytes:02x?}")]
    Undecodable {
        /// The function.
        name: &'static str,
        /// Bytes from the function's start.
        offset: usize,
        /// The bytes from there, at most 15.
        bytes: Vec<u8>,
    },
}

/// A marked code region and its instruction boundaries.
#[derive(Debug)]
pub struct Region {
    functions: Vec<CodeFunction>,
    /// One for each of `functions`.
    decoded: Vec<Decoded>,
    /// The functions' numbers, by address.
    by_address: Vec<usize>,
    /// The words that instructions read relative to the instruction pointer, such as entries
    /// of the linker's table, by address, as they were when the region was decoded.
    words: BTreeMap<u64, u64>,
}

impl Region {
    /// Decodes `functions` out of `memory`. The functions keep their order.
    ///
    /// # Errors
    ///
    /// If a function's addresses make no sense, functions overlap, a function cannot be read,
    /// or its bytes are not instructions from start to end.
    pub fn decode_from(functions: &[CodeFunction], memory: &impl CodeMemory) -> Result<Self, RegionError> {
        for function in functions {
            let CodeFunction { name, start, end } = *function;
            match end.checked_sub(start) {
                None => return Err(RegionError::EndBeforeStart { name, start, end }),
                Some(0) => return Err(RegionError::Empty { name }),
                Some(size) if size > 1 << 16 => return Err(RegionError::TooLong { name, size }),
                Some(_) => {}
            }
        }
        let mut by_address: Vec<usize> = (0..functions.len()).collect();
        by_address.sort_by_key(|f| functions[*f].start);
        for pair in by_address.windows(2) {
            let (first, second) = (functions[pair[0]], functions[pair[1]]);
            if first.end > second.start {
                return Err(RegionError::Overlap { first: first.name, second: second.name });
            }
        }
        let mut words = BTreeMap::new();
        let decoded = functions
            .iter()
            .map(|function| decode::function(function, memory, &mut words))
            .collect::<Result<_, _>>()?;
        Ok(Self { functions: functions.to_vec(), decoded, by_address, words })
    }

    /// The functions, in the order in which they were given.
    pub fn functions(&self) -> &[CodeFunction] {
        &self.functions
    }

    /// The instructions of function `f`, in order of address; empty if there is no such function.
    pub fn boundaries(&self, f: usize) -> &[Boundary] {
        self.decoded.get(f).map_or(&[], |decoded| &decoded.boundaries)
    }

    /// The number of instructions in function `f`.
    #[inline]
    pub fn count(&self, f: usize) -> usize {
        self.boundaries(f).len()
    }

    /// The address of instruction `index` of function `f`.
    #[inline]
    pub fn address(&self, f: usize, index: usize) -> Option<usize> {
        let function = self.functions.get(f)?;
        let boundary = self.boundaries(f).get(index)?;
        Some(function.start + usize::from(boundary.offset))
    }

    /// Returns where `address` lies, or `None` if it lies outside the region. Makes two binary
    /// searches; may be called in a signal handler.
    pub fn locate(&self, address: usize) -> Option<Location> {
        let start = |f: &usize| self.functions.get(*f).map_or(usize::MAX, |f| f.start);
        let after = self.by_address.partition_point(|f| start(f) <= address);
        let function = *self.by_address.get(after.checked_sub(1)?)?;
        let CodeFunction { start, end, .. } = *self.functions.get(function)?;
        if address >= end {
            return None;
        }
        // Below 65,536: `decode_from` refuses longer functions.
        let offset = (address - start) as u16;
        let boundaries = self.boundaries(function);
        let index = boundaries.partition_point(|b| b.offset <= offset).checked_sub(1)?;
        let exact = boundaries.get(index)?.offset == offset;
        Some(Location { function, index, offset, exact })
    }

    /// The bytes of function `f` as they were decoded.
    pub(crate) fn code(&self, f: usize) -> &[u8] {
        self.decoded.get(f).map_or(&[], |decoded| &decoded.code)
    }
}
