//! Any signal that is held off lands exactly at the boundary: SIGUSR1 at every instruction of a C
//! function and of a Rust function, in turn.

#[macro_use]
#[path = "common/attacked.rs"]
mod attacked;
mod common;
#[path = "common/programs.rs"]
mod programs;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use attacked::mix;
use common::{Log, in_child};
use programs::compile_shared;
use sigstorm_inject::{
    CodeFunction, Context, Region, SignalStack, Text, Trap, clear_breakpoint, gettid, install_trap_handler,
    set_breakpoint, tgkill,
};

/// Together these take every branch of both functions.
const INPUTS: [&str; 4] = ["", "%", "aZ%z", "Z"];

static STOPS: Log<64> = Log::new();
static SIGNALS: Log<64> = Log::new();
static SEND_FAILED: AtomicBool = AtomicBool::new(false);

fn on_trap(trap: &mut Trap<'_>) {
    STOPS.push(trap.pc());
    if tgkill(gettid(), libc::SIGUSR1).is_err() {
        SEND_FAILED.store(true, Ordering::SeqCst);
    }
}

extern "C" fn on_usr1(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: It is the handler's third argument.
    let context = unsafe { Context::from_raw(context) };
    SIGNALS.push(context.pc());
}

/// Installs both handlers; the trap handler holds these signals off.
fn install(held_off: &[i32]) -> SignalStack {
    let stack = SignalStack::install().expect("memory");
    // SAFETY: Both handlers store into atomics and make raw system calls.
    unsafe {
        install_trap_handler(on_trap, held_off).expect("signals that exist");
        common::handle(libc::SIGUSR1, libc::SA_ONSTACK, on_usr1);
    }
    stack
}

/// The instructions of the region's one function that a path leads to and that can return.
fn reachable(region: &Region) -> BTreeSet<usize> {
    let (flow, traps) = (region.flow(0), region.always_traps(0));
    let mut reachable = BTreeSet::new();
    let mut todo = vec![0];
    while let Some(index) = todo.pop() {
        assert!(!flow[index].anywhere, "a jump table: its targets are unknown");
        if !traps[index] && reachable.insert(index) {
            todo.extend(flow[index].next.iter().flatten());
        }
    }
    reachable
}

/// Stops at every instruction of `code` in turn, with SIGUSR1 there.
fn signal_everywhere(code: CodeFunction, run: impl Fn(&str) -> u64) {
    let region = Region::decode(&[code]).expect("it is code");
    let undisturbed = INPUTS.map(&run);
    // SAFETY: The code stays mapped for the process's life.
    let _text = unsafe { Text::writable(code.start, code.end) }.expect("it is code");
    let mut reached = BTreeSet::new();
    for index in 0..region.count(0) {
        let address = region.address(0, index).expect("it exists");
        for (input, expected) in INPUTS.iter().zip(undisturbed) {
            // SAFETY: A boundary of writable code, which this thread runs alone.
            unsafe { set_breakpoint(address) };
            let result = run(input);
            let hit = clear_breakpoint().is_none();
            let at = region.disassemble(0, index);
            assert_eq!(result, expected, "a signal at {at} changed the result for {input:?}");
            let expected = if hit { vec![address] } else { vec![] };
            assert_eq!(STOPS.take(), expected, "stops for {input:?} at {at}");
            assert_eq!(SIGNALS.take(), expected, "signals for {input:?} at {at}");
            if hit {
                reached.insert(index);
            }
        }
    }
    assert!(!SEND_FAILED.load(Ordering::SeqCst));
    let listing = |index: &usize| (*index, region.disassemble(0, *index));
    let missed: Vec<_> = reachable(&region).difference(&reached).map(listing).collect();
    assert_eq!(missed, [], "a path leads there, and no input stopped there");
    assert!(reached.len() > 20, "{} instructions are no test", reached.len());
}

/// Compiles `tests/c/attacked.c` into a shared object with the machine's C compiler.
fn compile(optimisation: &str) -> PathBuf {
    compile_shared("attacked.c", &format!("attacked{optimisation}.so"), &[optimisation, "-shared", "-fPIC"])
}

struct Library(*mut libc::c_void);

impl Library {
    fn open(path: &Path) -> Library {
        let path = CString::new(path.to_str().expect("a readable path")).expect("no zero byte");
        // SAFETY: The object is our own and runs nothing when it is loaded.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "{path:?} cannot be loaded");
        Library(handle)
    }

    fn symbol(&self, name: &str) -> *mut libc::c_void {
        let name = CString::new(name).expect("no zero byte");
        // SAFETY: The handle is open, and never closed.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!symbol.is_null(), "no {name:?}");
        symbol
    }
}

fn signal_everywhere_in_c(optimisation: &str) {
    let library = Library::open(&compile(optimisation));
    let address = |name| {
        // SAFETY: Both functions take nothing and return a pointer.
        let function: extern "C" fn() -> *const u8 = unsafe { mem::transmute(library.symbol(name)) };
        function() as usize
    };
    let code =
        CodeFunction { name: "attacked", start: address("attacked_start"), end: address("attacked_end") };
    // SAFETY: It is the signature in the source.
    let attacked: extern "C" fn(*const u8, usize) -> u64 =
        unsafe { mem::transmute(library.symbol("attacked")) };
    assert_eq!(attacked as usize, code.start, "the section has this function alone");
    signal_everywhere(code, |text| attacked(text.as_ptr(), text.len()));
}

