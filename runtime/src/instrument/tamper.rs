//! Tampering: changes to the runtime's state behind its back, to see whether an oracle notices.
//!
//! A planted [defect](super::defect) is a mistake that somebody could make, and it lies in the code. A
//! change made here is the *consequence* of a mistake, whatever the mistake was: a lock that nobody
//! gives back, a sample that was altered, a request that got lost. So each check of an oracle can be
//! shown to fire, and to be the one that fires.
//!
//! Nothing in the runtime calls this. All of it is unsafe for one reason: the runtime relies on what is
//! changed here.
//!
//! # Safety of every function in this file
//!
//! The process is there for the test alone and ends with the violation that follows. The calling
//! thread stands at a scheduling point or in a trap handler, and no other thread touches at the
//! same instant the words that the function changes, unless these are atomic.

use core::sync::atomic::Ordering;

use crate::arch;
use crate::gc::phase::Phase;
use crate::profiler::buffer::Record;
use crate::profiler::handler;
use crate::profiler::machines::Profiler;
use crate::profiler::sample::Sample;
use crate::profiler::trace_buffer::Event;
use crate::sched::defers::{Defer, MAX_DEFERS, MAX_PANICS, Panic};
use crate::sched::g::G;
use crate::sched::m::M;
use crate::sched::runtime::Runtime;
use crate::stack::barrier_list::Barriers;
use crate::sync::word::{peek, poke};
use crate::unwind::func_id::FuncId;
use crate::unwind::rows::Table;

/// Changes the SP delta of the row at `pc`.
///
/// # Safety
/// See [`tamper`](self). No walk is under way.
///
/// # Panics
/// If `pc` has no row.
pub unsafe fn corrupt_row(pc: usize, delta_xor: u16) {
    let table = Table::get();
    assert!(!table.row(pc).is_none(), "no row to corrupt");
    // SAFETY: in bounds as just checked; leaked memory of that module, which no walk reads now (caller).
    unsafe { (*table.find(pc).cast_mut()).delta ^= u32::from(delta_xor) };
}

/// Says of the row at `pc` that it is another function's. Walks are as before.
///
/// # Safety
/// See [`tamper`](self).
///
/// # Panics
/// If `pc` has no row.
pub unsafe fn rename_row(pc: usize, function: FuncId) {
    let table = Table::get();
    assert!(!table.row(pc).is_none(), "no row to rename");
    // SAFETY: a row, as just checked; no longer relied on (caller).
    let info = unsafe { &mut (*table.find(pc).cast_mut()).info };
    *info = *info & !0xff | u32::from(function.code());
}

// -- barriers -----------------------------------------------------------------------------

impl Barriers {
    /// Adds an entry.
    ///
    /// # Safety
    /// See [`tamper`](self). The goroutine has a stack and is stopped.
    ///
    /// # Panics
    /// If there is no room for an entry.
    pub unsafe fn forge(&self, slot: usize, pc: usize) {
        let index = self.len();
        assert!(index < self.capacity.get(), "no room to forge an entry");
        // SAFETY: within the room for entries as just checked; no longer relied on (caller).
        unsafe {
            poke(self.address(index), slot);
            poke(self.address(index) + 8, pc);
        }
        self.len.set(index + 1);
    }

    /// Pretends that there is room for this many entries only.
    ///
    /// # Safety
    /// As for [`Barriers::forge`].
    ///
    /// # Panics
    /// If there is less room than that.
    pub unsafe fn limit(&self, capacity: usize) {
        assert!(capacity <= self.capacity.get(), "there is no such room");
        self.capacity.set(capacity);
    }

    /// Overwrites the return address of entry `index`.
    ///
    /// # Safety
    /// As for [`Barriers::forge`].
    ///
    /// # Panics
    /// If the list has no such entry.
    pub unsafe fn corrupt(&self, index: usize, pc: usize) {
        assert!(index < self.len(), "no entry to corrupt");
        // SAFETY: within the list as just checked; no longer relied on (caller).
        unsafe { poke(self.address(index) + 8, pc) };
    }

    /// Puts every return address back that was not hit, and empties the list, as if no barrier had been
    /// laid.
    ///
    /// # Safety
    /// As for [`Barriers::forge`].
    pub unsafe fn take_away(&self) {
        for index in self.position()..self.len() {
            if let Some(entry) = self.entry(index) {
                // SAFETY: an entry's slot is a return slot of the goroutine's stack (caller).
                unsafe { poke(entry.slot, entry.pc) };
            }
        }
        self.clear();
    }

    /// Puts the next return address back and leaves the entry: the barrier is lost. Returns whether there was
    /// one.
    ///
    /// # Safety
    /// As for [`Barriers::forge`].
    pub unsafe fn lose_next(&self) -> bool {
        let next = self.entry(self.position());
        // SAFETY: as in `take_away`.
        next.inspect(|entry| unsafe { poke(entry.slot, entry.pc) }).is_some()
    }

