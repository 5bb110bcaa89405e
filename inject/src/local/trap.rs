//! SIGTRAP: stopping at a breakpoint or after a single step.
//!
//! # What a SIGTRAP can be
//!
//! | cause | `si_code` | saved PC | here |
//! |---|---|---|---|
//! | our breakpoint, or a ladder's | `SI_KERNEL` | one past it | byte restored, PC rewound, handler |
//! | one for another thread | `SI_KERNEL` | one past it | wait until it is gone, PC rewound |
//! | trap flag | `TRAP_TRACE` | the next instruction | handler |
//! | another `int3` | `SI_KERNEL` | past it | previous disposition, `int3` again |
//! | `kill`, a watchpoint, .. | other | anything | previous disposition, sent again |
//!
//! What is not ours ends honestly: the previous disposition is put back and the
//! cause repeated under it, so by default the process dies of SIGTRAP with the
//! PC where it was.
//!
//! # At the handler
//!
//! At a breakpoint, the byte is restored and PC rewound *before* the handler is
//! called: whatever happens there (a wait for the baton, a walk by another
//! thread, arming the next breakpoint), the code is whole and the saved context
//! is that of a thread about to run that instruction.
//!
//! SIGPROF is blocked in the handler. One that is sent to the own thread there
//! is delivered as the handler returns, before the interrupted instruction: its
//! frame has the boundary's PC. The trap flag, if set, goes into that frame, too,
//! and not into the SIGPROF handler; stepping goes on after it.

use std::ffi::c_void;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::ladder;
use super::signal::{Context, ErrnoGuard, gettid, tgkill};
use super::sys::die;
use super::text::{BREAKPOINT, disarm, is_anothers, is_mine, wait_until_gone};

const TRAP_FLAG: usize = 1 << 8;
const TRAP_TRACE: i32 = 2;
const SI_KERNEL: i32 = 0x80;

/// Why a thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrapKind {
    /// It reached the armed breakpoint, which is gone now.
    Breakpoint,
    /// It reached a boundary that a [`Ladder`](crate::Ladder) has armed, whose rung is open now.
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
    /// Why it stopped.
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

    /// Whether the interrupted code has this signal blocked: one that is sent now arrives
    /// only when it lets it in, as a handler does when it returns.
    pub fn blocks(&self, signal: i32) -> bool {
        self.context.blocks(signal)
    }

    /// The whole interrupted context.
    pub fn context(&mut self) -> &mut Context<'a> {
        &mut self.context
    }

    /// Whether the thread traps again after its next instruction. Once set it
    /// stays set, from step to step.
    pub fn set_single_step(&mut self, on: bool) {
        let flags = self.context.flags();
        self.context.set_flags(if on { flags | TRAP_FLAG } else { flags & !TRAP_FLAG });
    }
}

type Handler = fn(&mut Trap<'_>);

static HANDLER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs `handler` for breakpoints and single steps, process-wide. A second
/// call replaces the handler.
///
/// # Safety
///
/// `handler` runs inside a signal handler at any instruction of the patched or
/// stepped code: it must not allocate, lock, panic or unwind.
pub unsafe fn install(handler: Handler) -> io::Result<()> {
    HANDLER.store(handler as *mut (), Ordering::Release);
    // SAFETY: All-zero bytes are a valid sigaction: default, no flags, no mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let entry: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = on_sigtrap;
    action.sa_sigaction = entry as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: The mask is a live field, and SIGPROF a valid signal.
    unsafe { libc::sigaddset(&mut action.sa_mask, libc::SIGPROF) };
    let previous = sigaction(None)?;
    if previous.sa_sigaction != action.sa_sigaction {
        // Kept from the first call where somebody put theirs over ours since:
        // theirs calls ours, and would be called by it.
        PREVIOUS.get_or_init(|| previous);
        sigaction(Some(&action))?;
    }
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
        SI_KERNEL if is_mine(before) => {
            disarm();
            // SAFETY: The instruction at `before` is whole again, and the
            // thread was about to run it when it met the breakpoint instead.
            unsafe { context.set_pc(before) };
            TrapKind::Breakpoint
        }
        SI_KERNEL if is_anothers(before) => {
            wait_until_gone(before);
            // SAFETY: As above: the instruction is whole, or has a breakpoint for this thread.
            return unsafe { context.set_pc(before) };
        }
        SI_KERNEL if ladder::hit(before) => {
            // SAFETY: As above: the rung is open, so its instruction is whole.
            unsafe { context.set_pc(before) };
            TrapKind::Rung
        }
        TRAP_TRACE => TrapKind::Step,
        _ => return not_ours(code, &mut context),
    };
    let handler = HANDLER.load(Ordering::Acquire);
    // SAFETY: `install` stored a `Handler` before it installed this function,
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
    // SAFETY: With SI_KERNEL the processor has just run an `int3` that ends at
    // the saved PC, so the byte before it is mapped, and readable as all code
    // is here.
    if code == SI_KERNEL && unsafe { (before as *const u8).read_volatile() } == BREAKPOINT {
        // SAFETY: That is the `int3` which has just been run: it traps again.
        unsafe { context.set_pc(before) };
        return;
    }
    // Blocked until this handler returns, so it arrives at the same PC.
    if tgkill(gettid(), libc::SIGTRAP).is_err() {
        die("a SIGTRAP that is not ours cannot be sent on");
    }
}