#[test]
fn sigusr1_lands_at_every_instruction_of_an_unoptimised_c_function() {
    in_child("sigusr1_lands_at_every_instruction_of_an_unoptimised_c_function", || {
        let _stack = install(&[libc::SIGUSR1]);
        signal_everywhere_in_c("-O0");
    });
}

#[test]
fn sigusr1_lands_at_every_instruction_of_an_optimised_c_function() {
    in_child("sigusr1_lands_at_every_instruction_of_an_optimised_c_function", || {
        // Among others, of which none is sent.
        let _stack = install(&[libc::SIGPROF, libc::SIGUSR1, libc::SIGRTMIN()]);
        signal_everywhere_in_c("-O2");
    });
}

attacked!(attacked_rust, "attacked_rust");

unsafe extern "C" {
    static __start_attacked_rust: u8;
    static __stop_attacked_rust: u8;
}

#[test]
fn sigusr1_lands_at_every_instruction_of_a_rust_function() {
    in_child("sigusr1_lands_at_every_instruction_of_a_rust_function", || {
        let _stack = install(&[libc::SIGUSR1]);
        let code = CodeFunction {
            name: "attacked_rust",
            start: &raw const __start_attacked_rust as usize,
            end: &raw const __stop_attacked_rust as usize,
        };
        assert_eq!(attacked_rust as *const () as usize, code.start, "the section has this function alone");
        signal_everywhere(code, |text| attacked_rust(text.as_bytes()));
    });
}

/// The first instruction of the Rust function, in writable code, and the function run with a stop there.
fn signal_at_first_instruction() -> (usize, Vec<usize>) {
    let address = attacked_rust as *const () as usize;
    // SAFETY: The test's own code stays mapped.
    let _text = unsafe { Text::writable(address, address + 1) }.expect("it is code");
    // SAFETY: A boundary of writable code, which this thread runs alone.
    unsafe { set_breakpoint(address) };
    attacked_rust(b"a");
    assert_eq!(STOPS.take(), [address]);
    (address, SIGNALS.take())
}

#[test]
fn signal_that_is_not_held_off_lands_inside_the_trap_handler() {
    in_child("signal_that_is_not_held_off_lands_inside_the_trap_handler", || {
        let _stack = install(&[libc::SIGPROF]);
        let (address, signals) = signal_at_first_instruction();
        assert_eq!(signals.len(), 1);
        assert_ne!(signals[0], address, "it was to be sent before the handler returns");
    });
}

static SECOND: Log<64> = Log::new();

extern "C" fn on_usr2(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: It is the handler's third argument.
    let context = unsafe { Context::from_raw(context) };
    SECOND.push(context.pc());
}

fn send_two(trap: &mut Trap<'_>) {
    on_trap(trap);
    if tgkill(gettid(), libc::SIGUSR2).is_err() {
        SEND_FAILED.store(true, Ordering::SeqCst);
    }
}

#[test]
fn second_signal_of_a_stop_lands_at_the_first_ones_handler() {
    in_child("second_signal_of_a_stop_lands_at_the_first_ones_handler", || {
        let _stack = install(&[]);
        // SAFETY: As in `install`.
        unsafe {
            install_trap_handler(send_two, &[libc::SIGUSR1, libc::SIGUSR2]).expect("signals that exist");
            common::handle(libc::SIGUSR2, libc::SA_ONSTACK, on_usr2);
        }
        let (address, signals) = signal_at_first_instruction();
        assert_eq!(signals, [address]);
        assert_eq!(SECOND.take(), [on_usr1 as *const () as usize]);
        assert!(!SEND_FAILED.load(Ordering::SeqCst));
    });
}

#[test]
fn second_installation_replaces_the_signals_that_are_held_off() {
    in_child("second_installation_replaces_the_signals_that_are_held_off", || {
        let _stack = install(&[libc::SIGPROF]);
        // SAFETY: As in `install`.
        unsafe { install_trap_handler(on_trap, &[libc::SIGUSR1]) }.expect("a signal that exists");
        let (address, signals) = signal_at_first_instruction();
        assert_eq!(signals, [address]);
    });
}

#[test]
fn signals_that_cannot_be_held_off_are_refused_by_number() {
    in_child("signals_that_cannot_be_held_off_are_refused_by_number", || {
        for signal in [0, -1, 65, 1_000, libc::SIGKILL, libc::SIGSTOP] {
            // SAFETY: As in `install`.
            let error = unsafe { install_trap_handler(on_trap, &[libc::SIGUSR1, signal]) }
                .expect_err("no signal that can be blocked");
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(&format!("signal {signal} ")), "{error}");
        }
        // SAFETY: All-zero bytes are a valid sigaction.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: The record is live; nothing is set.
        assert_eq!(unsafe { libc::sigaction(libc::SIGTRAP, std::ptr::null(), &mut action) }, 0);
        assert_eq!(action.sa_sigaction, libc::SIG_DFL, "a refused call has installed a handler");
    });
}
