//! Signals: sending one to a thread, the stack it is handled on, and the
//! interrupted context.
//!
//! # Signal stacks
//!
//! A goroutine stack may be two kilobytes; a signal frame with this machine's
//! vector registers is twelve. So every thread that runs goroutines has a
//! [`SignalStack`], and *every* handler of the process must ask for it: one that
//! does not (libFuzzer installs eight) writes its frame onto the goroutine
//! stack, through its end, and into the neighbour.
//!
//! Somebody else may own a stack already: Rust's standard library gives each
//! thread one, AddressSanitizer gives each thread one and *unmaps whichever is
//! current* as the thread ends. So the previous stack is put back on drop.

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sys::{Call, syscall};

thread_local! {
    /// The calling thread's kernel id; zero before it was asked for.
    static TID: Cell<i32> = const { Cell::new(0) };
}

/// This process's id; zero before it was asked for.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

/// The calling thread's kernel id. The kernel is asked once a thread: a process that forks may not
/// have asked before it does.
#[inline]
pub fn gettid() -> i32 {
    if TID.get() == 0 {
        // SAFETY: The call takes nothing and touches nothing.
        TID.set(unsafe { syscall(libc::SYS_gettid, [0; 6]) }.unwrap_or(0) as i32);
    }
    TID.get()
}

/// This process's id, as the kernel takes it. It is asked once: a process that forks may not have
/// asked before it does.
#[inline]
pub(crate) fn getpid() -> usize {
    let known = PROCESS.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: The call takes nothing and touches nothing.
    let process = unsafe { syscall(libc::SYS_getpid, [0; 6]) }.unwrap_or(0);
    PROCESS.store(process, Ordering::Relaxed);
    process
}

/// Sends `signal` to the thread `tid` of this process.
#[inline]
pub fn tgkill(tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: The call touches no memory; an unknown thread or signal is an
    // error. What the signal's handler does is its installer's promise.
    unsafe { syscall(libc::SYS_tgkill, [getpid(), tid as usize, signal as usize, 0, 0, 0]) }
        .map(drop)
        .map_err(io::Error::from_raw_os_error)
}

/// A signal as the kernel's mask has it.
pub(crate) const fn mask_of(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// A system call that changes the calling thread's mask as `how` says.
pub(crate) fn mask_call(how: i32, mask: &u64) -> Call {
    let mask = ptr::from_ref(mask) as usize;
    Call::new(libc::SYS_rt_sigprocmask, [how as usize, mask, 0, size_of::<u64>(), 0, 0])
}

/// Keeps `errno` as it was: put one at the head of every signal handler.
#[derive(Debug)]
pub struct ErrnoGuard {
    saved: i32,
    /// `errno` is the thread's own.
    not_send: PhantomData<*const ()>,
}

impl ErrnoGuard {
    /// Remembers `errno` until drop.
    #[must_use = "it restores errno when it is dropped"]
    pub fn save() -> Self {
        // SAFETY: libc gives each thread a valid location.
        let saved = unsafe { *libc::__errno_location() };
        Self { saved, not_send: PhantomData }
    }
}

impl Drop for ErrnoGuard {
    fn drop(&mut self) {
        // SAFETY: libc gives each thread a valid location, and the guard cannot
        // have left its thread.
        unsafe { *libc::__errno_location() = self.saved };
    }
}

/// What a signal interrupted: the third argument of an `SA_SIGINFO` handler.
pub struct Context<'a> {
    raw: *mut libc::ucontext_t,
    frame: PhantomData<&'a mut libc::ucontext_t>,
}

