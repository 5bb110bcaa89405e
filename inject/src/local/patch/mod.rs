//! The owner of patched code bytes: only this module writes breakpoint bytes, and only this
//! module knows the byte that each one covers.
//!
//! # Book-keeping
//!
//! A patched byte is `0xCC` (`int3`) over an instruction's first byte. Two things patch:
//!
//! - **the breakpoint**: at most one, anywhere in writable code. `ADDRESS`, `ORIGINAL` and
//!   `OWNER` say where it is, what it covers and which thread it is for.
//! - **rungs** ([`rungs::Rungs`]): the boundaries of a ladder. Each ladder has its own, so
//!   ladders of several regions can be laid at once. At most one rung of all is *open*: the
//!   one on which the running thread stands.
//!
//! The breakpoint may lie on a laid rung. The byte then stays patched until neither needs it.
//!
//! | asked by | question | answer |
//! |---|---|---|
//! | the SIGTRAP handler | whose `int3` was at this address? | [`stop_at`] |
//! | a region | which bytes does this code have without patches? | [`restore_originals`] |
//! | a [`Text`](crate::Text) that ends | which patches lie in this range? | [`clear_within`] |
//!
//! # Correctness
//!
//! The record is written before the patch and cleared after its removal, so a trap or a signal
//! at any instruction in here finds a record that explains what is in memory:
//!
//! 1. before `ADDRESS` is stored: no breakpoint, byte original;
//! 2. `ADDRESS` stored, byte original still: clearing rewrites what is there;
//! 3. byte patched: set;
//! 4. byte restored, `ADDRESS` still set: as 2.
//!
//! A rung goes through the same states.
//!
//! Between threads the baton orders everything: only its holder changes patches. A thread that
//! has passed the baton on may still run a few instructions before it sleeps
//! ([`Parking`](crate::Parking)), and run into a breakpoint that is not its own. So a breakpoint
//! can be for one thread ([`set_breakpoint_for`]); any other thread waits until it is gone, as
//! if it had not been scheduled before.
//!
//! A, without the baton, asks about an address while B, which holds it, changes patches:
//!
//! 1. A traps at B's breakpoint; B clears it; A looks: no record, byte original. A runs the
//!    instruction again.
//! 2. A traps; B clears the breakpoint; A looks and finds no record; B sets it again at the
//!    same address; A reads `int3`. Taken together the two readings would mean an `int3` of the
//!    program. `WRITES` counts every byte written, so A sees that it has to look again.

use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicUsize, Ordering, compiler_fence};

use super::signal::gettid;
use super::sys::syscall;

pub(super) mod rungs;

/// `int3`.
pub(super) const INT3: u8 = 0xcc;

/// The breakpoint's address, or 0.
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
/// The byte that it covers.
static ORIGINAL: AtomicU8 = AtomicU8::new(0);
/// The thread that it is for, or 0 for any.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// How many code bytes were written so far, modulo its size.
static WRITES: AtomicUsize = AtomicUsize::new(0);
/// The ranges that were ever writable. Entries are added and never removed.
static WRITABLE: AtomicPtr<Range> = AtomicPtr::new(std::ptr::null_mut());

struct Range {
    start: usize,
    end: usize,
    next: *const Range,
}

/// The cause of an `int3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The breakpoint, which is gone now.
    Breakpoint,
    /// A rung, which is open now.
    Rung,
    /// A patch for another thread, or one that is gone by now.
    NotYet,
    /// Nothing of ours.
    Foreign,
}

/// Sets the breakpoint at `address`, for any thread. A breakpoint elsewhere is cleared.
///
/// # Safety
///
/// - `address` is an instruction's first byte, in the pages of a [`Text`](crate::Text) that
///   outlives the breakpoint.
/// - [`install_trap_handler`](crate::install_trap_handler) has been called, and only the
///   calling thread, or one that it passes the baton to, runs that code before
///   [`clear_breakpoint`].
/// - No other thread changes patches meanwhile.
pub unsafe fn set_breakpoint(address: usize) {
    // SAFETY: the caller's promise.
    unsafe { set_breakpoint_for(address, 0) }
}

/// Sets the breakpoint at `address`, for the thread with the kernel id `owner` (0: any). Any
/// other thread that reaches it waits until it is gone, so the owner must not wait for such a
/// thread.
///
/// # Safety
///
/// As for [`set_breakpoint`], except that threads without the baton may run that code, too.
pub unsafe fn set_breakpoint_for(address: usize, owner: i32) {
    clear_breakpoint();
    OWNER.store(owner, Ordering::Relaxed);
    let original = rungs::patched_at(address).map_or_else(|| read(address), |(rungs, at)| rungs.original(at));
    ORIGINAL.store(original, Ordering::Relaxed);
    ADDRESS.store(address, Ordering::Release);
    // SAFETY: The page is mapped and writable, as the caller promised.
    unsafe { write(address, INT3) };
}

/// Clears the breakpoint. Returns its address if there was one, which means that no thread has
/// hit it.
#[inline]
pub fn clear_breakpoint() -> Option<usize> {
    let address = breakpoint()?;
    clear(address);
    Some(address)
}

