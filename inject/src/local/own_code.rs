//! The code of this process, read without its breakpoints.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::patch;
use crate::region::{CodeFunction, CodeMemory, Region, RegionError};

/// This process's memory. It is read through `/proc/self/mem`, so an address that is not mapped
/// is an error rather than a fault.
struct OwnCode;

impl CodeMemory for OwnCode {
    fn read(&self, address: usize, into: &mut [u8]) -> io::Result<()> {
        File::open("/proc/self/mem")?.read_exact_at(into, address as u64)?;
        patch::restore_originals(address, into);
        Ok(())
    }
}

impl Region {
    /// Decodes functions of this process. The functions keep their order.
    ///
    /// # Errors
    ///
    /// As [`Region::decode_from`]. A function that is not mapped cannot be read.
    pub fn decode(functions: &[CodeFunction]) -> Result<Self, RegionError> {
        Region::decode_from(functions, &OwnCode)
    }
}