impl Context<'_> {
    /// Wraps the third argument of a signal handler.
    ///
    /// # Safety
    ///
    /// `context` is that argument, it is not used after the handler returns,
    /// and nothing else writes to it meanwhile.
    pub unsafe fn from_raw(context: *mut c_void) -> Self {
        Self { raw: context.cast(), frame: PhantomData }
    }

    /// The kernel's own record, for what has no accessor here.
    pub fn as_raw(&self) -> *mut libc::ucontext_t {
        self.raw
    }

    /// The interrupted instruction: the one that runs next.
    pub fn pc(&self) -> usize {
        self.register(libc::REG_RIP)
    }

    /// Makes the thread go on at `pc`.
    ///
    /// # Safety
    ///
    /// The code at `pc` may be run with the interrupted registers and stack.
    pub unsafe fn set_pc(&mut self, pc: usize) {
        self.set_register(libc::REG_RIP, pc);
    }

    /// RSP.
    pub fn sp(&self) -> usize {
        self.register(libc::REG_RSP)
    }

    /// RBP.
    pub fn bp(&self) -> usize {
        self.register(libc::REG_RBP)
    }

    /// RAX.
    pub fn rax(&self) -> usize {
        self.register(libc::REG_RAX)
    }

    /// R14.
    pub fn r14(&self) -> usize {
        self.register(libc::REG_R14)
    }

    /// Whether the interrupted code has `signal` blocked.
    pub fn blocks(&self, signal: i32) -> bool {
        // SAFETY: `from_raw`'s caller promised a live frame. The kernel has written the mask's
        // first word, which is all that its signals need.
        unsafe { libc::sigismember(&raw const (*self.raw).uc_sigmask, signal) == 1 }
    }

    /// Lets `signal` in again once the handler has returned, if the interrupted code had it
    /// blocked: one that is pending then arrives before the interrupted instruction.
    pub fn admit(&mut self, signal: i32) {
        // SAFETY: `from_raw`'s caller promised a live frame. The kernel's mask is the first
        // word of the field, and a signal that exists has its bit there.
        unsafe { libc::sigdelset(&raw mut (*self.raw).uc_sigmask, signal) };
    }

    pub(crate) fn flags(&self) -> usize {
        self.register(libc::REG_EFL)
    }

    pub(crate) fn set_flags(&mut self, flags: usize) {
        self.set_register(libc::REG_EFL, flags);
    }

    fn register(&self, name: i32) -> usize {
        // SAFETY: `from_raw`'s caller promised a live frame; `name` is one of
        // libc's REG_ constants, which index `gregs`.
        unsafe { (*self.raw).uc_mcontext.gregs[name as usize] as usize }
    }

    fn set_register(&mut self, name: i32, value: usize) {
        // SAFETY: As in `register`; `&mut self` excludes our own readers.
        unsafe { (*self.raw).uc_mcontext.gregs[name as usize] = value as i64 };
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context {{ pc: {:#x}, sp: {:#x}, bp: {:#x} }}", self.pc(), self.sp(), self.bp())
    }
}

/// The size that [`SignalStack::install`] takes: an engine's own crash handler
/// symbolises on it.
pub const SIGNAL_STACK_SIZE: usize = 1 << 20;

const GUARD: usize = 4096;

/// The calling thread's signal stack, until drop.
///
/// ```text
///   top    bounds().end    first frame goes here
///    |
///   base   bounds().start
///   ----   one page that nobody may touch
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
    /// Maps a stack of [`SIGNAL_STACK_SIZE`] and makes it the calling thread's.
    pub fn install() -> io::Result<Self> {
        Self::install_sized(SIGNAL_STACK_SIZE)
    }

    /// As [`install`](Self::install), with `size` bytes, rounded up to pages.
    pub fn install_sized(size: usize) -> io::Result<Self> {
        let size = size
            .max(libc::MINSIGSTKSZ)
            .checked_next_multiple_of(GUARD)
            .filter(|size| *size <= isize::MAX as usize - GUARD)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: A new private mapping wherever the kernel likes.
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
            // SAFETY: The mapping was made above and nothing knows of it.
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
    /// Puts the previous stack back. Where that fails (somebody replaced ours
    /// meanwhile, or we are running on it) the mapping is left behind: a leak of
    /// address space is better than a signal handled on unmapped memory.
    fn drop(&mut self) {
        let ours = exchange(None).is_ok_and(|(base, _, _)| base == self.base);
        if ours && exchange(Some(self.previous)).is_ok() {
            // SAFETY: The mapping is ours, and the kernel no longer uses it.
            unsafe { libc::munmap((self.base - GUARD) as *mut c_void, self.size + GUARD) };
        }
    }
}

/// Sets the calling thread's signal stack (base, flags, size) if asked to, and
/// returns the one before.
fn exchange(new: Option<(usize, i32, usize)>) -> io::Result<(usize, i32, usize)> {
    let new = new.map(|(base, flags, size)| libc::stack_t {
        ss_sp: base as *mut c_void,
        ss_flags: flags,
        ss_size: size,
    });
    let mut old = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: Both records outlive the call. The new stack is either this
    // file's live mapping or the one that the kernel named before.
    let result = unsafe { libc::sigaltstack(new.as_ref().map_or(ptr::null(), ptr::from_ref), &mut old) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((old.ss_sp as usize, old.ss_flags, old.ss_size))
}

/// `struct sigaction` as the kernel has it. libc's hides the two real-time
/// signals that it keeps for itself, and a sanitizer's wrapper hides more.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Re-registers with `SA_ONSTACK` every handler of the process that lacks it,
/// and returns how many did. Call it at start, after the engines have installed
/// theirs, and before the first goroutine runs.
///
/// Reading a handler and writing it back are two steps: nobody else may install
/// handlers meanwhile.
pub fn handlers_on_signal_stack() -> io::Result<usize> {
    let mut changed = 0;
    for signal in 1..=64 {
        let mut now = KernelAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
        let pointer = &raw mut now as usize;
        // SAFETY: The kernel writes a record of this layout, with an 8-byte
        // mask as the last argument says.
        unsafe { syscall(libc::SYS_rt_sigaction, [signal, 0, pointer, 8, 0, 0]) }
            .map_err(io::Error::from_raw_os_error)?;
        let on_stack = libc::SA_ONSTACK as u64;
        if [libc::SIG_DFL, libc::SIG_IGN].contains(&now.handler) || now.flags & on_stack != 0 {
            continue;
        }
        let new = KernelAction { flags: now.flags | on_stack, ..now };
        let pointer = &raw const new as usize;
        // SAFETY: The kernel reads what it wrote, with one flag more. A handler
        // cannot tell the difference but by where its frame is.
        unsafe { syscall(libc::SYS_rt_sigaction, [signal, pointer, 0, 8, 0, 0]) }
            .map_err(io::Error::from_raw_os_error)?;
        changed += 1;
    }
    Ok(changed)
}
