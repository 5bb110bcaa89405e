//! SIGTRAP: stopping at a breakpoint or after a single step.
//!
//! # Causes of a SIGTRAP
//!
//! | cause | `si_code` | saved PC | here |
//! |---|---|---|---|
//! | our breakpoint, or a ladder's | `SI_KERNEL` | one past it | byte restored, PC rewound, handler |
//! | one for another thread | `SI_KERNEL` | one past it | wait until it is gone, PC rewound |
//! | trap flag | `TRAP_TRACE` | the next instruction | handler |
//! | another `int3` | `SI_KERNEL` | past it | previous disposition, `int3` again |
//! | `kill`, a watchpoint, .. | other | anything | previous disposition, sent again |
//!
//! A SIGTRAP that is not ours keeps its meaning: the previous disposition is put back and the
//! cause repeated under it, so by default the process dies of SIGTRAP with the PC where it was.
//!
//! # At the handler
//!
//! At a breakpoint, the byte is restored and the PC rewound *before* the handler is called.
//! While the handler runs (it may wait for the baton, let another thread walk the stack, or set
//! the next breakpoint) the instruction is whole, and the saved context is that of a thread about
//! to run it.
//!
//! # The signal at the boundary
//!
//! The signals that [`install_trap_handler`] is told to hold off are blocked in the handler.
//! A thread that sends itself one of them there receives it as the handler returns, before the
//! interrupted instruction: the signal frame has the boundary's PC. Three things to know:
//!
//! - Any other signal interrupts the trap handler itself.
//! - Of two signals that are pending, the kernel delivers the second on top of the first, at the
//!   first instruction of the first one's handler, unless that handler's mask holds it off, too.
//!   So send one a stop.
//! - The trap flag, if set, goes into the signal frame and not into the signal's handler;
//!   stepping goes on after it.

use std::ffi::c_void;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::context::Context;
use super::patch::{INT3, Stop, stop_at, wait_until_gone};
use super::signal::{ErrnoGuard, gettid, tgkill};
use super::sys::die;

const TRAP_FLAG: usize = 1 << 8;
const TRAP_TRACE: i32 = 2;
const SI_KERNEL: i32 = 0x80;

/// Why a thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrapKind {
    /// It reached the breakpoint, which is gone now.
    Breakpoint,
    /// It reached a boundary that a [`Ladder`](crate::Ladder) has armed; the rung is open now.
    Rung,
    /// It ran one instruction with the trap flag set.
    Step,
}

/// A stopped thread, seen from its own SIGTRAP handler.
#[derive(Debug)]
pub struct Trap<'a> {
    kind: TrapKind,
    context: Context<'a>,
}

impl<'a> Trap<'a> {
    /// Why the thread stopped.
    pub fn kind(&self) -> TrapKind {
        self.kind
    }

    /// The instruction that runs next.
    pub fn pc(&self) -> usize {
        self.context.pc()
    }

    /// RSP.
    pub fn sp(&self) -> usize {
        self.context.sp()
    }

    /// RBP.
    pub fn bp(&self) -> usize {
        self.context.bp()
    }

    /// RAX.
    pub fn rax(&self) -> usize {
        self.context.rax()
    }

    /// R14.
    pub fn r14(&self) -> usize {
        self.context.r14()
    }

    /// Returns whether the interrupted code has this signal blocked. A signal that is sent now
    /// arrives only once that code unblocks it, as a handler does by returning.
    pub fn blocks(&self, signal: i32) -> bool {
        self.context.blocks(signal)
    }

    /// The whole interrupted context.
    pub fn context(&mut self) -> &mut Context<'a> {
        &mut self.context
    }

    /// Sets whether the thread traps again after its next instruction. Once set it stays set,
    /// from step to step.
    pub fn set_single_step(&mut self, on: bool) {
        let flags = self.context.flags();
        self.context.set_flags(if on { flags | TRAP_FLAG } else { flags & !TRAP_FLAG });
    }
}

