//! A place to wait for the baton inside a system call.
//!
//! A thread that waits at its slot of the [`Baton`](crate::Baton) does so in our code, on its
//! own stack. Some waits must be a system call of the *attacked* program, made by that program's
//! own instruction on whatever stack it runs on. A parking place gives the program the system
//! calls to make, and other threads the means to end them.
//!
//! # The calls
//!
//! The program makes three, one right after the other:
//!
//! 1. [`Parking::block_call`]: from here on the signal is blocked.
//! 2. The call that passes the baton on: [`Baton::pass_call`](crate::Baton::pass_call) if the next
//!    thread waits at its slot, [`Parking::wake_call`] or [`Parking::interrupt_call`] if it is
//!    parked, too.
//! 3. [`Parking::wait_call`]: sleeps until the thread is woken, with the signal let in and no
//!    other. `EINTR` means that the signal arrived; then the call is made again.
//!
//! # Correctness
//!
//! T parks, U gets the baton.
//!
//! 1. U wakes T before T is asleep: waking adds to a count, so T's wait ends at once.
//! 2. U signals T before T is asleep: the signal is blocked until the wait's own mask lets it
//!    in, which the kernel does as it puts the thread to sleep. So the signal *always* arrives at
//!    the instruction after the wait, with `EINTR`, however late T gets there.
//! 3. The signal's handler returns with the baton passed on again: T makes the wait again, as
//!    before.
//! 4. A signal of another kind goes to another thread, or stays pending: so each `EINTR` is ours.
//!
//! From 2. up to 3. and from the handler's end up to the next 3. the thread runs *without the
//! baton*, for a handful of instructions. They may read memory that no thread changes meanwhile,
//! and write registers only. A breakpoint there must be for the thread that it is to stop
//! ([`set_breakpoint_for`](crate::set_breakpoint_for)).

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
    /// The descriptor that the thread waits for; the kernel writes to it meanwhile.
    poll: UnsafeCell<libc::pollfd>,
    /// A mask of the signal alone.
    blocked: u64,
    /// A mask of every other signal.
    admitting: u64,
}

// SAFETY: Only the kernel writes `poll`, for the parked thread; other threads read its
// descriptor, which does not change.
unsafe impl Sync for Parking {}
// SAFETY: As above; no field belongs to a thread's storage.
unsafe impl Send for Parking {}

/// The number that waking adds to the count.
static ONE: u64 = 1;

/// The signals of faults and breakpoints in the signal's handler. The handler runs with the
/// wait's mask, and the kernel kills a process that faults while the fault's signal is blocked.
const FAULTS: [i32; 5] = [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

impl Parking {
    /// A parking place for the calling thread, in which `signal` can be sent to it.
    ///
    /// # Errors
    ///
    /// If the kernel has no descriptor left.
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
        // SAFETY: The field does not change; the kernel writes another field.
        unsafe { (&raw const (*self.poll.get()).fd).read() as usize }
    }

    /// The call that blocks the signal.
    pub fn block_call(&self) -> Call {
        mask_call(libc::SIG_BLOCK, &self.blocked)
    }

    /// The call that waits until the thread is woken. Its result is more than zero then, and
    /// `EINTR` after the signal.
    pub fn wait_call(&self) -> Call {
        let mask = &raw const self.admitting as usize;
        Call::new(libc::SYS_ppoll, [self.poll.get() as usize, 1, 0, mask, size_of::<u64>(), 0])
    }

    /// The call that wakes the thread.
    pub fn wake_call(&self) -> Call {
        Call::new(libc::SYS_write, [self.fd(), &raw const ONE as usize, size_of::<u64>(), 0, 0, 0])
    }

    /// The call that sends the thread the signal.
    pub fn interrupt_call(&self) -> Call {
        Call::new(libc::SYS_tgkill, [self.process, self.tid as usize, self.signal as usize, 0, 0, 0])
    }

    /// Wakes the thread: its wait ends, and it has the baton.
    pub fn wake(&self) {
        // SAFETY: The call reads a static.
        if unsafe { self.wake_call().make() }.is_err() {
            die("waking a parked thread failed");
        }
    }

    /// Sends the thread the signal: the signal's handler begins, and the thread has the baton.
    pub fn interrupt(&self) {
        // SAFETY: The call touches no memory; the handler's effects are its installer's promise.
        if unsafe { self.interrupt_call().make() }.is_err() {
            die("signalling a parked thread failed");
        }
    }

    /// Ends parking, called by the woken thread once it is back in its own code: takes the wake-up
    /// out of the count and unblocks the signal.
    pub fn leave(&self) {
        let mut count = 0u64;
        // SAFETY: The kernel writes eight bytes to a live word, and does not wait.
        let read = unsafe { syscall(libc::SYS_read, [self.fd(), &raw mut count as usize, 8, 0, 0, 0]) };
        if (read, count) != (Ok(8), 1) {
            die("a parked thread left without being woken, or was woken twice");
        }
        self.admit();
    }

    /// Unblocks the signal, called by the parking place's own thread.
    pub fn admit(&self) {
        // SAFETY: The mask outlives the call. The effects of the handler that may run are its
        // installer's promise.
        if unsafe { mask_call(libc::SIG_UNBLOCK, &self.blocked).make() }.is_err() {
            die("a thread's signal mask cannot be changed");
        }
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        // SAFETY: The descriptor is ours, and no other code has it any more. A failure leaks it.
        let _ = unsafe { syscall(libc::SYS_close, [self.fd(), 0, 0, 0, 0, 0]) };
    }
}
