//! The protocol as a model for `shuttle`: what one would write without real stacks.
//!
//! A stack of 64 words with 8 frames of 8, a list of up to 16 barriers, a stack lock. As in
//! the core, a frame holds its return address, its caller's frame pointer and four slots,
//! which its prologue clears and a scan reads. A mutator calls down and returns twice; at each
//! call and return a profiling signal may come, and its handler tries the lock and walks. A
//! collector has three cycles: it asks for a scan, which the mutator does at its next call (or
//! the collector, once the mutator has ended), then stops the world, scans again what lies
//! below the lowest barrier that was not hit, and takes the barriers out. Every word that two threads
//! look at is an atomic of `shuttle`'s, so each access is a place at which another thread may
//! go on.

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use shuttle::thread;

const WORDS: usize = 64;
const FRAME: usize = 8;
/// Words of a frame that may hold pointers, above its return address and frame pointer.
const POINTERS: std::ops::Range<usize> = 2..6;
const BARRIERS: usize = 16;
const ROUNDS: usize = 2;
const CYCLES: usize = 3;
/// A return address that is none: the trampoline's.
const TRAMPOLINE: usize = usize::MAX;
/// One signal in so many places.
const SIGNALS: u32 = 4;

struct Model {
    words: [AtomicUsize; WORDS],
    sp: AtomicUsize,
    slots: [AtomicUsize; BARRIERS],
    returns: [AtomicUsize; BARRIERS],
    len: AtomicUsize,
    position: AtomicUsize,
    lock: AtomicBool,
    scan_asked: AtomicBool,
    scanned: AtomicBool,
    /// The mutator has ended, and its stack is the collector's to scan.
    stopped: AtomicBool,
    stopping: AtomicBool,
    /// The mutator waits for the world to go on.
    parked: AtomicBool,
    /// Words that were marked.
    marked: AtomicUsize,
}

fn atomics<const N: usize>() -> [AtomicUsize; N] {
    std::array::from_fn(|_| AtomicUsize::new(0))
}

/// The return address of the frame at this depth.
fn address(depth: usize) -> usize {
    1000 + depth
}

impl Model {
    fn new() -> Model {
        Model {
            words: atomics(),
            sp: AtomicUsize::new(WORDS),
            slots: atomics(),
            returns: atomics(),
            len: AtomicUsize::new(0),
            position: AtomicUsize::new(0),
            lock: AtomicBool::new(false),
            scan_asked: AtomicBool::new(false),
            scanned: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            marked: AtomicUsize::new(0),
        }
    }

    fn try_lock(&self) -> bool {
        !self.lock.swap(true, SeqCst)
    }

    fn lock(&self) {
        while !self.try_lock() {
            thread::yield_now();
        }
    }

    fn unlock(&self) {
        self.lock.store(false, SeqCst);
    }

    /// Marks what a frame points to.
    fn scan_frame(&self, frame: usize) {
        for word in POINTERS {
            let value = self.words[frame + word].load(SeqCst);
            if value != 0 {
                self.marked.fetch_or(1 << (value % 64), SeqCst);
            }
        }
    }

    /// Installs a barrier in every frame.
    fn scan(&self) {
        self.lock();
        let mut slot = self.sp.load(SeqCst);
        while slot < WORDS {
            self.scan_frame(slot);
            let index = self.len.load(SeqCst);
            self.slots[index].store(slot, SeqCst);
            self.returns[index].store(self.words[slot].load(SeqCst), SeqCst);
            self.len.store(index + 1, SeqCst);
            self.words[slot].store(TRAMPOLINE, SeqCst);
            slot += FRAME;
        }
        self.unlock();
        self.scanned.store(true, SeqCst);
    }

