//! Stopping a real thread: a breakpoint at every boundary, SIGPROF that arrives exactly there,
//! single steps through the same code, and traps that are not ours.

mod common;

use std::arch::asm;
use std::os::unix::process::ExitStatusExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use common::{INNER, Log, OUTER, errno, functions, in_child, outer, set_errno, stack_pointer};
use sigstorm_inject::{
    Context, Region, SignalStack, Text, Trap, TrapKind, breakpoint, clear_breakpoint, gettid,
    install_trap_handler, set_breakpoint, tgkill,
};

static REGION: OnceLock<Region> = OnceLock::new();
static BREAKPOINTS: Log<64> = Log::new();
static STEPS: Log<64> = Log::new();
static PROFILED: Log<64> = Log::new();
/// Whether a trap sends SIGPROF, and whether it steps on.
static SEND: AtomicBool = AtomicBool::new(false);
static STEP: AtomicBool = AtomicBool::new(false);
/// Broken invariants at stops.
static WRONG: AtomicUsize = AtomicUsize::new(0);
static BOUNDS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
static FRAME: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

fn on_trap(trap: &mut Trap<'_>) {
    let inside = REGION.get().and_then(|region| region.locate(trap.pc()));
    match trap.kind() {
        TrapKind::Breakpoint => BREAKPOINTS.push(trap.pc()),
        TrapKind::Step if inside.is_some() => STEPS.push(trap.pc()),
        TrapKind::Step => {}
        TrapKind::Rung => {
            WRONG.fetch_add(1, Ordering::SeqCst);
        }
    }
    FRAME[0].store(trap.sp(), Ordering::SeqCst);
    FRAME[1].store(trap.rax(), Ordering::SeqCst);
    let here = stack_pointer();
    let on_stack = (BOUNDS[0].load(Ordering::SeqCst)..BOUNDS[1].load(Ordering::SeqCst)).contains(&here);
    let context_agrees = trap.context().pc() == trap.pc() && trap.context().bp() == trap.bp();
    if !on_stack || !context_agrees || breakpoint().is_some() {
        WRONG.fetch_add(1, Ordering::SeqCst);
    }
    trap.set_single_step(STEP.load(Ordering::SeqCst) && inside.is_some());
    if SEND.load(Ordering::SeqCst) && inside.is_some() && tgkill(gettid(), libc::SIGPROF).is_err() {
        WRONG.fetch_add(1, Ordering::SeqCst);
    }
    set_errno(99);
}

extern "C" fn on_sigprof(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: It is the handler's third argument.
    let context = unsafe { Context::from_raw(context) };
    PROFILED.push(context.pc());
}

/// Everything a stopped thread needs, for as long as it lives.
struct Stage {
    _text: Vec<Text>,
    _stack: SignalStack,
}

fn stage() -> Stage {
    let region = REGION.get_or_init(|| Region::decode(&functions()).expect("it is code"));
    let stack = SignalStack::install().expect("memory");
    BOUNDS[0].store(stack.bounds().start, Ordering::SeqCst);
    BOUNDS[1].store(stack.bounds().end, Ordering::SeqCst);
    // SAFETY: Both handlers store into atomics and make raw system calls.
    unsafe {
        install_trap_handler(on_trap, &[libc::SIGPROF]).expect("it can be installed");
        common::handle(libc::SIGPROF, libc::SA_ONSTACK, on_sigprof);
    }
    let first = region.functions().iter().map(|f| f.start).min().expect("two functions");
    let last = region.functions().iter().map(|f| f.end).max().expect("two functions");
    // SAFETY: This is a test's own code, which stays mapped.
    let text = unsafe { Text::writable(first, last) }.expect("it is code");
    Stage { _text: vec![text], _stack: stack }
}

/// The boundaries that `outer(x)` crosses, in order.
fn path(x: u64) -> Vec<usize> {
    let region = REGION.get().expect("staged");
    let at = |f, range: std::ops::Range<usize>| {
        range.map(move |index| region.address(f, index).expect("it exists"))
    };
    // outer 5 is the call, which `je` skips together with 6.
    if x == 0 {
        at(OUTER, 0..5).chain(at(OUTER, 7..9)).collect()
    } else {
        at(OUTER, 0..6).chain(at(INNER, 0..3)).chain(at(OUTER, 6..9)).collect()
    }
}

fn boundaries() -> Vec<usize> {
    let region = REGION.get().expect("staged");
    (0..2)
        .flat_map(|f| (0..region.count(f)).map(move |index| (f, index)))
        .map(|(f, index)| region.address(f, index).expect("it exists"))
        .collect()
}

/// Sets a breakpoint at each boundary in turn and runs to it; `send` makes SIGPROF arrive.
fn stop_everywhere(send: bool) {
    SEND.store(send, Ordering::SeqCst);
    let (mut hit, mut missed) = (0, 0);
    for x in [0, 5] {
        let path = path(x);
        for address in boundaries() {
            // SAFETY: A boundary of the staged text, run by this thread only.
            unsafe { set_breakpoint(address) };
            set_errno(12);
            let result = outer(x);
            assert_eq!(errno(), 12, "a trap changed errno");
            assert_eq!(result, 3 * x + 1_000, "stopping at {address:#x} changed the result");
            let crossed = path.contains(&address);
            assert_eq!(clear_breakpoint(), (!crossed).then_some(address), "{address:#x} for {x}");
            let expected = if crossed { vec![address] } else { vec![] };
            assert_eq!(BREAKPOINTS.take(), expected, "stops");
            assert_eq!(PROFILED.take(), if send { expected } else { vec![] }, "samples");
            hit += usize::from(crossed);
            missed += usize::from(!crossed);
        }
    }
    assert_eq!((hit, missed), (7 + 12, 5));
    assert_eq!(STEPS.take(), [], "no step was asked for");
    assert_eq!(WRONG.load(Ordering::SeqCst), 0);
}

