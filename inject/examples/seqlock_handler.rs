//! Attacks a signal handler that reads a pair of numbers under a sequence lock: a real SIGUSR1 at
//! every instruction of the writer. `update` is right; `update_late` takes the lock one store too
//! late, so a signal between its first two stores finds half a pair.
//!
//! `cargo run -p sigstorm-inject --example seqlock_handler`

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use sigstorm_inject::{
    CodeFunction, Region, SignalStack, Text, clear_breakpoint, gettid, handlers_on_signal_stack,
    install_trap_handler, set_breakpoint, tgkill,
};

static SEQUENCE: AtomicU64 = AtomicU64::new(0);
static PAIR: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

#[inline(never)]
#[unsafe(link_section = "update")]
fn update(value: u64) {
    SEQUENCE.fetch_add(1, SeqCst);
    PAIR[0].store(value, SeqCst);
    PAIR[1].store(value, SeqCst);
    SEQUENCE.fetch_add(1, SeqCst);
}

#[inline(never)]
#[unsafe(link_section = "update_late")]
fn update_late(value: u64) {
    PAIR[0].store(value, SeqCst);
    SEQUENCE.fetch_add(1, SeqCst);
    PAIR[1].store(value, SeqCst);
    SEQUENCE.fetch_add(1, SeqCst);
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);
static TORN: AtomicBool = AtomicBool::new(false);

/// The handler under attack: it trusts the pair while the sequence number is even.
extern "C" fn on_usr1(_: i32) {
    HANDLED.fetch_add(1, SeqCst);
    if SEQUENCE.load(SeqCst).is_multiple_of(2) && PAIR[0].load(SeqCst) != PAIR[1].load(SeqCst) {
        TORN.store(true, SeqCst);
    }
}

/// Sends SIGUSR1 at each instruction of `code`, which `writer` runs, and returns the instructions
/// at which the handler trusted half a pair.
fn attack(code: CodeFunction, writer: fn(u64)) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let region = Region::decode(&[code])?;
    // SAFETY: The program's own code is never unmapped.
    let _text = unsafe { Text::writable(code.start, code.end)? };
    let mut torn = Vec::new();
    for index in 0..region.count(0) {
        let address = region.address(0, index).ok_or("the instruction has just been counted")?;
        // SAFETY: A boundary of writable code, which this thread runs alone.
        unsafe { set_breakpoint(address) };
        writer(SEQUENCE.load(SeqCst) + 1);
        if clear_breakpoint().is_none() && TORN.swap(false, SeqCst) {
            torn.push(region.disassemble(0, index));
        }
    }
    println!("{}: {} signals, torn pairs at {torn:?}", code.name, HANDLED.swap(0, SeqCst));
    Ok(torn)
}

unsafe extern "C" {
    // The linker names the start and the end of a section.
    static __start_update: u8;
    static __stop_update: u8;
    static __start_update_late: u8;
    static __stop_update_late: u8;
}

/// Attacks both writers. Public for `tests/example.rs`, which runs it.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _stack = SignalStack::install()?;
    // SAFETY: Both handlers use atomics and system calls only.
    unsafe {
        libc::signal(libc::SIGUSR1, on_usr1 as *const () as usize);
        install_trap_handler(|_| _ = tgkill(gettid(), libc::SIGUSR1), &[libc::SIGUSR1])?;
    }
    handlers_on_signal_stack()?;
    let code = |name, start: *const u8, end: *const u8| CodeFunction {
        name,
        start: start as usize,
        end: end as usize,
    };
    let right = code("update", &raw const __start_update, &raw const __stop_update);
    let wrong = code("update_late", &raw const __start_update_late, &raw const __stop_update_late);
    assert_eq!(attack(right, update)?, [""; 0], "a false alarm");
    assert!(!attack(wrong, update_late)?.is_empty(), "the mistake was not found");
    Ok(())
}
