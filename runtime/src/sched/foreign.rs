//! Foreign calls and callbacks.
//!
//! Foreign code is compiled code that knows nothing of goroutines. It runs on the thread's own
//! stack, since a goroutine's has no room for it, while its goroutine counts as stopped: at the
//! *transition point* where the stub `cgocall` left its stack, which is saved as a system call's is.
//! The collector may scan the goroutine meanwhile, and a signal's walk starts there.
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
//!   | tiny                |   NEXT_OP      | M's loop, nested:    |
//!   +---------------------+ -------------> | what does `tiny` do? |
//!                                          +----------------------+
//! ```
//!
//! ## Callbacks
//!
//! Foreign code may call back in. The goroutine then runs again, on the same thread, from a new
//! frame right below the transition point. The return slot of that frame holds the PC that was saved
//! there, so a walk goes through it as through any other. But it is no return address: a callback
//! that is over is left for the thread's stack, and the slot's value becomes the saved PC again. A
//! barrier over the slot would be carried off with it, so none is ever laid there.
//!
//! The transition point is put away while the callback lasts, since the goroutine may do anything
//! then, system calls and foreign calls included. A stack that moves takes along the points that
//! were put away.
//!
//! ## Limits of a goroutine in a foreign call
//!
//! Frames of foreign code lie on the thread's stack, and no code may abandon them. So from the
//! beginning of its outermost foreign call to the end the goroutine is locked to its thread: it
//! cannot be dropped, taken by another machine, or ended. A panic that no deferred call within a
//! callback recovers is stopped by the callback's frame: every frame below it is abandoned, and the
//! callback goes on and may return to foreign code. (Go unwinds past it, and drops the foreign frames
//! of both stacks in lock step.)
//!
//! ## Synchronisation
//!
//! Foreign code is at a safepoint, so no machine waits for it. Coming back from it, for good or to
//! call back in, waits for the world and then for the machine that scans the goroutine, as the end
//! of a system call does. The switch keeps no state over a nested run: `switch_in` has returned
//! whenever foreign code runs.

use core::ffi::c_void;
use core::hint::black_box;
use core::sync::atomic::Ordering;

use super::g::{G, status};
use super::m::M;
use super::run::RunResult;
use super::stop_world::RunningGuard;
use super::wait::Wait;
use crate::arch;
use crate::instrument::hooks;
use crate::sync::word::{peek, poke};
use crate::unwind::func_id::FuncId;
use crate::unwind::functab;

pub use super::m::{Driver, ForeignStep};
pub use super::transitions::MAX_CALLBACKS;

/// Returns SP in the body of the frame of `g`'s innermost callback, if a callback is under way.
pub(super) fn innermost_callback(g: &G) -> Option<usize> {
    let sp = g.transitions.innermost_sp()?;
    Some(sp - 16 - functab::info(FuncId::Callback).size)
}

impl M {
    /// Has the innermost frame make a foreign call. Returns when the call has returned. Meanwhile
    /// `driver` chooses the steps of foreign code, and drives the goroutine in its callbacks.
    pub fn foreign(&'static self, driver: &'static Driver) -> RunResult {
        let outer = self.driver.replace(Some(driver));
        let left = self.enter(FuncId::Cgocall);
        self.driver.set(outer);
        left
    }

    /// Returns how many foreign calls its goroutine is in.
    #[inline]
    pub fn foreign_calls(&self) -> usize {
        self.foreign_calls.get()
    }

    /// Returns whether its thread runs foreign code. Signal-safe.
    #[inline]
    pub fn in_foreign_code(&self) -> bool {
        self.in_foreign_code.load(Ordering::Relaxed)
    }

    /// Returns how many callbacks its goroutine is in.
    pub fn callbacks(&self) -> usize {
        self.current().map_or(0, |g| g.transitions.depth())
    }

    /// Runs foreign code from the transition point on, through all its callbacks, until it returns.
    /// The goroutine then goes on from the saved place.
    pub(crate) fn run_foreign(&'static self, g: &'static G, running: RunningGuard) -> RunningGuard {
        self.foreign_calls.set(self.foreign_calls.get() + 1);
        self.enter_syscall(g);
        // Foreign code is at a safepoint.
        drop(running);
        self.set_in_foreign_code(g, true);
        black_box(library(&Call { m: self, g, ask, call_back }, black_box(RECURSIONS)));
        self.set_in_foreign_code(g, false);
        let running = self.leave_safepoint();
        g.sched.copy_from(&g.syscall);
        running
    }

