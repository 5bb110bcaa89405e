//! Breakpoint bytes in an address space: the one owner of what is patched there.
//!
//! # Book-keeping
//!
//! Each address that ever had a breakpoint keeps its entry, with the byte that belongs there. The
//! entry says whether the breakpoint is *laid* now. So a thread that trapped at a breakpoint which
//! another thread lifted before the trap was seen is still recognised, and a child that was forked
//! in between can be cleaned.
//!
//! Breakpoints are laid and lifted by *piece*: neighbours are read, patched and written together,
//! one write for a function rather than one for each instruction. Lifting looks first: a byte that
//! is no longer `int3` (the library was unloaded, something else is mapped there) is left alone.
//!
//! # Gotcha
//!
//! The bytes between neighbours are written back as they were read. If another thread of the program
//! rewrites its code in between (a JIT's inline cache), that change is lost. An address that is laid or
//! lifted alone is one byte.

use std::collections::BTreeMap;
use std::io;

use super::error::{Error, Result};
use super::memory::Memory;

/// The instruction `int3`.
pub(super) const INT3: u8 = 0xcc;

/// Neighbours are patched in one write if no more bytes than this lie between them.
const GAP: u64 = 64;
/// The longest piece.
const PIECE: u64 = 1 << 16;

/// How long a breakpoint lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until a thread reaches it.
    OneShot,
    /// Until it is lifted.
    Stays,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    original: u8,
    lifetime: Lifetime,
    laid: bool,
}

/// The meaning of a trap at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trapped {
    /// At a breakpoint that is laid.
    Here(Lifetime),
    /// At one that has been lifted since.
    Gone,
    /// At none of ours.
    Foreign,
}

/// The breakpoints of an address space.
#[derive(Clone, Debug, Default)]
pub(super) struct Breakpoints {
    entries: BTreeMap<u64, Entry>,
    laid: usize,
}

impl Breakpoints {
    /// The number that are laid.
    pub(super) fn laid(&self) -> usize {
        self.laid
    }

    pub(super) fn is_laid(&self, address: u64) -> bool {
        self.entries.get(&address).is_some_and(|entry| entry.laid)
    }