/// A function that is called at each stop.
type Handler = fn(&mut Trap<'_>);

static HANDLER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs `handler` for breakpoints and single steps, for the whole process. A second call
/// replaces the handler and the signals.
///
/// `held_off` are the signals that are blocked while `handler` runs: one that the stopped thread
/// sends itself there ([`tgkill`](crate::tgkill)) arrives exactly at the instruction at which it
/// stopped. A signal that is not among them interrupts `handler` itself. A fault's signal (such
/// as SIGSEGV) may be among them, but then a fault of `handler` kills the process.
///
/// # Errors
///
/// If one of `held_off` is no signal, cannot be blocked (SIGKILL, SIGSTOP), or belongs to the C
/// library; nothing is installed then. If the kernel refuses the handler.
///
/// # Safety
///
/// `handler` runs inside a signal handler at any instruction of the patched or stepped code: it
/// must not allocate, lock, panic or unwind.
pub unsafe fn install_trap_handler(handler: Handler, held_off: &[i32]) -> io::Result<()> {
    // SAFETY: All-zero bytes are a valid sigaction: default, no flags, no mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let entry: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = on_sigtrap;
    action.sa_sigaction = entry as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    for &signal in held_off {
        let can_be_blocked = ![libc::SIGKILL, libc::SIGSTOP].contains(&signal);
        // SAFETY: The mask is a live field. A number that libc does not accept is an error.
        if !can_be_blocked || unsafe { libc::sigaddset(&mut action.sa_mask, signal) } != 0 {
            let why = format!("signal {signal} cannot be held off: not a signal that a handler can block");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
    }
    HANDLER.store(handler as *mut (), Ordering::Release);
    let previous = sigaction(None)?;
    if previous.sa_sigaction != action.sa_sigaction {
        // Kept from the first call if other code has put its handler over ours since: that
        // handler calls ours, and would be called by it.
        PREVIOUS.get_or_init(|| previous);
    }
    sigaction(Some(&action))?;
    Ok(())
}

/// Sets SIGTRAP's disposition if asked to, and returns the one before.
fn sigaction(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: Both records outlive the call. The new handler is `on_sigtrap`
    // or one that was installed before.
    if unsafe { libc::sigaction(libc::SIGTRAP, new, old.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: It was zeroed, which is valid, and then written by libc.
    Ok(unsafe { old.assume_init() })
}

extern "C" fn on_sigtrap(_signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let _errno = ErrnoGuard::save();
    // SAFETY: The kernel passes a valid siginfo to an SA_SIGINFO handler.
    let code = unsafe { (*info).si_code };
    // SAFETY: It is the handler's third argument and used only in here.
    let mut context = unsafe { Context::from_raw(context) };
    let before = context.pc().wrapping_sub(1);
    let kind = match code {
        SI_KERNEL => match stop_at(before) {
            Stop::Breakpoint => TrapKind::Breakpoint,
            Stop::Rung => TrapKind::Rung,
            Stop::NotYet => {
                wait_until_gone(before);
                // SAFETY: The instruction is whole, or has a breakpoint for this thread.
                return unsafe { context.set_pc(before) };
            }
            Stop::Foreign => return not_ours(code, &mut context),
        },
        TRAP_TRACE => TrapKind::Step,
        _ => return not_ours(code, &mut context),
    };
    if kind != TrapKind::Step {
        // SAFETY: The instruction at `before` is whole again, and the thread was about to run
        // it when it met the breakpoint instead.
        unsafe { context.set_pc(before) };
    }
    let handler = HANDLER.load(Ordering::Acquire);
    // SAFETY: `install_trap_handler` stored a `Handler` before it installed this function,
    // and nothing else is ever stored.
    let handler: Handler = unsafe { mem::transmute::<*mut (), Handler>(handler) };
    handler(&mut Trap { kind, context });
}

/// Puts the previous disposition back and lets the trap happen again under it.
#[cold]
fn not_ours(code: i32, context: &mut Context<'_>) {
    let Some(previous) = PREVIOUS.get() else {
        die("a trap before the trap handler was installed");
    };
    if sigaction(Some(previous)).is_err() {
        die("the previous SIGTRAP handler cannot be put back");
    }
    let before = context.pc().wrapping_sub(1);
    // SAFETY: With SI_KERNEL the processor has just run an `int3` that ends at the saved PC,
    // so the byte before it is mapped, and readable as all code is here.
    if code == SI_KERNEL && unsafe { (before as *const u8).read_volatile() } == INT3 {
        // SAFETY: That is the `int3` which has just been run: it traps again.
        unsafe { context.set_pc(before) };
        return;
    }
    // Blocked until this handler returns, so it arrives at the same PC.
    if tgkill(gettid(), libc::SIGTRAP).is_err() {
        die("a SIGTRAP that is not ours cannot be sent on");
    }
}
