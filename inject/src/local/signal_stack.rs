//! Signal stacks: the memory that a signal is handled on.
//!
//! A goroutine stack may be two kilobytes; a signal frame with this machine's vector registers
//! is twelve. So every thread that runs goroutines has a [`SignalStack`], and *every* handler of
//! the process must ask for it: a handler that does not (libFuzzer installs eight) writes its
//! frame onto the goroutine stack, through its end, and into its neighbour.
//!
//! A thread may have a signal stack already: Rust's standard library gives each thread one;
//! AddressSanitizer gives each thread one and *unmaps the current one* as the thread ends. So
//! the previous stack is put back on drop.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr;

use super::sys::syscall;

/// The size of the stack of [`SignalStack::install`], in bytes: a fuzzing engine's own crash
/// handler symbolises on it.
pub const SIGNAL_STACK_SIZE: usize = 1 << 20;

const GUARD: usize = 4096;

/// The calling thread's signal stack, until drop.
///
/// ```text
///   top    bounds().end    first frame goes here
///    |
///   base   bounds().start
///   ----   one page that cannot be touched
/// ```
#[derive(Debug)]
pub struct SignalStack {
    base: usize,
    size: usize,
    previous: (usize, i32, usize),
    /// A signal stack is the thread's own.
    not_send: PhantomData<*const ()>,
}

impl SignalStack {
    /// Maps a stack of [`SIGNAL_STACK_SIZE`] bytes and makes it the calling thread's.
    ///
    /// # Errors
    ///
    /// If there is no memory, or the thread is running on its signal stack.
    pub fn install() -> io::Result<Self> {
        Self::install_sized(SIGNAL_STACK_SIZE)
    }

    /// As [`install`](Self::install), with `size` bytes, rounded up to pages.
    ///
    /// # Errors
    ///
    /// As [`install`](Self::install); `ENOMEM` for a size that no address space has.
    pub fn install_sized(size: usize) -> io::Result<Self> {
        let size = size
            .max(libc::MINSIGSTKSZ)
            .checked_next_multiple_of(GUARD)
            .filter(|size| *size <= isize::MAX as usize - GUARD)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: A new private mapping at an address that the kernel chooses.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size + GUARD,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = mapping as usize + GUARD;
        let unmap = |error: io::Error| {
            // SAFETY: The mapping was made above, and no other code knows of it.
            unsafe { libc::munmap(mapping, size + GUARD) };
            error
        };
        // SAFETY: `base` and `size` lie within the mapping made above.
        if unsafe { libc::mprotect(base as *mut c_void, size, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(unmap(io::Error::last_os_error()));
        }
        match exchange(Some((base, 0, size))) {
            Ok(previous) => Ok(Self { base, size, previous, not_send: PhantomData }),
            Err(error) => Err(unmap(error)),
        }
    }

    /// The stack's addresses, without the guard.
    pub fn bounds(&self) -> Range<usize> {
        self.base..self.base + self.size
    }
}

impl Drop for SignalStack {
    /// Puts the previous stack back. If that fails (other code has replaced ours meanwhile, or
    /// the thread is running on it) the mapping is left behind: a leak of address space is
    /// better than a signal handled on unmapped memory.
    fn drop(&mut self) {
        let ours = exchange(None).is_ok_and(|(base, _, _)| base == self.base);
        if ours && exchange(Some(self.previous)).is_ok() {
            // SAFETY: The mapping is ours, and the kernel no longer uses it.
            unsafe { libc::munmap((self.base - GUARD) as *mut c_void, self.size + GUARD) };
        }
    }
}

/// Sets the calling thread's signal stack (base, flags, size) unless `new` is `None`, and
/// returns the one before.
fn exchange(new: Option<(usize, i32, usize)>) -> io::Result<(usize, i32, usize)> {
    let new = new.map(|(base, flags, size)| libc::stack_t {
        ss_sp: base as *mut c_void,
        ss_flags: flags,
        ss_size: size,
    });
    let mut old = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: Both records outlive the call. The new stack is either this file's live mapping
    // or the one that the kernel named before.
    let result = unsafe { libc::sigaltstack(new.as_ref().map_or(ptr::null(), ptr::from_ref), &mut old) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((old.ss_sp as usize, old.ss_flags, old.ss_size))
}

/// The kernel's `struct sigaction`. libc's wrapper hides the two real-time signals that libc
/// uses itself, and a sanitizer's wrapper hides more.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Re-registers with `SA_ONSTACK` every handler of the process that lacks it, and returns how
/// many did. Call it at start, after fuzzing engines have installed their handlers, and before
/// the first goroutine runs.
///
/// Reading a handler and writing it back are two steps: no other thread may install handlers
/// meanwhile.
///
/// # Errors
///
/// If the kernel refuses to tell or to change a handler.
pub fn handlers_on_signal_stack() -> io::Result<usize> {
    let mut changed = 0;
    for signal in 1..=64 {
        let mut now = KernelAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
        let pointer = &raw mut now as usize;
        // SAFETY: The kernel writes a record of this layout, with an 8-byte mask as the last
        // argument says.
        unsafe { syscall(libc::SYS_rt_sigaction, [signal, 0, pointer, 8, 0, 0]) }
            .map_err(io::Error::from_raw_os_error)?;
        let on_stack = libc::SA_ONSTACK as u64;
        if [libc::SIG_DFL, libc::SIG_IGN].contains(&now.handler) || now.flags & on_stack != 0 {
            continue;
        }
        let new = KernelAction { flags: now.flags | on_stack, ..now };
        let pointer = &raw const new as usize;
        // SAFETY: The kernel reads the record that it wrote, with one flag more. The handler
        // sees no difference except where its frame is.
        unsafe { syscall(libc::SYS_rt_sigaction, [signal, pointer, 0, 8, 0, 0]) }
            .map_err(io::Error::from_raw_os_error)?;
        changed += 1;
    }
    Ok(changed)
}
