//! Memory faults, and dead ends in the assembly.
//!
//! A load of a walk that faults goes on at its exception row. A fault on a goroutine's stack or its
//! guard, in goroutine-side code, or in the profiling handler is a throw. Any other fault is not the
//! core's, and goes to the handler that had the signal before. So does a signal that was sent, and
//! is no fault.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::io;

use super::func_id::FuncId;
use super::functab::{self, Table};
use super::reason::Reason;
use super::signals::{Handler, install_handler};
use super::throw::throw;
use crate::arch;
use crate::profiler::handler;
use crate::sched::g::G;
use crate::sched::m::M;
use crate::stack::mappings::{StackPart, part_at};

/// The handlers that had each signal before: leaked `sigaction`s, or zero.
static CHAIN: [(libc::c_int, AtomicUsize); 3] = [
    (libc::SIGSEGV, AtomicUsize::new(0)),
    (libc::SIGBUS, AtomicUsize::new(0)),
    (libc::SIGILL, AtomicUsize::new(0)),
];

/// Installs the handlers for SIGSEGV, SIGBUS and SIGILL.
///
/// # Errors
/// If the kernel refuses one.
pub fn install() -> io::Result<()> {
    for (signal, chain) in &CHAIN {
        let old = install_handler(*signal, on_fault)?;
        // Installed twice, it must not hand a fault on to itself.
        if old.sa_sigaction != on_fault as *const () as usize {
            chain.store(Box::into_raw(Box::new(old)) as usize, Ordering::Release);
        }
    }
    Ok(())
}

/// Returns the place where a faulting load goes on, if it has an exception row.
fn resume_at(pc: usize) -> Option<usize> {
    let (start, stop) = arch::exception_rows();
    // SAFETY: the linker's bounds of a section of `.long` pairs, retained and read-only.
    let words = unsafe { core::slice::from_raw_parts(start as *const i32, (stop - start) / 4) };
    let place = |index: usize| {
        let word = &words[index];
        (core::ptr::from_ref(word) as isize + *word as isize) as usize
    };
    (0..words.len() / 2).find(|row| place(row * 2) == pc).map(|row| place(row * 2 + 1))
}

fn current() -> Option<&'static G> {
    M::of_thread().and_then(M::current)
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo to an SA_SIGINFO handler.
    let (sent, address) = unsafe { ((*info).si_code <= 0, (*info).si_addr() as usize) };
    if sent {
        // It has no address, and where the thread stands says nothing.
        return pass_on(signal, info, context);
    }
    // SAFETY: the kernel passes a ucontext to an SA_SIGINFO handler.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let pc = registers[libc::REG_RIP as usize] as usize;
    let sp = registers[libc::REG_RSP as usize] as usize;
    if signal != libc::SIGILL
        && let Some(resume) = resume_at(pc)
    {
        registers[libc::REG_RIP as usize] = resume as i64;
        return;
    }
    if signal == libc::SIGILL {
        let trampoline = functab::info(FuncId::Trampoline);
        if trampoline.start <= pc && pc < trampoline.end {
            throw(current(), Reason::OutOfOrder { sp });
        }
    } else {
        match part_at(address) {
            StackPart::Guard => throw(current(), Reason::StackOverflow { address, pc }),
            StackPart::Stack => throw(current(), Reason::Fault { address, pc }),
            StackPart::Elsewhere if handler::is_handling() || !Table::get().row(pc).is_none() => {
                throw(current(), Reason::Fault { address, pc });
            }
            StackPart::Elsewhere => {}
        }
    }
    pass_on(signal, info, context);
}

/// Hands the signal on to the handler that had it before, and stays installed. If that was none, the
/// default action is restored, which ends the process: the instruction faults again, or the signal
/// is sent again and comes as this handler returns.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let old = CHAIN.iter().find(|(s, _)| *s == signal).map_or(0, |(_, c)| c.load(Ordering::Acquire));
    // SAFETY: null, or the sigaction that `install` has leaked.
    let old = unsafe { (old as *const libc::sigaction).as_ref() };
    let (handler, flags) = old.map_or((libc::SIG_DFL, 0), |old| (old.sa_sigaction, old.sa_flags));
    // SAFETY: the kernel passed the siginfo.
    let sent = unsafe { (*info).si_code <= 0 };
    match handler {
        libc::SIG_IGN if sent => {}
        // A fault cannot be ignored.
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: both calls may be made in a handler; the signal is blocked until it returns.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                if sent {
                    libc::raise(signal);
                }
            }
        }
        handler if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the handler that was installed with this flag.
            let handler = unsafe { core::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the handler that was installed without that flag.
            let handler = unsafe { core::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
            handler(signal);
        }
    }
}