    /// Skips the next entry, as if its barrier had been hit.
    ///
    /// # Safety
    /// As for [`Barriers::forge`].
    pub unsafe fn skip_next(&self) {
        self.position.set(self.position() + 1);
    }

    /// Pretends that the list has this many entries.
    ///
    /// # Safety
    /// As for [`Barriers::forge`].
    pub unsafe fn pretend_len(&self, len: usize) {
        self.len.set(len);
    }
}

// -- goroutines ---------------------------------------------------------------------------

/// Goroutines, as tests change them.
impl G {
    /// Pretends that it was scanned in this cycle.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_scanned(&self) {
        self.set_scan_done(true);
    }

    /// Forgets that it was asked to scan itself.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn forget_scan_request(&self) {
        self.cancel_scan_request();
    }

    /// Forgets that it was asked to let its machine go.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn forget_yield_request(&self) {
        self.preempt_yield.store(false, Ordering::SeqCst);
    }

    /// Asks it to let its machine go, and tells nobody.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn ask_to_yield(&self) {
        self.request_yield();
    }

    /// Raises its guard to the top of its stack: every prologue finds too little room.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn raise_guard(&self) {
        self.guard.set(self.stack.top.get());
    }

    /// Pretends that its status is this one.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_status(&self, status: u32) {
        self.status.set(status);
    }

    /// Makes its lock word one that names no operation: it is not free, and nobody holds it.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn jam_lock(&self) {
        self.lock.jam();
    }

    /// Returns the address of slot `slot` of the frame `up` levels above the innermost; none where there is
    /// no such frame.
    ///
    /// # Safety
    /// See [`tamper`](self). The goroutine is off its stack.
    pub unsafe fn slot_address(&self, up: usize, slot: usize) -> Option<usize> {
        let mut bp = self.sched.bp.get();
        for _ in 0..up {
            // SAFETY: the frame pointer of a live frame of a goroutine off its stack (caller).
            bp = if bp == 0 { 0 } else { unsafe { peek(bp) } };
        }
        (self.stack.contains(bp) && !self.transitions.is_stub(bp)).then(|| bp - 8 * (slot + 1))
    }

    /// Returns the address of the innermost frame's return slot; none in the outermost frame, and where a
    /// barrier lies over it.
    ///
    /// # Safety
    /// See [`tamper`](self). The goroutine is off its stack, and its innermost frame asks.
    pub unsafe fn return_slot(&self) -> Option<usize> {
        let slot = self.sched.bp.get() + 8;
        // SAFETY: a return slot of a live frame of a goroutine off its stack (caller).
        let plain = || unsafe { peek(slot) } != arch::trampoline_address();
        (self.stack.contains(slot) && slot < self.stack.top.get() && plain()).then_some(slot)
    }

    /// Returns how many calls it has deferred, and in how many panics it is.
    ///
    /// # Safety
    /// See [`tamper`](self). The calling thread runs it.
    pub unsafe fn deferred_and_panicking(&self) -> (usize, usize) {
        // SAFETY: the owner asks, and keeps nothing (caller).
        let unwinding = unsafe { self.unwinding() };
        (unwinding.deferred, unwinding.panicking)
    }

    /// Forgets the calls that it has deferred.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn forget_defers(&self) {
        // SAFETY: no longer relied on (caller).
        unsafe { self.unwinding() }.deferred = 0;
    }

    /// Pretends that it has deferred a call.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn leave_defer(&self) {
        // SAFETY: no longer relied on (caller).
        unsafe { self.unwinding() }.deferred = 1;
    }

    /// Pretends that it has deferred as many calls as there is room for, none of them in a frame of its own.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn fill_defers(&self) {
        // SAFETY: no longer relied on (caller).
        let unwinding = unsafe { self.unwinding() };
        unwinding.defers = [Defer { frame: 0, function: FuncId::Tiny, started: false }; MAX_DEFERS];
        unwinding.deferred = MAX_DEFERS;
    }

    /// Pretends that it is in as many panics as there is room for.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn fill_panics(&self) {
        // SAFETY: no longer relied on (caller).
        let unwinding = unsafe { self.unwinding() };
        unwinding.panics = [Panic { frame: 0, exits: false, running: false, recovered: false }; MAX_PANICS];
        unwinding.panicking = MAX_PANICS;
    }

    /// Pretends that its innermost panic has recovered, if that has a deferred call under way.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_recovered(&self) {
        // SAFETY: no longer relied on (caller).
        let unwinding = unsafe { self.unwinding() };
        let panicking = unwinding.panicking;
        if let Some(panic) = unwinding.panics[..panicking].last_mut().filter(|panic| panic.running) {
            panic.recovered = true;
        }
    }
}

/// Writes a word of a stack.
///
/// # Safety
/// See [`tamper`](self). It is a word of a goroutine's stack.
pub unsafe fn write(address: usize, value: usize) {
    // SAFETY: a word of a stack (caller).
    unsafe { poke(address, value) };
}