    /// Lays breakpoints at `addresses` (in order, each once). A breakpoint that is there already
    /// gets the lifetime. Either all are laid, or everything is as before.
    pub(super) fn lay(
        &mut self,
        memory: &Memory,
        addresses: &[u64],
        lifetime: Lifetime,
        stopped: Option<i32>,
    ) -> Result<()> {
        // Breakpoints that were laid already, with the lifetimes that they had.
        let mut before = BTreeMap::new();
        for (number, piece) in pieces(addresses).enumerate() {
            let laid = piece.iter().filter_map(|address| {
                let entry = self.entries.get(address).filter(|entry| entry.laid)?;
                Some((*address, entry.lifetime))
            });
            before.extend(laid);
            if let Err(error) = self.lay_piece(memory, piece, lifetime, stopped) {
                let done: usize = pieces(addresses).take(number).map(<[u64]>::len).sum();
                let new = addresses[..done].iter().copied().filter(|address| !before.contains_key(address));
                self.lift(memory, &new.collect::<Vec<_>>(), stopped)?;
                for (address, lifetime) in before {
                    if let Some(entry) = self.entries.get_mut(&address) {
                        entry.lifetime = lifetime;
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn lay_piece(
        &mut self,
        memory: &Memory,
        piece: &[u64],
        lifetime: Lifetime,
        stopped: Option<i32>,
    ) -> Result<()> {
        let (first, mut bytes) = read_piece(memory, piece)?;
        let mut originals = Vec::with_capacity(piece.len());
        for &address in piece {
            originals.push(std::mem::replace(&mut bytes[(address - first) as usize], INT3));
        }
        memory.write(first, &bytes, stopped)?;
        for (&address, original) in piece.iter().zip(originals) {
            let entry = self.entries.entry(address).or_insert(Entry { original, lifetime, laid: false });
            // A breakpoint that was there already is what was read.
            if !entry.laid || original != INT3 {
                entry.original = original;
            }
            self.laid += usize::from(!entry.laid);
            (entry.lifetime, entry.laid) = (lifetime, true);
        }
        Ok(())
    }

    /// Lifts those of `addresses` (in order) that are laid. Those that the kernel does not let the tracer
    /// lift stay laid.
    pub(super) fn lift(&mut self, memory: &Memory, addresses: &[u64], stopped: Option<i32>) -> Result<()> {
        let laid: Vec<u64> = addresses.iter().copied().filter(|&address| self.is_laid(address)).collect();
        for piece in pieces(&laid) {
            match self.restore(memory, piece, stopped) {
                // Unmapped meanwhile, and the breakpoints with it.
                Err(Error::Memory { action: "read", .. }) => {}
                other => other?,
            }
            for address in piece {
                if let Some(entry) = self.entries.get_mut(address) {
                    entry.laid = false;
                    self.laid -= 1;
                }
            }
        }
        Ok(())
    }

    /// Lifts one that is laid and that a thread, still stopped there, has just run into: nobody need look
    /// whether it is there.
    pub(super) fn lift_hit(&mut self, memory: &Memory, address: u64, tid: i32) -> Result<()> {
        if let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.laid) {
            memory.write(address, &[entry.original], Some(tid))?;
            entry.laid = false;
            self.laid -= 1;
        }
        Ok(())
    }

    /// The addresses and lifetimes of those that are laid in `range`.
    pub(super) fn laid_within(&self, range: std::ops::Range<u64>) -> Vec<(u64, Lifetime)> {
        let laid = self.entries.range(range).filter(|(_, entry)| entry.laid);
        laid.map(|(&address, entry)| (address, entry.lifetime)).collect()
    }

    /// Takes every breakpoint byte out of another address space that was copied from this one, even
    /// those that were lifted here after the copy was made.
    pub(super) fn clean(&self, copy: &Memory, stopped: Option<i32>) -> Result<()> {
        let all: Vec<u64> = self.entries.keys().copied().collect();
        for piece in pieces(&all) {
            match self.restore(copy, piece, stopped) {
                Err(Error::Memory { action: "read", .. }) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Takes for lifted those of this lifetime, whose bytes are clean. Returns their addresses.
    pub(super) fn take_laid(&mut self, lifetime: Lifetime) -> Vec<u64> {
        let laid = self.entries.iter_mut().filter(|(_, entry)| entry.laid && entry.lifetime == lifetime);
        let addresses: Vec<u64> = laid
            .map(|(&address, entry)| {
                entry.laid = false;
                address
            })
            .collect();
        self.laid -= addresses.len();
        addresses
    }

    /// Writes the original bytes of a piece where there is `int3` now.
    fn restore(&self, memory: &Memory, piece: &[u64], stopped: Option<i32>) -> Result<()> {
        let (first, mut bytes) = read_piece(memory, piece)?;
        let mut changed = false;
        for address in piece {
            let byte = &mut bytes[(address - first) as usize];
            if let Some(entry) = self.entries.get(address)
                && *byte == INT3
                && entry.original != INT3
            {
                *byte = entry.original;
                changed = true;
            }
        }
        if changed { memory.write(first, &bytes, stopped) } else { Ok(()) }
    }

    /// The meaning of a trap whose `int3` lies at `address`.
    pub(super) fn trapped(&self, memory: &Memory, address: u64) -> Trapped {
        match self.entries.get(&address) {
            None => Trapped::Foreign,
            Some(entry) if entry.laid => Trapped::Here(entry.lifetime),
            // An `int3` that is still there now is the program's own.
            Some(_) => {
                let mut byte = [0];
                match memory.read(address, &mut byte) {
                    Ok(()) if byte == [INT3] => Trapped::Foreign,
                    _ => Trapped::Gone,
                }
            }
        }
    }

    /// Puts the original bytes into `bytes`, which were read from `address` on.
    pub(super) fn hide(&self, address: u64, bytes: &mut [u8]) {
        for (at, entry) in self.entries.range(address..address.saturating_add(bytes.len() as u64)) {
            let byte = &mut bytes[(at - address) as usize];
            if entry.laid && *byte == INT3 {
                *byte = entry.original;
            }
        }
    }

    /// Forgets the entries in a range that the program has unmapped.
    pub(super) fn forget(&mut self, range: std::ops::Range<u64>) {
        let gone: Vec<u64> = self.entries.range(range).map(|(&address, _)| address).collect();
        for address in gone {
            if self.entries.remove(&address).is_some_and(|entry| entry.laid) {
                self.laid -= 1;
            }
        }
    }
}

fn pieces(addresses: &[u64]) -> impl Iterator<Item = &[u64]> {
    let mut rest = addresses;
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let mut last = first;
        let within = rest.iter().take_while(|&&address| {
            let near = address - last <= GAP && address - first < PIECE;
            last = address;
            near
        });
        let (piece, after) = rest.split_at(within.count());
        rest = after;
        Some(piece)
    })
}

fn read_piece(memory: &Memory, piece: &[u64]) -> Result<(u64, Vec<u8>)> {
    let (Some(&first), Some(&last)) = (piece.first(), piece.last()) else {
        return Err(Error::Memory {
            address: 0,
            length: 0,
            action: "read",
            source: io::ErrorKind::InvalidInput.into(),
        });
    };
    let mut bytes = vec![0; (last - first + 1) as usize];
    memory.read(first, &mut bytes)?;
    Ok((first, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_form_one_piece_and_distant_addresses_several() {
        let addresses = [0x1000, 0x1001, 0x1040, 0x1081, 0x9000];
        let all: Vec<&[u64]> = pieces(&addresses).collect();
        assert_eq!(all, [&[0x1000, 0x1001, 0x1040][..], &[0x1081], &[0x9000]]);
        let dense: Vec<u64> = (0..PIECE + 10).collect();
        let lengths: Vec<usize> = pieces(&dense).map(<[u64]>::len).collect();
        assert_eq!(lengths, [PIECE as usize, 10]);
        assert_eq!(pieces(&[]).count(), 0);
    }

    #[test]
    fn program_without_stopped_thread_is_patched_through_its_memory_file_alone() {
        // This process's own memory, as data.
        let own = Memory::of(std::process::id() as i32).expect("our own memory");
        let code: Vec<u8> = (0..200).collect();
        let start = code.as_ptr() as u64;
        let addresses: Vec<u64> = (0..200).step_by(3).map(|offset| start + offset).collect();
        let mut breakpoints = Breakpoints::default();
        let now = || {
            let mut bytes = vec![0; 200];
            own.read(start, &mut bytes).expect("our own memory");
            bytes
        };
        breakpoints.lay(&own, &addresses, Lifetime::OneShot, None).expect("writable");
        // Twice is the same.
        breakpoints.lay(&own, &addresses, Lifetime::Stays, None).expect("writable");
        assert_eq!(breakpoints.laid(), addresses.len());
        assert!(now().iter().step_by(3).all(|&byte| byte == INT3));
        let mut hidden = now();
        breakpoints.hide(start, &mut hidden);
        assert!(hidden.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at));
        assert_eq!(breakpoints.trapped(&own, start), Trapped::Here(Lifetime::Stays));
        assert_eq!(breakpoints.trapped(&own, start + 1), Trapped::Foreign);
        let laid = breakpoints.laid_within(start..start + 9);
        assert_eq!(laid, [0, 3, 6].map(|offset| (start + offset, Lifetime::Stays)));
        breakpoints.lift(&own, &addresses[..3], None).expect("writable");
        assert_eq!(breakpoints.trapped(&own, start), Trapped::Gone);
        breakpoints.clean(&own, None).expect("writable");
        assert!(now().iter().enumerate().all(|(at, &byte)| usize::from(byte) == at));
    }

    #[test]
    fn breakpoint_that_cannot_be_lifted_stays_laid() {
        let own = Memory::of(std::process::id() as i32).expect("our own memory");
        let code = [0x90u8; 8];
        let start = code.as_ptr() as u64;
        let mut breakpoints = Breakpoints::default();
        breakpoints.lay(&own, &[start], Lifetime::Stays, None).expect("writable");
        let error = breakpoints.lift(&Memory::read_only(), &[start], None).expect_err("it cannot be written");
        assert!(error.to_string().contains("written"), "{error}");
        assert_eq!(breakpoints.trapped(&own, start), Trapped::Here(Lifetime::Stays));
        assert_eq!(breakpoints.laid(), 1);
        breakpoints.lift(&own, &[start], None).expect("writable");
        assert_eq!((breakpoints.laid(), breakpoints.trapped(&own, start)), (0, Trapped::Gone));
    }

    #[test]
    fn laying_where_nothing_is_mapped_changes_nothing() {
        let own = Memory::of(std::process::id() as i32).expect("our own memory");
        let code = [0x90u8; 8];
        let start = code.as_ptr() as u64;
        let mut breakpoints = Breakpoints::default();
        let error = breakpoints.lay(&own, &[start, 1 << 50], Lifetime::OneShot, None).expect_err("unmapped");
        assert!(error.to_string().contains("0x4000000000000"), "{error}");
        assert_eq!(breakpoints.laid(), 0);
        let mut byte = [0];
        own.read(start, &mut byte).expect("our own memory");
        assert_eq!(byte, [0x90]);
        // A breakpoint that was laid before stays so, with its lifetime.
        breakpoints.lay(&own, &[start], Lifetime::Stays, None).expect("writable");
        let both = [start, start + 4, 1 << 50];
        breakpoints.lay(&own, &both, Lifetime::OneShot, None).expect_err("unmapped");
        assert_eq!(breakpoints.laid(), 1);
        assert_eq!(breakpoints.trapped(&own, start), Trapped::Here(Lifetime::Stays));
        assert_eq!(breakpoints.trapped(&own, start + 4), Trapped::Gone);
        own.read(start, &mut byte).expect("our own memory");
        assert_eq!(byte, [INT3]);
    }
}
