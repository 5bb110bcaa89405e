//! Writable code pages.
//!
//! Code is mapped readable and executable. [`Text::writable`] makes a region's pages writable,
//! too, and leaves them so until it is dropped: protecting them again after each breakpoint
//! would cost as much as three breakpoints.
//!
//! Several `Text`s can live at once, in the same pages even (two functions of different regions
//! may be neighbours). `PAGES` counts them for each page; a page is protected again with its
//! last.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard};

use super::patch;

const PAGE: usize = 4096;

/// The pages of live `Text`s: a page's address, and how many have it.
static PAGES: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

/// Why code could not be made writable, or protected again.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The range has no bytes.
    #[error("no code from {start:#x} to {end:#x}: the end must lie beyond the start")]
    Empty {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
    },
    /// Some of the range is not plain code, or was made writable by other code. Protecting it
    /// again as code would break its owner.
    #[error(
        "{address:#x} is mapped {found}, not r-xp: only private code that no other code made \
         writable can be patched"
    )]
    NotCode {
        /// The first address that is not.
        address: usize,
        /// The permissions there as `/proc/self/maps` shows them, or `nowhere`.
        found: String,
    },
    /// The memory map cannot be read.
    #[error("/proc/self/maps cannot be read: {0}")]
    Map(#[source] io::Error),
    /// The kernel refuses writable code.
    #[error(
        "the kernel refuses to make the code from {start:#x} to {end:#x} writable ({source}): \
         a policy forbids code that is writable and executable. Under SELinux allow execmod \
         (`setsebool -P selinuxuser_execmod 1`); under systemd set MemoryDenyWriteExecute=no; in \
         a sandbox, allow mprotect with PROT_WRITE|PROT_EXEC"
    )]
    Refused {
        /// First byte of the first page.
        start: usize,
        /// One past the last page.
        end: usize,
        /// The kernel's error.
        source: io::Error,
    },
    /// The code stays writable.
    #[error("the code from {start:#x} to {end:#x} stays writable: {source}")]
    Protect {
        /// First byte of the first page.
        start: usize,
        /// One past the last page.
        end: usize,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Code pages that are writable until drop.
#[derive(Debug)]
pub struct Text {
    /// The bytes that were asked for.
    start: usize,
    end: usize,
}

impl Text {
    /// Makes the pages that contain `start..end` writable. Their code stays runnable throughout.
    /// Other `Text`s may have some of the pages, too.
    ///
    /// # Errors
    ///
    /// If the range is empty, not all of it is code, code other than this crate's has made it
    /// writable, or the kernel refuses.
    ///
    /// # Safety
    ///
    /// Nothing is mapped or unmapped in the range while the `Text` lives.
    pub unsafe fn writable(start: usize, end: usize) -> Result<Self, TextError> {
        if end <= start {
            return Err(TextError::Empty { start, end });
        }
        let Some((first, last)) = pages_of(start, end) else {
            return Err(TextError::NotCode { address: end, found: "nowhere".into() });
        };
        let mut pages = lock();
        expect_code(first, last, &pages)?;
        change(first, last, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)
            .map_err(|source| TextError::Refused { start: first, end: last, source })?;
        for page in (first..last).step_by(PAGE) {
            *pages.entry(page).or_default() += 1;
        }
        patch::note_writable(first, last);
        Ok(Self { start, end })
    }

    /// Removes the breakpoints in `start..end` and makes the pages read-only again, as drop
    /// does, except that an error is returned. Pages that another `Text` has stay writable.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. The pages stay writable then.
    pub fn protect(self) -> Result<(), TextError> {
        let this = std::mem::ManuallyDrop::new(self);
        this.close()
    }

    fn close(&self) -> Result<(), TextError> {
        let mut pages = lock();
        patch::clear_within(self.start, self.end);
        let Some((first, last)) = pages_of(self.start, self.end) else { return Ok(()) };
        let mut result = Ok(());
        for page in (first..last).step_by(PAGE) {
            let texts = pages.get(&page).map_or(0, |texts| texts - 1);
            if texts != 0 {
                pages.insert(page, texts);
                continue;
            }
            pages.remove(&page);
            patch::clear_within(page, page + PAGE);
            let end = page + PAGE;
            if let Err(source) = change(page, end, libc::PROT_READ | libc::PROT_EXEC) {
                result = Err(TextError::Protect { start: page, end, source });
            }
        }
        result
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // Code that stays writable runs as before; `protect` returns the error to the caller.
        if let Err(error) = self.close() {
            eprintln!("sigstorm-inject: {error}");
        }
    }
}

/// The pages that contain `start..end`: the first page's address, and the end of the last.
fn pages_of(start: usize, end: usize) -> Option<(usize, usize)> {
    Some((start & !(PAGE - 1), end.checked_next_multiple_of(PAGE)?))
}

fn lock() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    // A thread that panicked with it has left the counts as they were before or after one page.
    PAGES.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Checks that all of `start..end` is private code, and writable only where `pages` says so.
fn expect_code(start: usize, end: usize, pages: &BTreeMap<usize, usize>) -> Result<(), TextError> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(TextError::Map)?;
    let mut next = start;
    for line in maps.lines() {
        let Some((from, to, permissions)) = parse_mapping(line) else {
            continue;
        };
        if to <= next {
            continue;
        }
        if from > next || next >= end {
            break;
        }
        let mut ours = (next..to.min(end)).step_by(PAGE);
        let refused = match permissions {
            "r-xp" => None,
            "rwxp" => ours.find(|page| !pages.contains_key(page)),
            _ => Some(next),
        };
        if let Some(address) = refused {
            return Err(TextError::NotCode { address, found: permissions.into() });
        }
        next = to;
    }
    if next < end {
        return Err(TextError::NotCode { address: next, found: "nowhere".into() });
    }
    Ok(())
}

fn parse_mapping(line: &str) -> Option<(usize, usize, &str)> {
    let mut words = line.split(' ');
    let (from, to) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(from)?, address(to)?, words.next()?))
}

fn change(start: usize, end: usize, protection: i32) -> io::Result<()> {
    // SAFETY: The pages are private code, as `expect_code` found, and stay so, as
    // `writable`'s caller promised; they remain readable and executable.
    let result = unsafe { libc::mprotect(start as *mut _, end - start, protection) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_parsed() {
        let line = "55d0c000-55d0d000 r-xp 00002000 fe:00 1234    /usr/bin/x y";
        assert_eq!(parse_mapping(line), Some((0x55d0_c000, 0x55d0_d000, "r-xp")));
        assert_eq!(parse_mapping("nonsense"), None);
    }

    #[test]
    fn a_function_is_mapped_as_code() {
        let here = mappings_are_parsed as fn() as usize;
        let (first, last) = pages_of(here, here + 1).expect("an address in the middle of memory");
        expect_code(first, last, &BTreeMap::new()).expect("a function is code");
    }
}
