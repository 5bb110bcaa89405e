//! The context that a signal interrupted.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;

/// The interrupted context: the third argument of an `SA_SIGINFO` handler.
pub struct Context<'a> {
    raw: *mut libc::ucontext_t,
    frame: PhantomData<&'a mut libc::ucontext_t>,
}

impl Context<'_> {
    /// Wraps the third argument of a signal handler.
    ///
    /// # Safety
    ///
    /// `context` is that argument, it is not used after the handler returns, and no other code
    /// writes to it meanwhile.
    pub unsafe fn from_raw(context: *mut c_void) -> Self {
        Self { raw: context.cast(), frame: PhantomData }
    }

    /// The kernel's own record, for fields without an accessor here.
    pub fn as_raw(&self) -> *mut libc::ucontext_t {
        self.raw
    }

    /// The address of the interrupted instruction, which runs next.
    pub fn pc(&self) -> usize {
        self.register(libc::REG_RIP)
    }

    /// Makes the thread resume at `pc`.
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

    /// Returns whether the interrupted code has `signal` blocked.
    pub fn blocks(&self, signal: i32) -> bool {
        // SAFETY: `from_raw`'s caller promised a live frame. The kernel has written the mask's
        // first word, which contains all its signals.
        unsafe { libc::sigismember(&raw const (*self.raw).uc_sigmask, signal) == 1 }
    }

    /// Unblocks `signal` once the handler has returned, if the interrupted code had it blocked.
    /// A pending signal then arrives before the interrupted instruction.
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