/// Reads a word of a stack.
///
/// # Safety
/// See [`tamper`](self). It is a word of a goroutine's stack.
pub unsafe fn read(address: usize) -> usize {
    // SAFETY: a word of a stack (caller).
    unsafe { peek(address) }
}

// -- machines -----------------------------------------------------------------------------

/// Machines, as tests change them.
impl M {
    /// Makes the calling thread forget its machine.
    pub fn forget() {
        M::set_of_thread(None);
    }

    /// Makes the calling thread this machine's, as its own thread is.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_of_thread(&'static self) {
        M::set_of_thread(Some(self));
    }

    /// Pretends that it has this goroutine.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_current(&self, g: Option<&'static G>) {
        self.set_current(g);
    }

    /// Pretends that it holds so many stack locks.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_locks(&self, locks: usize) {
        self.locks.set(locks);
    }

    /// Pretends that it is in so many foreign calls.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_foreign_calls(&self, calls: usize) {
        self.foreign_calls.set(calls);
    }

    /// Changes the sample of its handler.
    ///
    /// # Safety
    /// See [`tamper`](self). The caller is its handler, which has not filed the sample yet.
    pub unsafe fn change_sample(&self, change: impl FnOnce(&mut Sample)) {
        // SAFETY: this is its handler, which holds no reference while it calls out to make a sample (caller).
        change(unsafe { &mut *self.sample.get() });
    }

    /// Changes the last event of its tracer.
    ///
    /// # Safety
    /// See [`tamper`](self). The caller is its thread.
    pub unsafe fn change_event(&self, change: impl FnOnce(&mut Event)) {
        // SAFETY: this is its thread, which holds no reference while it calls out (caller).
        change(unsafe { &mut *self.trace.get() }.last_mut());
    }
}

// -- the runtime --------------------------------------------------------------------------

/// The runtime, as tests change it.
impl Runtime {
    /// Pretends that the collector is in this phase.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_phase(&self, phase: Phase) {
        self.set_phase(phase);
    }

    /// Stops the world, for ever.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn halt(&self) {
        self.world.stopping.store(true, Ordering::SeqCst);
    }

    /// Forgets what the collector has marked.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn forget_marks(&self) {
        self.heap().unmark();
    }
}

// -- the profiler -------------------------------------------------------------------------

/// The profiler, as tests change it.
impl Profiler {
    /// Changes the oldest unread sample of a machine; with `hidden` the checksum fits.
    ///
    /// # Safety
    /// See [`tamper`](self). Neither the machine's handler nor a reader is at work.
    pub unsafe fn corrupt(&self, machine: u8, hidden: bool) {
        // SAFETY: as for this function (caller).
        unsafe { self.change_oldest(machine, hidden, |record| record.sample.pc ^= 1) };
    }

    /// Changes the oldest unread record of a machine; with `hidden` the checksum fits.
    ///
    /// # Safety
    /// As for [`Profiler::corrupt`].
    pub unsafe fn change_oldest(&self, machine: u8, hidden: bool, change: impl FnOnce(&mut Record)) {
        // SAFETY: no other thread touches the slots (caller).
        unsafe { self.ring(machine).change_oldest(hidden, change) };
    }

    /// Returns how many samples of a machine nobody has read.
    pub fn unread(&self, machine: u8) -> u64 {
        self.ring(machine).unread()
    }

    /// Returns how many samples of a machine were read.
    pub fn read_so_far(&self, machine: u8) -> u64 {
        self.ring(machine).taken()
    }

    /// Pretends that `count` more samples of a machine were read, or with a negative count fewer.
    ///
    /// # Safety
    /// See [`tamper`](self). No reader is at work.
    pub unsafe fn pretend_read(&self, machine: u8, count: i64) {
        self.ring(machine).pretend_taken(count);
    }

    /// Pretends that a machine's buffer has room for so many samples.
    ///
    /// # Safety
    /// See [`tamper`](self). No reader is at work.
    pub unsafe fn pretend_capacity(&self, machine: u8, capacity: usize) {
        self.ring(machine).pretend_capacity(capacity);
    }

    /// Pretends that somebody reads the buffers, or nobody does. Returns what was so before.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn pretend_reading(&self, reading: bool) -> bool {
        self.reading.swap(reading, Ordering::SeqCst)
    }

    /// Counts one more sample of a machine as dropped.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn miscount_dropped(&self, machine: u8) {
        self.ring(machine).miscount_dropped();
    }

    /// Counts more signals as come while profiling was off, or with a negative count fewer.
    ///
    /// # Safety
    /// See [`tamper`](self).
    pub unsafe fn miscount_off(&self, count: i64) {
        self.off.fetch_add(count as u64, Ordering::SeqCst);
    }
}

/// Counts one more signal to a thread without a machine.
///
/// # Safety
/// See [`tamper`](self).
pub unsafe fn miscount_foreign() {
    handler::FOREIGN.fetch_add(1, Ordering::SeqCst);
}