#[test]
fn thread_stops_at_a_breakpoint_at_every_boundary() {
    in_child("thread_stops_at_a_breakpoint_at_every_boundary", || {
        let _stage = stage();
        stop_everywhere(false);
    });
}

#[test]
fn sigprof_arrives_exactly_at_the_breakpoint() {
    in_child("sigprof_arrives_exactly_at_the_breakpoint", || {
        let _stage = stage();
        stop_everywhere(true);
    });
}

#[test]
fn trap_shows_the_stopped_threads_registers() {
    in_child("trap_shows_the_stopped_threads_registers", || {
        let _stage = stage();
        let region = REGION.get().expect("staged");
        // At inner's `ret`, RAX is done; at its entry it is not.
        for (index, rax) in [(0, 1_000), (2, 1_021)] {
            // SAFETY: A boundary of the staged text, run by this thread only.
            unsafe { set_breakpoint(region.address(INNER, index).expect("it exists")) };
            let sp = stack_pointer();
            assert_eq!(outer(7), 1_021);
            assert_eq!(FRAME[1].load(Ordering::SeqCst), rax);
            let depth = sp.wrapping_sub(FRAME[0].load(Ordering::SeqCst));
            assert!(depth < 1 << 16, "SP is not of this stack: {depth:#x} away");
        }
        assert_eq!(WRONG.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn single_steps_visit_the_same_boundaries_as_breakpoints() {
    in_child("single_steps_visit_the_same_boundaries_as_breakpoints", || {
        let _stage = stage();
        STEP.store(true, Ordering::SeqCst);
        for send in [false, true] {
            SEND.store(send, Ordering::SeqCst);
            for x in [0, 5] {
                let path = path(x);
                // SAFETY: A boundary of the staged text, run by this thread only.
                unsafe { set_breakpoint(path[0]) };
                assert_eq!(outer(x), 3 * x + 1_000);
                assert_eq!(BREAKPOINTS.take(), path[..1]);
                assert_eq!(STEPS.take(), path[1..]);
                assert_eq!(PROFILED.take(), if send { path } else { vec![] });
            }
        }
        assert_eq!(WRONG.load(Ordering::SeqCst), 0);
    });
}

fn die_of(test: &str, trap: fn()) {
    let output = common::child_output(test, || {
        let _stage = stage();
        trap();
    });
    if let Some(output) = output {
        let text = common::describe(&output);
        assert_eq!(output.status.signal(), Some(libc::SIGTRAP), "{text}");
        assert!(!text.contains(&common::marker(test)), "it went on\n{text}");
    }
}

#[test]
fn int3_of_the_program_kills_it() {
    die_of("int3_of_the_program_kills_it", || {
        // SAFETY: It traps, and that is the test.
        unsafe { asm!("int3") };
    });
}

#[test]
fn sigtrap_sent_by_the_program_kills_it() {
    die_of("sigtrap_sent_by_the_program_kills_it", || {
        tgkill(gettid(), libc::SIGTRAP).expect("we live");
    });
}

static SENT_ON: AtomicI32 = AtomicI32::new(0);
static SENT_ON_AT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn earlier(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: It is the handler's third argument.
    let context = unsafe { Context::from_raw(context) };
    SENT_ON.fetch_add(1, Ordering::SeqCst);
    SENT_ON_AT.store(context.pc(), Ordering::SeqCst);
}

#[test]
fn foreign_traps_go_to_the_earlier_handler() {
    in_child("foreign_traps_go_to_the_earlier_handler", || {
        // SAFETY: The handler stores into atomics.
        unsafe { common::handle(libc::SIGTRAP, 0, earlier) };
        let _stage = stage();
        let after: usize;
        // SAFETY: The handlers leave all registers alone, and go on behind it.
        unsafe { asm!("int3", "2: lea {}, [rip + 2b]", out(reg) after) };
        assert_eq!(SENT_ON.load(Ordering::SeqCst), 1, "handled once");
        assert_eq!(SENT_ON_AT.load(Ordering::SeqCst), after);
        assert_eq!(BREAKPOINTS.take(), [], "our handler was not called");
        // SAFETY: As in `stage`.
        unsafe { install_trap_handler(on_trap, &[libc::SIGPROF]).expect("it can be installed") };
        // SAFETY: A boundary of the staged text, run by this thread only.
        unsafe { set_breakpoint(path(1)[0]) };
        assert_eq!(outer(1), 1_003);
        assert_eq!(BREAKPOINTS.take().len(), 1, "ours again");
        tgkill(gettid(), libc::SIGTRAP).expect("we live");
        assert_eq!(SENT_ON.load(Ordering::SeqCst), 2);
    });
}
