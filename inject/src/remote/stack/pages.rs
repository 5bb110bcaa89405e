//! The memory that a walk reads: each page once.

use crate::remote::space::PAGE;
use crate::remote::tracer::Tracer;

use super::Lost;

/// A process's memory as a walk sees it.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    tracer: &'a Tracer,
    pid: i32,
    /// By address. A stack's frames lie in few pages, one after another.
    pages: Vec<(u64, Option<Box<[u8; PAGE as usize]>>)>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(tracer: &'a Tracer, pid: i32) -> Self {
        Self { tracer, pid, pages: Vec::new() }
    }

    fn page(&mut self, address: u64) -> Option<&[u8; PAGE as usize]> {
        let start = address & !(PAGE - 1);
        let known = self.pages.iter().rposition(|(page, _)| *page == start);
        let index = known.unwrap_or_else(|| {
            let mut bytes = Box::new([0; PAGE as usize]);
            let read = self.tracer.read(self.pid, start, &mut bytes[..]);
            self.pages.push((start, read.is_ok().then_some(bytes)));
            self.pages.len() - 1
        });
        self.pages[index].1.as_deref()
    }

    /// Fills `into` from `address` on; `None` if some of it is not mapped.
    pub(super) fn read(&mut self, address: u64, into: &mut [u8]) -> Option<()> {
        let mut done = 0;
        while done < into.len() {
            let at = address.checked_add(done as u64)?;
            let rest = &self.page(at)?[(at % PAGE) as usize..];
            let count = rest.len().min(into.len() - done);
            into[done..done + count].copy_from_slice(&rest[..count]);
            done += count;
        }
        Some(())
    }

    pub(super) fn word(&mut self, address: u64) -> Result<u64, Lost> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).ok_or(Lost::Unreadable { address })?;
        Ok(u64::from_le_bytes(bytes))
    }
}
