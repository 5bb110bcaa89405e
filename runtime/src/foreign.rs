//! Foreign calls and callbacks.
//!
//! Foreign code is compiled code that knows nothing of goroutines. It runs on the thread's
//! own stack, since a goroutine's has no room for it, while its goroutine counts as stopped:
//! at the *transition point* where the stub `cgocall` left its stack, which is saved as a
//! system call's is. The collector may scan the goroutine meanwhile and a signal's walk
//! starts there.
//!
//! ```text
//!   goroutine stack                        the thread's own stack (g0)
//!   +---------------------+                +----------------------+
//!   | small               |                | M's loop             |
//!   +---------------------+   FOREIGN_     +----------------------+
//!   | cgocall             | ---ENTER-----> | foreign code         |
//!   |- - - - - - - - - - -| transition     +----------------------+
//!   | the PC saved there  | <--- M --------| M calls back in      |
//!   | callback            |                +----------------------+
//!   | tiny                |   ASK          | M's loop, nested:    |
//!   +---------------------+ -------------> | what does `tiny` do? |
//!                                          +----------------------+
//! ```
//!
//! ## Callbacks
//!
//! Foreign code may call back in. The goroutine then runs again, on the same thread, from a
//! new frame right below the transition point. That frame's return slot holds the PC that
//! was saved there, so a walk goes through it as through any other, but it is no return
//! address: a callback that is over is left for the thread's stack, and its slot's value
//! becomes the saved PC again. A barrier over it would be carried off with it, so none is
//! ever put there. The transition point is put away while the callback lasts, since the
//! goroutine may do then whatever it likes, system calls and foreign calls among it; a stack
//! that moves takes along those that were put away.
//!
//! ## What a goroutine in a foreign call cannot do
//!
//! Frames of foreign code lie on its thread's stack, and nobody may abandon them. So from the
//! beginning of its outermost foreign call to the end it is locked to its thread: it cannot
//! be let go, taken by another machine, or ended. A panic that nobody within a callback
//! recovers is stopped by the callback's frame: everything below it is abandoned and it goes
//! on, and may return to foreign code. (Go unwinds past it, and drops the foreign frames of
//! both stacks in lock step.)
//!
//! ## Synchronisation
//!
//! Foreign code is at a safepoint: it holds nobody up. Coming back from it, for good or to
//! call back in, waits for the world and then for whoever scans the goroutine, as the end of
//! a system call does. Nothing of the switch need be kept over a nested run: `switch_in` has
//! come back whenever foreign code runs.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::hint::black_box;
use core::sync::atomic::Ordering;

use crate::core::Busy;
use crate::function::Function;
use crate::g::{G, Gobuf, status};
use crate::hooks;
use crate::m::{Left, M};
use crate::table;
use crate::wait::Wait;
use crate::word::{peek, poke};

/// How many callbacks of one goroutine can be under way at a time.
pub const MAX_CALLBACKS: usize = 4;

/// What foreign code does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It returns to the goroutine.
    Return,
    /// It calls back in. Where too many callbacks are under way, it asks again.
    CallBack,
}

