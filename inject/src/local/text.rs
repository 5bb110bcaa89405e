//! Writable code, and the one breakpoint in it.
//!
//! # Book-keeping
//!
//! Code is mapped readable and executable. [`Text::writable`] adds *writable* to
//! a region's pages and leaves it on: taking it away again after each patch costs
//! as much as three breakpoints. A breakpoint is the byte `0xCC` over an
//! instruction's first; at most one exists, and `ADDRESS` and `ORIGINAL` say
//! where and what was there.
//!
//! # Correctness
//!
//! The pair is written before the patch and cleared after its removal, so a
//! trap or a signal at any instruction of [`arm`] or [`disarm`] finds a pair that
//! explains what is in memory:
//!
//! 1. before `ADDRESS` is stored: nothing armed, byte original;
//! 2. `ADDRESS` stored, byte original still: `disarm` rewrites what is there;
//! 3. byte patched: armed;
//! 4. byte restored, `ADDRESS` still set: as 2.
//!
//! Between threads the baton orders everything: who arms holds it. A thread that has passed
//! it on may have a few instructions to run before it sleeps ([`Parking`](crate::Parking)),
//! and come to a breakpoint there that is not its own. So a breakpoint says whom it is for
//! ([`arm_for`]), and anybody else waits until it is gone, as if not scheduled before.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering, compiler_fence};

use super::signal::gettid;
use super::sys::syscall;

/// `int3`.
pub(crate) const BREAKPOINT: u8 = 0xcc;

const PAGE: usize = 4096;