    /// Ends a foreign call, whose stub is back from foreign code.
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

    /// Calls back in from foreign code: the goroutine goes on from a new frame until that returns.
    fn call_back(&'static self, g: &'static G) {
        let depth = g.transitions.depth();
        let Some(driver) = self.driver.get().filter(|_| depth < MAX_CALLBACKS) else { return };
        self.set_in_foreign_code(g, false);
        let running = self.leave_safepoint();
        while !g.status.cas(status::SYSCALL, status::RUNNING) {
            hooks::wait(&Wait::ScanBit(g));
        }
        self.enter_callback(g, depth);
        self.resume(g, 0, running);
        while g.transitions.depth() > depth {
            (driver.called_back)(self);
        }
        self.set_in_foreign_code(g, true);
    }

    /// Makes the callback's frame begin right below the transition point, and puts the point away.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn enter_callback(&self, g: &'static G, depth: usize) {
        g.transitions.saved[depth].copy_from(&g.syscall);
        g.transitions.set_depth(depth + 1);
        let slot = g.syscall.sp.get() - 8;
        // SAFETY: right below the goroutine's frames; the reserve below the guard has room.
        unsafe { poke(slot, g.syscall.pc.get()) };
        g.sched.pc.set(functab::info(FuncId::Callback).start);
        g.sched.bp.set(g.syscall.bp.get());
        // Last: from here on the saved state says where the goroutine is.
        g.sched.sp.set(slot);
        crate::point!(CallbackEntered, g);
        g.syscall.sp.set(0);
    }

    /// Ends a callback, whose frame is taken down, with the saved SP at its slot. The slot's value is
    /// the saved PC again, and the goroutine counts as stopped in its foreign call.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn exit_callback(&'static self, g: &'static G) {
        let depth = g.transitions.depth() - 1;
        let point = &g.transitions.saved[depth];
        let slot = g.sched.sp.get();
        debug_assert_eq!(slot + 8, point.sp.get(), "a callback's frame lies below its transition point");
        // SAFETY: the slot that the callback was made with; the stack is the goroutine's own.
        point.pc.set(unsafe { peek(slot) });
        crate::triggered!(BarrierInCallbackFrame, point.pc.get() == arch::trampoline_address());
        g.syscall.copy_from(point);
        g.transitions.set_depth(depth);
        crate::point!(CallbackLeaving, g);
        g.sched.sp.set(0);
        g.status.set(status::SYSCALL);
        crate::point!(CallbackExited, g);
    }
}

// -- foreign code -----------------------------------------------------------------------

/// Number of frames that foreign code has below its first one.
const RECURSIONS: usize = 2;

/// The argument of foreign code. Foreign code knows of no goroutine, so this holds all it needs.
#[repr(C)]
struct Call {
    m: &'static M,
    g: &'static G,
    ask: extern "C" fn(*const c_void) -> i32,
    call_back: extern "C" fn(*const c_void),
}

/// A foreign function. It works on a buffer of its own, in several frames, and in the innermost one
/// does the steps that its driver chooses.
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
    // The buffer on its own stack must be as it was.
    black_box(&block).iter().fold(sum, |sum, word| sum.wrapping_add(*word))
}

/// The function that foreign code was linked with to ask for its next step. Zero is to return.
extern "C" fn ask(context: *const c_void) -> i32 {
    // SAFETY: foreign code passes on its argument, which outlives it.
    let call = unsafe { &*context.cast::<Call>() };
    match call.m.driver.get().map_or(ForeignStep::Return, |driver| (driver.next)(call.m)) {
        ForeignStep::Return => 0,
        ForeignStep::CallBack => 1,
    }
}

/// The function that foreign code was linked with to call back in.
extern "C" fn call_back(context: *const c_void) {
    // SAFETY: as in `ask`.
    let call = unsafe { &*context.cast::<Call>() };
    call.m.call_back(call.g);
}

/// Returns the first byte and the end of foreign code.
pub fn code() -> (usize, usize) {
    arch::foreign_bounds()
}