/// Who drives a machine through foreign code and its callbacks.
#[derive(Debug)]
pub struct Driver {
    /// Foreign code asks what to do.
    pub next: fn(&'static M) -> Next,
    /// Foreign code has called back in and the callback's frame asks. Goes on with the
    /// machine's operations until one of them says [`Left::InForeign`].
    pub called_back: fn(&'static M),
}

/// Transition points that were put away for callbacks, outermost first.
#[derive(Debug)]
pub(crate) struct Transitions {
    saved: [Gobuf; MAX_CALLBACKS],
    depth: UnsafeCell<usize>,
}

impl Transitions {
    pub(crate) const fn new() -> Self {
        Transitions { saved: [const { Gobuf::new() }; MAX_CALLBACKS], depth: UnsafeCell::new(0) }
    }

    /// Those that are put away.
    fn points(&self) -> &[Gobuf] {
        // SAFETY: the goroutine's owner's alone, as its defers are; nobody else comes here.
        &self.saved[..unsafe { *self.depth.get() }]
    }

    fn depth(&self) -> usize {
        self.points().len()
    }

    fn set_depth(&self, depth: usize) {
        // SAFETY: as in `points`.
        unsafe { *self.depth.get() = depth };
    }

    pub(crate) fn clear(&self) {
        self.set_depth(0);
    }

    /// Moves each along with its stack.
    pub(crate) fn adjust(&self, delta: usize) {
        for point in self.points() {
            point.sp.set(point.sp.get().wrapping_add(delta));
            point.bp.set(point.bp.get().wrapping_add(delta));
        }
    }

    /// SP in the body of the innermost callback's frame, if a callback is under way.
    pub(crate) fn innermost_callback(&self) -> Option<usize> {
        let point = self.points().last()?;
        Some(point.sp.get() - 16 - table::info(Function::Callback).size)
    }

    /// True for the frame pointer of a foreign call's stub, which has no slots.
    pub(crate) fn is_stub(&self, bp: usize) -> bool {
        self.points().iter().any(|point| point.bp.get() == bp)
    }
}

impl M {
    /// The innermost frame makes a foreign call. Comes back when that has returned; meanwhile
    /// `driver` says what foreign code does and drives the goroutine in its callbacks.
    pub fn foreign(&'static self, driver: &'static Driver) -> Left {
        let outer = self.driver.replace(Some(driver));
        let left = self.call(Function::Cgocall);
        self.driver.set(outer);
        left
    }

    /// How many foreign calls its goroutine is in.
    #[inline]
    pub fn foreign_calls(&self) -> usize {
        self.foreign_calls.get()
    }

    /// True while its thread runs foreign code. Signal-safe.
    #[inline]
    pub fn in_foreign_code(&self) -> bool {
        self.in_foreign_code.load(Ordering::Relaxed)
    }

    /// How many callbacks its goroutine is in.
    pub fn callbacks(&self) -> usize {
        self.current().map_or(0, |g| g.transitions.depth())
    }

    /// From the transition point on: runs foreign code, which may come back often, until it
    /// returns. The goroutine then goes on from where it was saved.
    pub(crate) fn run_foreign(&'static self, g: &'static G, busy: Busy) -> Busy {
        self.foreign_calls.set(self.foreign_calls.get() + 1);
        self.enter_syscall(g);
        // It holds nobody up.
        drop(busy);
        self.set_in_foreign_code(g, true);
        black_box(library(&Call { m: self, g, ask, call_back }, black_box(RECURSIONS)));
        self.set_in_foreign_code(g, false);
        let busy = self.busy();
        g.sched.copy_from(&g.syscall);
        busy
    }

    /// The stub is back from foreign code.
    pub(crate) fn exit_foreign(&'static self, g: &'static G) {
        self.exit_syscall(g);
        self.foreign_calls.set(self.foreign_calls.get() - 1);
    }

    fn set_in_foreign_code(&self, g: &'static G, is: bool) {
        self.in_foreign_code.store(is, Ordering::Relaxed);
        if is {
            crate::point!(ForeignEntered, g);
        } else {
            crate::point!(ForeignLeft, g);
        }
    }

    /// Foreign code calls back in: the goroutine goes on from a new frame, until that returns.
    fn call_back(&'static self, g: &'static G) {
        let depth = g.transitions.depth();
        let Some(driver) = self.driver.get().filter(|_| depth < MAX_CALLBACKS) else { return };
        self.set_in_foreign_code(g, false);
        let busy = self.busy();
        while !g.status.cas(status::SYSCALL, status::RUNNING) {
            hooks::wait(&Wait::ScanBit(g));
        }
        self.enter_callback(g, depth);
        self.resume(g, 0, busy);
        while g.transitions.depth() > depth {
            (driver.called_back)(self);
        }
        self.set_in_foreign_code(g, true);
    }

    /// Makes the callback's frame begin right below the transition point, and puts that away.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn enter_callback(&self, g: &'static G, depth: usize) {
        g.transitions.saved[depth].copy_from(&g.syscall);
        g.transitions.set_depth(depth + 1);
        let slot = g.syscall.sp.get() - 8;
        // SAFETY: right below the goroutine's frames; the reserve below the guard has room.
        unsafe { poke(slot, g.syscall.pc.get()) };
        g.sched.pc.set(table::info(Function::Callback).start);
        g.sched.bp.set(g.syscall.bp.get());
        // Last: from here on it is this that says where the goroutine is.
        g.sched.sp.set(slot);
        crate::point!(CallbackEntered, g);
        g.syscall.sp.set(0);
    }

    /// A callback's frame is taken down, with the saved SP at its slot: the slot's value is the
    /// saved PC again, and the goroutine counts as stopped in its foreign call.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn exit_callback(&'static self, g: &'static G) {
        let depth = g.transitions.depth() - 1;
        let point = &g.transitions.saved[depth];
        let slot = g.sched.sp.get();
        debug_assert_eq!(slot + 8, point.sp.get(), "a callback's frame lies below its transition point");
        // SAFETY: the slot that the callback was made with; the stack is the goroutine's own.
        point.pc.set(unsafe { peek(slot) });
        crate::triggered!(BarrierInCallbackFrame, point.pc.get() == crate::arch::trampoline_address());
        g.syscall.copy_from(point);
        g.transitions.set_depth(depth);
        crate::point!(CallbackLeaving, g);
        g.sched.sp.set(0);
        g.status.set(status::SYSCALL);
        crate::point!(CallbackExited, g);
    }
}

