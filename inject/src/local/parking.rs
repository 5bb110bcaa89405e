//! A place to wait for the baton inside a system call.
//!
//! A thread that waits at its seat of the [`Baton`](crate::Baton) does so in our code, on its
//! own stack. Some waits must be a system call of the *attacked* program, made by its own
//! instruction on the stack that it happens to be on. A parking place gives that program the
//! calls to make, and the others the means to end them.
//!
//! # The calls
//!
//! The program makes three, one right after the other:
//!
//! 1. [`Parking::block`]: from here on the signal waits at the thread's door.
//! 2. The one that passes the baton on: [`Baton::pass_call`](crate::Baton::pass_call) where the
//!    next waits at its seat, [`Parking::wake_call`] or [`Parking::interrupt_call`] where it is
//!    parked itself, too.
//! 3. [`Parking::wait`]: sleeps until the thread is woken, with the signal let in and no other.
//!    `EINTR` means that it came; then the call is made again.
//!
//! # Correctness
//!
//! T parks, U gets the baton.
//!
//! 1. U wakes T before T is asleep: what wakes is a count, so T's wait ends at once.
//! 2. U signals T before T is asleep: the signal is blocked until the wait's own mask lets it
//!    in, which the kernel does as it puts the thread to sleep. So it *always* arrives at the
//!    instruction after the wait's, with `EINTR`, however late T gets there.
//! 3. The handler that came so returns with the baton passed on again: T makes the wait again,
//!    and is where it was.
//! 4. A signal of another kind is for another thread, or waits: so each `EINTR` is ours.
//!
//! From 2. up to 3. and from the handler's end up to the next 3. the thread runs *without the
//! baton*, for a handful of instructions. They may read what nobody changes meanwhile, and
//! write registers alone. Whoever stops threads at instructions must not take one there for
//! its own ([`arm_for`](crate::arm_for)).

use std::cell::UnsafeCell;
use std::io;

use super::signal::{getpid, gettid, mask_call, mask_of};
use super::sys::{Call, die, syscall};

/// A thread's parking place.
#[derive(Debug)]
pub struct Parking {
    tid: i32,
    process: usize,
    signal: i32,
    /// What the thread waits for; the kernel writes to it while it does.
    poll: UnsafeCell<libc::pollfd>,
    /// The signal alone.
    blocked: u64,
    /// Every other.
    admitting: u64,
}

// SAFETY: `poll` is written by the kernel alone, for the parked thread; the others read its
// descriptor, which does not change.
unsafe impl Sync for Parking {}
// SAFETY: as above; nothing in it belongs to a thread's storage.
unsafe impl Send for Parking {}

/// What is added to the count to wake.
static ONE: u64 = 1;

/// What the signal's handler itself may run into: it runs with the wait's mask, and the kernel
/// ends a process that faults, or comes to a breakpoint, where that is blocked.
const FAULTS: [i32; 5] = [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

impl Parking {
    /// One for the calling thread, in which `signal` can be sent to it.
    pub fn new(signal: i32) -> io::Result<Parking> {
        let fail = io::Error::from_raw_os_error;
        let flags = (libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) as usize;
        // SAFETY: The call takes two numbers.
        let fd = unsafe { syscall(libc::SYS_eventfd2, [0, flags, 0, 0, 0, 0]) }.map_err(fail)?;
        Ok(Parking {
            tid: gettid(),
            process: getpid(),
            signal,
            poll: UnsafeCell::new(libc::pollfd { fd: fd as i32, events: libc::POLLIN, revents: 0 }),
            blocked: mask_of(signal),
            admitting: !FAULTS.iter().fold(mask_of(signal), |mask, &fault| mask | mask_of(fault)),
        })
    }

    fn fd(&self) -> usize {
        // SAFETY: The field does not change; the kernel writes another.
        unsafe { (&raw const (*self.poll.get()).fd).read() as usize }
    }

    /// The call after which the signal waits.
    pub fn block(&self) -> Call {
        mask_call(libc::SIG_BLOCK, &self.blocked)
    }

    /// The call that waits to be woken: more than zero then, `EINTR` after a signal.
    pub fn wait(&self) -> Call {
        let mask = &raw const self.admitting as usize;
        Call::new(libc::SYS_ppoll, [self.poll.get() as usize, 1, 0, mask, size_of::<u64>(), 0])
    }

    /// The call that wakes the thread.
    pub fn wake_call(&self) -> Call {
        Call::new(libc::SYS_write, [self.fd(), &raw const ONE as usize, size_of::<u64>(), 0, 0, 0])
    }

    /// The call that sends it the signal.
    pub fn interrupt_call(&self) -> Call {
        Call::new(libc::SYS_tgkill, [self.process, self.tid as usize, self.signal as usize, 0, 0, 0])
    }

    /// Wakes the thread: its wait ends, and the baton is its.
    pub fn wake(&self) {
        // SAFETY: It reads a static.
        if unsafe { self.wake_call().make() }.is_err() {
            die("waking a parked thread failed");
        }
    }

    /// Sends the thread the signal: its handler begins, and the baton is its.
    pub fn interrupt(&self) {
        // SAFETY: It touches no memory; what the handler does is its installer's promise.
        if unsafe { self.interrupt_call().make() }.is_err() {
            die("signalling a parked thread failed");
        }
    }

    /// For the thread that was woken, once it is back in its own code: nothing wakes it any
    /// more, and the signal comes to it at once.
    pub fn leave(&self) {
        let mut count = 0u64;
        // SAFETY: The kernel writes eight bytes to a live word. It does not wait.
        let read = unsafe { syscall(libc::SYS_read, [self.fd(), &raw mut count as usize, 8, 0, 0, 0]) };
        if (read, count) != (Ok(8), 1) {
            die("a parked thread left without being woken, or was woken twice");
        }
        self.admit();
    }

    /// For the thread itself: the signal comes to it at once.
    pub fn admit(&self) {
        // SAFETY: The mask outlives the call. The handler that may run is its installer's promise.
        if unsafe { mask_call(libc::SIG_UNBLOCK, &self.blocked).make() }.is_err() {
            die("a thread's signal mask cannot be changed");
        }
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        // SAFETY: The descriptor is ours, and nobody has it any more. A failure leaks it.
        let _ = unsafe { syscall(libc::SYS_close, [self.fd(), 0, 0, 0, 0, 0]) };
    }
}
