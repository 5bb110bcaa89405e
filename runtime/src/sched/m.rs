//! M: a machine, which is an operating system thread that runs goroutines.
//!
//! A machine's own stack (`g0`) is the thread's. Its loop is ordinary Rust: tell the current
//! goroutine what its frame is to do, run it until it leaves its stack, act on the exit reason.
//! The machine's driver calls these operations one after the other; between two of them the machine
//! is at a safepoint. They are methods of [`M`] in files of their own: [`super::run`],
//! `handoff`, `preempt`, [`super::syscall`], [`super::foreign`],
//! [`super::panic`], and those of [`crate::gc`] and [`crate::profiler`].

use core::cell::{Cell, UnsafeCell};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::g::G;
use super::runtime::Runtime;
use crate::arch;
use crate::profiler::sample::Sample;
use crate::profiler::trace_buffer::Buffer;
use crate::sync::word::Word;

thread_local! {
    static CURRENT: Cell<*const M> = const { Cell::new(ptr::null()) };
}

/// A machine.
#[derive(Debug)]
pub struct M {
    /// Its number, from 0.
    pub id: u8,
    /// The runtime that it belongs to.
    pub runtime: &'static Runtime,
    current: AtomicPtr<G>,
    /// How many stack locks it holds; preemption is held off meanwhile.
    pub(crate) locks: Word,
    /// Whether it collects.
    pub(crate) collecting: AtomicBool,
    /// How many foreign calls its goroutine is in; it is locked to this machine meanwhile.
    pub(crate) foreign_calls: Word,
    /// Whether its thread runs foreign code, and not the runtime or a goroutine.
    pub(crate) in_foreign_code: AtomicBool,
    /// The driver of foreign code on it; its own thread's.
    pub(crate) driver: Cell<Option<&'static Driver>>,
    /// The last sample that its handler took.
    pub(crate) sample: UnsafeCell<Sample>,
    /// The last events of its execution tracer.
    pub(crate) trace: UnsafeCell<Buffer>,
}

// SAFETY: the sample is written by this machine's own thread, in its signal handler, and
// read where that handler is known not to run; the trace and the driver are that thread's
// own; everything else is atomic or a `Word`. That only the machine's own thread calls its
// operations is for the driver to ensure: their types do not say so.
unsafe impl Sync for M {}

/// The next step of foreign code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignStep {
    /// It returns to the goroutine.
    Return,
    /// It calls back in. If too many callbacks are under way, it asks again.
    CallBack,
}

/// The driver of a machine in foreign code and its callbacks.
#[derive(Debug)]
pub struct Driver {
    /// Called where foreign code asks for its next step.
    pub next: fn(&'static M) -> ForeignStep,
    /// Called where foreign code has called back in and the callback's frame asks. Goes on with the
    /// machine's operations until one of them returns `RunResult::InForeign`.
    pub called_back: fn(&'static M),
}

impl M {
    /// Makes machine `id`, which lives as long as the process. Its thread must [`M::attach`].
    ///
    /// # Panics
    /// If the runtime has no machine of this number, or the machine was made before: two of one number
    /// would both write its samples' buffer.
    pub fn leak(runtime: &'static Runtime, id: u8) -> &'static M {
        assert!(
            id <= runtime.extra_m(),
            "there are {} machines, and one for a thread from outside",
            runtime.machines()
        );
        let made = runtime.made.fetch_or(1 << id, Ordering::Relaxed);
        assert!(made & 1 << id == 0, "machine {id} was made before: there is one of each number");
        Box::leak(Box::new(M {
            id,
            runtime,
            current: AtomicPtr::new(ptr::null_mut()),
            locks: Word::new(0),
            collecting: AtomicBool::new(false),
            foreign_calls: Word::new(0),
            in_foreign_code: AtomicBool::new(false),
            driver: Cell::new(None),
            sample: UnsafeCell::new(Sample::NONE),
            trace: UnsafeCell::new(Buffer::new()),
        }))
    }

    /// Makes this machine the calling thread's, and then starts its profiling timer. So a signal of
    /// the timer never finds the thread without its machine.
    ///
    /// # Errors
    /// If the kernel refuses the timer. The thread then has no machine.
    pub fn attach(&'static self) -> std::io::Result<()> {
        CURRENT.set(self);
        crate::point!(MachineBound, ptr::null(), 1);
        self.start_timer().inspect_err(|_| CURRENT.set(ptr::null()))
    }

    /// Stops the profiling timer, and then makes the calling thread, which is this machine's, a
    /// thread without a machine again. The machine must have no goroutine.
    pub fn detach(&'static self) {
        debug_assert!(ptr::eq(CURRENT.get(), self) && self.current().is_none());
        self.stop_timer();
        CURRENT.set(ptr::null());
        crate::point!(MachineBound, ptr::null(), 0);
    }

    /// Returns the calling thread's machine. Signal-safe.
    #[inline(always)]
    pub fn of_thread() -> Option<&'static M> {
        // SAFETY: null, or a leaked machine.
        unsafe { CURRENT.get().as_ref() }
    }

    /// Returns the address of the calling thread's machine; null if it has none. Signal-safe.
    pub(crate) fn address_of_thread() -> *const M {
        CURRENT.get()
    }

    /// Returns the machine at this address.
    ///
    /// # Safety
    /// There is a machine. (A planted defect passes null. That must be a fault of the processor and
    /// not whatever a compiler makes of it, so the address is touched first.)
    pub(crate) unsafe fn at(address: *const M) -> &'static M {
        // SAFETY: a leaked machine (caller).
        unsafe {
            arch::touch(address as usize);
            &*address
        }
    }

    /// Makes the calling thread this machine's, or none's. The timer stays as it is.
    pub(crate) fn set_of_thread(m: Option<&'static M>) {
        CURRENT.set(m.map_or(ptr::null(), ptr::from_ref));
    }

    /// Returns the goroutine that it has. Signal-safe.
    #[inline(always)]
    pub fn current(&self) -> Option<&'static G> {
        // SAFETY: null, or a goroutine of the runtime, which is never freed.
        unsafe { self.current.load(Ordering::Relaxed).as_ref() }
    }

    /// Returns whether it holds no stack lock, as between any two operations.
    #[inline]
    pub fn holds_no_lock(&self) -> bool {
        self.locks.get() == 0
    }

    /// Returns the last sample that its handler took.
    ///
    /// # Safety
    /// The machine's handler does not run meanwhile: the caller is that handler, or the
    /// machine's thread is held.
    pub unsafe fn last_sample(&self) -> &Sample {
        // SAFETY: no thread writes it meanwhile (caller).
        unsafe { &*self.sample.get() }
    }

    pub(crate) fn set_current(&self, g: Option<&'static G>) {
        self.current.store(g.map_or(ptr::null_mut(), |g| ptr::from_ref(g).cast_mut()), Ordering::Relaxed);
    }
}
