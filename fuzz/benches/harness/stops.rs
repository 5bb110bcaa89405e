//! The cost of stopping a thread: a breakpoint, a ladder of breakpoints, the trap flag.
//! Measured on a function of the bench's own, before the harness takes the process over.

use std::arch::naked_asm;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sigstorm_compare::{Bench, Case};
use sigstorm_inject::{self as inject, Text, Trap, TrapKind};

/// Instructions of the function before its `ret`.
const INSTRUCTIONS: usize = 16;

/// Sixteen instructions of a byte each, and a return.
#[unsafe(naked)]
#[unsafe(link_section = "bench_text")]
unsafe extern "C" fn walked() {
    naked_asm!(".rept {n}", "nop", ".endr", "ret", n = const INSTRUCTIONS)
}

static STOPS: AtomicUsize = AtomicUsize::new(0);
static STEPPING: AtomicBool = AtomicBool::new(false);

fn first() -> usize {
    walked as *const () as usize
}

/// Steps on to the function's return, where it is told to; else lets the thread go on.
fn on_trap(trap: &mut Trap<'_>) {
    STOPS.fetch_add(1, Ordering::Relaxed);
    if STEPPING.load(Ordering::Relaxed) {
        trap.set_single_step(trap.pc() < first() + INSTRUCTIONS && matches_kind(trap.kind()));
    }
}

/// Both kinds of stop that come here; a rung of a ladder would be neither.
fn matches_kind(kind: TrapKind) -> bool {
    matches!(kind, TrapKind::Breakpoint | TrapKind::Step)
}

/// Runs the function with a breakpoint at its first instruction, and counts the stops.
fn run(stops: usize) {
    STOPS.store(0, Ordering::Relaxed);
    // SAFETY: the function's first byte, in writable text that stays so; this thread alone
    // runs that code; the function has no preconditions.
    unsafe {
        inject::set_breakpoint(first());
        walked();
    }
    assert_eq!(STOPS.load(Ordering::Relaxed), stops);
}

/// A breakpoint against a step by the trap flag.
pub fn measure(bench: &mut Bench) {
    let page = first() & !0xfff;
    // SAFETY: the program's own text, which is never unmapped.
    let text = unsafe { Text::writable(page, first() + INSTRUCTIONS + 1) }.expect("writable text");
    // SAFETY: it counts and sets a flag.
    unsafe { inject::install_trap_handler(on_trap, &[libc::SIGPROF]) }.expect("the trap handler");
    let breakpoint = Case::new("sigstorm", || {
        STEPPING.store(false, Ordering::Relaxed);
        run(1);
    });
    let trap_flag = Case::new("trap flag", || {
        STEPPING.store(true, Ordering::Relaxed);
        // The first stop is the breakpoint's, and it begins the steps.
        run(INSTRUCTIONS + 1);
    })
    .per(INSTRUCTIONS);
    bench.compare("a stop at an instruction, by breakpoint", breakpoint, vec![trap_flag]);
    text.protect().expect("the text as it was");
}