// -- foreign code -----------------------------------------------------------------------

/// How many frames foreign code has below its first one.
const RECURSIONS: usize = 2;

/// What foreign code is called with. It knows of no goroutine: what it needs is handed to it.
#[repr(C)]
struct Call {
    m: &'static M,
    g: &'static G,
    ask: extern "C" fn(*const c_void) -> i32,
    call_back: extern "C" fn(*const c_void),
}

/// A foreign function: work on a buffer of its own, in several frames, and in the innermost
/// one whatever it is told.
#[inline(never)]
#[unsafe(link_section = "stkbar_foreign")]
extern "C" fn library(call: &Call, frames: usize) -> u64 {
    let mut block: [u64; 16] = core::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut sum = frames as u64;
    for word in black_box(&mut block) {
        sum = (sum ^ *word).rotate_left(17).wrapping_mul(0xff51_afd7_ed55_8ccd);
        *word = sum;
    }
    if frames > 0 {
        sum ^= library(call, frames - 1);
    } else {
        let context = core::ptr::from_ref(call).cast();
        crate::point!(ForeignCode, call.g);
        while (call.ask)(context) != 0 {
            (call.call_back)(context);
            crate::point!(ForeignCode, call.g);
        }
    }
    // What it kept on its own stack is as it was.
    black_box(&block).iter().fold(sum, |sum, word| sum.wrapping_add(*word))
}

/// What foreign code was linked with, to ask what to do next: zero is to return.
extern "C" fn ask(context: *const c_void) -> i32 {
    // SAFETY: foreign code hands back what it was called with, which outlives it.
    let call = unsafe { &*context.cast::<Call>() };
    match call.m.driver.get().map_or(Next::Return, |driver| (driver.next)(call.m)) {
        Next::Return => 0,
        Next::CallBack => 1,
    }
}

/// What foreign code was linked with, to call back in.
extern "C" fn call_back(context: *const c_void) {
    // SAFETY: as in `ask`.
    let call = unsafe { &*context.cast::<Call>() };
    call.m.call_back(call.g);
}

/// First byte and end of foreign code.
pub fn code() -> (usize, usize) {
    crate::arch::foreign_bounds()
}