    /// Mark termination: stops the world, takes the barriers out, scans again below the lowest
    /// one that was not hit.
    fn terminate(&self) {
        self.stopping.store(true, SeqCst);
        while !self.parked.load(SeqCst) && !self.stopped.load(SeqCst) {
            thread::yield_now();
        }
        self.lock();
        let position = self.position.load(SeqCst);
        let lowest = if position < self.len.load(SeqCst) { self.slots[position].load(SeqCst) } else { WORDS };
        for index in position..self.len.load(SeqCst) {
            let slot = self.slots[index].load(SeqCst);
            assert_eq!(self.words[slot].load(SeqCst), TRAMPOLINE, "a barrier is lost");
            self.words[slot].store(self.returns[index].load(SeqCst), SeqCst);
        }
        self.position.store(0, SeqCst);
        self.len.store(0, SeqCst);
        self.unlock();
        let mut frame = self.sp.load(SeqCst);
        while frame < WORDS && frame <= lowest {
            self.scan_frame(frame);
            frame += FRAME;
        }
        self.stopping.store(false, SeqCst);
    }

    /// A prologue: a safepoint, and then the frame.
    fn call(&self, depth: usize) {
        if self.scan_asked.swap(false, SeqCst) {
            self.scan();
        }
        while self.stopping.load(SeqCst) {
            self.parked.store(true, SeqCst);
            thread::yield_now();
        }
        self.parked.store(false, SeqCst);
        let sp = self.sp.load(SeqCst) - FRAME;
        self.words[sp].store(address(depth), SeqCst);
        self.words[sp + 1].store(sp + FRAME, SeqCst);
        for word in POINTERS {
            self.words[sp + word].store(0, SeqCst);
        }
        // The frame's one object.
        self.words[sp + POINTERS.start].store(1 + depth, SeqCst);
        self.sp.store(sp, SeqCst);
    }

    /// An epilogue, and the trampoline if the frame returns into it.
    fn ret(&self, depth: usize) {
        let sp = self.sp.load(SeqCst);
        let mut pc = self.words[sp].load(SeqCst);
        if pc == TRAMPOLINE {
            let index = self.position.load(SeqCst);
            assert_eq!(self.slots[index].load(SeqCst), sp, "barriers are out of order");
            pc = self.returns[index].load(SeqCst);
            self.position.store(index + 1, SeqCst);
        }
        assert_eq!(pc, address(depth), "returned to somewhere else");
        self.sp.store(sp + FRAME, SeqCst);
    }

    /// The handler: tries the lock and walks.
    fn signal(&self, depth: usize) {
        if !thread_rng().gen_ratio(1, SIGNALS) || !self.try_lock() {
            return;
        }
        let (mut barrier, mut expected) = (self.position.load(SeqCst), depth);
        let mut slot = self.sp.load(SeqCst);
        while slot < WORDS {
            let mut pc = self.words[slot].load(SeqCst);
            if pc == TRAMPOLINE {
                assert_eq!(self.slots[barrier].load(SeqCst), slot, "a walk met a barrier without entry");
                pc = self.returns[barrier].load(SeqCst);
                barrier += 1;
            }
            assert_eq!(pc, address(expected - 1), "a wrong traceback");
            expected -= 1;
            slot += FRAME;
        }
        assert_eq!(expected, 0, "a traceback is cut off");
        self.unlock();
    }

    fn mutate(&self) {
        for _ in 0..ROUNDS {
            for depth in 0..WORDS / FRAME {
                self.call(depth);
                self.signal(depth + 1);
            }
            for depth in (0..WORDS / FRAME).rev() {
                self.ret(depth);
                self.signal(depth);
            }
        }
        self.stopped.store(true, SeqCst);
    }

    fn collect(&self) {
        for _ in 0..CYCLES {
            self.scanned.store(false, SeqCst);
            self.scan_asked.store(true, SeqCst);
            while !self.scanned.load(SeqCst) {
                if self.stopped.load(SeqCst) && self.scan_asked.swap(false, SeqCst) {
                    self.scan();
                    break;
                }
                thread::yield_now();
            }
            self.terminate();
        }
    }
}

/// One execution.
pub fn execution() {
    let model = Arc::new(Model::new());
    let mutator = {
        let model = Arc::clone(&model);
        thread::spawn(move || model.mutate())
    };
    model.collect();
    mutator.join().expect("the mutator");
}