fn clear(address: usize) {
    if rungs::patched_at(address).is_none() {
        // SAFETY: `set_breakpoint`'s caller promised that the page is mapped and writable until
        // the breakpoint is gone. The byte is the one that was there.
        unsafe { write(address, ORIGINAL.load(Ordering::Relaxed)) };
    }
    ADDRESS.store(0, Ordering::Release);
}

/// The address of the breakpoint, if one is set.
#[inline]
pub fn breakpoint() -> Option<usize> {
    match ADDRESS.load(Ordering::Acquire) {
        0 => None,
        address => Some(address),
    }
}

/// For the trap handler: returns the cause of the `int3` at `address`, which the calling thread
/// has run. If it was the breakpoint or a rung for this thread, the byte is restored.
pub(super) fn stop_at(address: usize) -> Stop {
    loop {
        let writes = WRITES.load(Ordering::Acquire);
        let hit = breakpoint() == Some(address);
        if hit && is_for_another(&OWNER) {
            return Stop::NotYet;
        }
        let rung = rungs::patched_at(address);
        if rung.is_some_and(|(rungs, _)| is_for_another(rungs.owner())) {
            return Stop::NotYet;
        }
        if hit {
            clear(address);
        }
        if let Some((rungs, at)) = rung {
            rungs.step_onto(at);
        } else if hit {
            // The thread has left the rung that it stood on, if it stood on one.
            rungs::close_open();
        }
        match (hit, rung) {
            (true, _) => return Stop::Breakpoint,
            (false, Some(_)) => return Stop::Rung,
            _ if !was_writable(address) => return Stop::Foreign,
            _ if read(address) != INT3 => return Stop::NotYet,
            _ if WRITES.load(Ordering::Acquire) == writes => return Stop::Foreign,
            // Case 2.
            _ => {}
        }
    }
}

/// Waits until no patch for another thread is at `address`. The thread that the patch is for
/// runs on this core, and hits it or gives it up.
pub(super) fn wait_until_gone(address: usize) {
    let for_another = || {
        let rung = || rungs::patched_at(address).is_some_and(|(rungs, _)| is_for_another(rungs.owner()));
        (breakpoint() == Some(address) && is_for_another(&OWNER)) || rung()
    };
    while read(address) == INT3 && for_another() {
        // SAFETY: The call takes nothing and touches nothing. It cannot fail.
        let _ = unsafe { syscall(libc::SYS_sched_yield, [0; 6]) };
    }
}

/// Replaces, in a copy of the code from `start` on, each patch by the byte that it covers.
pub(super) fn restore_originals(start: usize, code: &mut [u8]) {
    let mut put = |address: usize, original: u8| {
        if let Some(byte) = address.checked_sub(start).and_then(|at| code.get_mut(at)) {
            *byte = original;
        }
    };
    rungs::for_each_patched(&mut put);
    if let Some(address) = breakpoint() {
        put(address, ORIGINAL.load(Ordering::Relaxed));
    }
}

/// Clears the breakpoint if it lies in this range, and every ladder that has a rung laid there.
pub(super) fn clear_within(start: usize, end: usize) {
    if breakpoint().is_some_and(|address| (start..end).contains(&address)) {
        clear_breakpoint();
    }
    rungs::clear_within(start, end);
}

/// Notes that the code in this range can be patched from now on. By one thread at a time.
pub(super) fn note_writable(start: usize, end: usize) {
    if ranges().any(|range| (range.start, range.end) == (start, end)) {
        return;
    }
    let next = WRITABLE.load(Ordering::Relaxed);
    // It is leaked: a thread may look at it at any time.
    WRITABLE.store(Box::into_raw(Box::new(Range { start, end, next })), Ordering::Release);
}

fn was_writable(address: usize) -> bool {
    ranges().any(|range| (range.start..range.end).contains(&address))
}

fn ranges() -> impl Iterator<Item = &'static Range> {
    // SAFETY: Null, or a range that `note_writable` leaked.
    let first = unsafe { WRITABLE.load(Ordering::Acquire).as_ref() };
    // SAFETY: As above: the ranges before were leaked, too.
    std::iter::successors(first, |range| unsafe { range.next.as_ref() })
}

fn is_for_another(owner: &AtomicI32) -> bool {
    let owner = owner.load(Ordering::Relaxed);
    owner != 0 && owner != gettid()
}

/// The byte at an address that is code, and readable therefore.
fn read(address: usize) -> u8 {
    // SAFETY: The callers' addresses are code: a thread has run the byte, or `set_breakpoint`'s
    // caller promised it. The access is volatile since the byte is no Rust object.
    unsafe { (address as *const u8).read_volatile() }
}

/// Writes one code byte. An instruction fetch sees the byte before or the byte after.
///
/// # Safety
///
/// The page is mapped and writable, and the calling thread holds the baton.
unsafe fn write(address: usize, byte: u8) {
    // Only the holder of the baton writes, so nothing is lost between the load and the store.
    WRITES.store(WRITES.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the caller's promise. Volatile as in `read`.
    unsafe { (address as *mut u8).write_volatile(byte) };
    compiler_fence(Ordering::SeqCst);
}