/// The armed breakpoint's address, or 0.
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
/// What was there.
static ORIGINAL: AtomicU8 = AtomicU8::new(0);
/// The thread that it is for, or 0 for whoever comes.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// The pages that were made writable last: the first and one past the last.
static PAGES: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

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
    /// Some of the range is not plain code. Protecting it again as code would
    /// break whoever owns it.
    #[error(
        "{address:#x} is mapped {found}, not r-xp: only private code that nobody made \
         writable before can be patched"
    )]
    NotCode {
        /// The first address that is not.
        address: usize,
        /// Its permissions as `/proc/self/maps` shows them, or `nowhere`.
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
        /// What the kernel said.
        source: io::Error,
    },
    /// The code stays writable.
    #[error("the code from {start:#x} to {end:#x} stays writable: {source}")]
    Protect {
        /// First byte of the first page.
        start: usize,
        /// One past the last page.
        end: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Code pages that are writable until drop.
#[derive(Debug)]
pub struct Text {
    start: usize,
    end: usize,
}

impl Text {
    /// Makes the pages that `start..end` touches writable. Their other bytes
    /// stay runnable throughout. Pages that are writable already (those of
    /// another live `Text`) are refused.
    ///
    /// # Safety
    ///
    /// Nobody maps or unmaps anything in the range while the `Text` lives.
    pub unsafe fn writable(start: usize, end: usize) -> Result<Self, TextError> {
        if end <= start {
            return Err(TextError::Empty { start, end });
        }
        let first = start & !(PAGE - 1);
        let Some(last) = end.checked_next_multiple_of(PAGE) else {
            return Err(TextError::NotCode { address: end, found: "nowhere".into() });
        };
        expect_code(first, last)?;
        change(first, last, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)
            .map_err(|source| TextError::Refused { start: first, end: last, source })?;
        PAGES[0].store(first, Ordering::Relaxed);
        PAGES[1].store(last, Ordering::Relaxed);
        Ok(Self { start: first, end: last })
    }

    /// Removes what breakpoints are in these pages and makes them read-only again, as
    /// drop does, and says whether it worked.
    pub fn protect(self) -> Result<(), TextError> {
        let this = std::mem::ManuallyDrop::new(self);
        this.close()
    }

    fn close(&self) -> Result<(), TextError> {
        if armed().is_some_and(|address| (self.start..self.end).contains(&address)) {
            disarm();
        }
        super::ladder::disarm_within(self.start, self.end);
        change(self.start, self.end, libc::PROT_READ | libc::PROT_EXEC).map_err(|source| TextError::Protect {
            start: self.start,
            end: self.end,
            source,
        })
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // Code that stays writable runs as before; `protect` is for who cares.
        if let Err(error) = self.close() {
            eprintln!("sigstorm-inject: {error}");
        }
    }
}

/// Checks that all of `start..end` is private code and not writable yet.
fn expect_code(start: usize, end: usize) -> Result<(), TextError> {
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
        if permissions != "r-xp" {
            return Err(TextError::NotCode { address: next, found: permissions.into() });
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
    // SAFETY: The pages are private code, as `expect_code` saw, and stay so, as
    // `writable`'s caller promised; they remain readable and executable.
    let result = unsafe { libc::mprotect(start as *mut _, end - start, protection) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Arms the breakpoint at `address`, for whoever comes there. One that is armed elsewhere
/// is removed.
///
/// # Safety
///
/// - `address` is an instruction's first byte, in the pages of a [`Text`] that
///   outlives the breakpoint.
/// - [`install`](crate::install) has been called, and only the calling thread,
///   or one that it passes the baton to, runs that code before [`disarm`].
/// - No other thread is in `arm` or `disarm`.
pub unsafe fn arm(address: usize) {
    // SAFETY: the caller's promise.
    unsafe { arm_for(address, 0) }
}

/// As [`arm`], for the thread `owner` alone: any other that comes there waits until it is
/// gone. So it must not be one that the owner waits for.
///
/// # Safety
///
/// As for [`arm`], but that threads without the baton may come there, too.
pub unsafe fn arm_for(address: usize, owner: i32) {
    disarm();
    OWNER.store(owner, Ordering::Relaxed);
    let byte = address as *mut u8;
    // SAFETY: The page is mapped and writable, as the caller promised. The
    // access is volatile as the byte is code and no Rust object.
    ORIGINAL.store(unsafe { byte.read_volatile() }, Ordering::Relaxed);
    ADDRESS.store(address, Ordering::Release);
    compiler_fence(Ordering::SeqCst);
    // SAFETY: As above. One byte is written at once, so an instruction fetch
    // sees the old instruction or the breakpoint.
    unsafe { byte.write_volatile(BREAKPOINT) };
    compiler_fence(Ordering::SeqCst);
}

/// Removes the breakpoint if one is armed, and returns where it was: it was not
/// hit.
pub fn disarm() -> Option<usize> {
    let address = armed()?;
    compiler_fence(Ordering::SeqCst);
    // SAFETY: `arm`'s caller promised that the page is mapped and writable until
    // the breakpoint is gone. The byte is the one that was there.
    unsafe { (address as *mut u8).write_volatile(ORIGINAL.load(Ordering::Relaxed)) };
    compiler_fence(Ordering::SeqCst);
    ADDRESS.store(0, Ordering::Release);
    Some(address)
}

/// Where the breakpoint is, if one is armed.
pub fn armed() -> Option<usize> {
    match ADDRESS.load(Ordering::Acquire) {
        0 => None,
        address => Some(address),
    }
}

/// Says whom what is armed now is for; 0 for whoever comes.
pub(crate) fn set_owner(owner: i32) {
    OWNER.store(owner, Ordering::Relaxed);
}

fn is_for_another() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner != 0 && owner != gettid()
}

/// Whether the breakpoint is at `address`, and for the calling thread.
pub(crate) fn is_mine(address: usize) -> bool {
    armed() == Some(address) && !is_for_another()
}

/// Whether a trap at `address` was that of a breakpoint for another thread, or of one that
/// is gone by now.
pub(crate) fn is_anothers(address: usize) -> bool {
    let [first, last] = &PAGES;
    let patched = first.load(Ordering::Relaxed) <= address && address < last.load(Ordering::Relaxed);
    let ours = || armed() == Some(address) || super::ladder::covers(address);
    patched && (!has_breakpoint(address) || (ours() && is_for_another()))
}

/// Waits until no breakpoint for another thread is at `address`. The thread that it is for
/// runs, on this core, and comes to it or gives up.
pub(crate) fn wait_until_gone(address: usize) {
    while has_breakpoint(address) && is_for_another() {
        // SAFETY: The call takes nothing and touches nothing. It cannot fail.
        let _ = unsafe { syscall(libc::SYS_sched_yield, [0; 6]) };
    }
}

fn has_breakpoint(address: usize) -> bool {
    // SAFETY: A thread has run the byte, so it is code, and readable. It is no Rust object.
    unsafe { (address as *const u8).read_volatile() == BREAKPOINT }
}

/// Where the breakpoint is and what it covers.
pub(crate) fn covered() -> Option<(usize, u8)> {
    armed().map(|address| (address, ORIGINAL.load(Ordering::Relaxed)))
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
    fn this_function_is_code() {
        let here = mappings_are_parsed as fn() as usize;
        expect_code(here, here + 1).expect("a function is code");
    }
}
