//! Parking: a thread that waits in a system call of other code, and is woken or signalled there,
//! however soon.

mod common;

use std::arch::naked_asm;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;

use common::in_child;
use sigstorm_inject::{Baton, Call, CodeFunction, Context, ErrnoGuard, Parking, Region, SignalStack, Text};
use sigstorm_inject::{
    Trap, breakpoint, clear_breakpoint, gettid, install_trap_handler, pin, set_breakpoint_for, tgkill,
};

/// Times that each thread parks, and that it is signalled while it does, more or less.
const ROUNDS: usize = 1_000;
const MAIN: usize = 0;
const PARKER: usize = 1;

/// Makes `count` calls, given as words, each again as long as it is interrupted, and returns the
/// last one's result.
#[unsafe(naked)]
unsafe extern "C" fn make(calls: *const [usize; 7], count: usize) -> isize {
    naked_asm!(
        "push rbx",
        "push r12",
        "mov rbx, rdi",
        "mov r12, rsi",
        "2:",
        "mov rax, [rbx]",
        "mov rdi, [rbx + 8]",
        "mov rsi, [rbx + 16]",
        "mov rdx, [rbx + 24]",
        "mov r10, [rbx + 32]",
        "mov r8, [rbx + 40]",
        "mov r9, [rbx + 48]",
        "syscall",
        ".globl inject_test_after_call",
        "inject_test_after_call:",
        "cmp rax, -4",
        "je 2b",
        "add rbx, 56",
        "dec r12",
        "jnz 2b",
        "pop r12",
        "pop rbx",
        "ret",
        ".globl inject_test_make_end",
        "inject_test_make_end:",
    )
}

unsafe extern "C" {
    static inject_test_after_call: u8;
    static inject_test_make_end: u8;
}

/// The calls as words, in the order that `make` reads them in.
fn words(calls: &[Call]) -> Vec<[usize; 7]> {
    let one = |c: &Call| [c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5]];
    calls.iter().map(one).collect()
}

static BATON: Baton = Baton::new();
static PARKING: OnceLock<Parking> = OnceLock::new();
static SIGNALS: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);
/// Whether the handler wakes its own thread rather than passing the baton on.
static WAKES_ITSELF: AtomicBool = AtomicBool::new(false);

extern "C" fn on_sigprof(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let _errno = ErrnoGuard::save();
    // SAFETY: It is the handler's third argument.
    let context = unsafe { Context::from_raw(context) };
    let there = context.pc() == &raw const inject_test_after_call as usize;
    let interrupted = context.rax() as isize == -(libc::EINTR as isize);
    WRONG.fetch_add(usize::from(!there || !interrupted), Ordering::SeqCst);
    SIGNALS.fetch_add(1, Ordering::SeqCst);
    match WAKES_ITSELF.swap(false, Ordering::SeqCst) {
        true => PARKING.get().expect("parked").wake(),
        // From here on this thread runs without the baton, back to the wait.
        false => BATON.pass(MAIN),
    }
}

static OTHERS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_usr1(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    OTHERS.fetch_add(1, Ordering::SeqCst);
}

static PARKER_ID: AtomicI32 = AtomicI32::new(0);

fn parker_id() -> i32 {
    PARKER_ID.load(Ordering::SeqCst)
}

/// A thread that parks `ROUNDS` times, handing the baton to the main one each time.
fn parker() -> thread::JoinHandle<()> {
    let (ready, started) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _stack = SignalStack::install().expect("memory");
        let parking = PARKING.get_or_init(|| Parking::new(libc::SIGPROF).expect("a parking place"));
        PARKER_ID.store(gettid(), Ordering::SeqCst);
        ready.send(()).expect("the main thread waits");
        BATON.wait(PARKER);
        for _ in 0..ROUNDS {
            let calls = words(&[parking.block_call(), BATON.pass_call(MAIN), parking.wait_call()]);
            // SAFETY: The calls are those that park, and their memory is static.
            let woken = unsafe { make(calls.as_ptr(), calls.len()) };
            WRONG.fetch_add(usize::from(woken != 1), Ordering::SeqCst);
            parking.leave();
        }
        BATON.pass(MAIN);
    });
    started.recv().expect("it has begun");
    thread
}

#[test]
fn signal_to_a_parked_thread_arrives_after_its_wait_instruction() {
    in_child("signal_to_a_parked_thread_arrives_after_its_wait_instruction", || {
        pin(0).expect("an allowed core");
        // SAFETY: The handler stores into atomics and makes system calls.
        unsafe {
            common::handle(libc::SIGPROF, libc::SA_ONSTACK | libc::SA_RESTART, on_sigprof);
            common::handle(libc::SIGUSR1, libc::SA_ONSTACK, on_usr1);
        }
        let parker = parker();
        let parking = PARKING.get().expect("it has begun");
        let mut sent = 0;
        BATON.pass_and_wait(MAIN, PARKER);
        for round in 0..ROUNDS {
            // One of another kind, for this thread or that: it does not end the wait.
            if round % 7 == 0 {
                tgkill(parker_id(), libc::SIGUSR1).expect("it lives");
            }
            // None, one or two in a row, and at times it wakes itself in the last.
            for _ in 0..round % 3 {
                parking.interrupt();
                sent += 1;
                BATON.wait(MAIN);
            }
            if round % 4 == 0 {
                WAKES_ITSELF.store(true, Ordering::SeqCst);
                parking.interrupt();
                sent += 1;
            } else {
                parking.wake();
            }
            BATON.wait(MAIN);
        }
        parker.join().expect("no panic");
        assert_eq!(SIGNALS.load(Ordering::SeqCst), sent, "a signal was lost, or came twice");
        assert!(sent > ROUNDS, "{sent}");
        assert!(OTHERS.load(Ordering::SeqCst) > ROUNDS / 10, "they arrive once it does not wait");
        assert_eq!(WRONG.load(Ordering::SeqCst), 0, "elsewhere, or not interrupted");
    });
}

static HITS: AtomicUsize = AtomicUsize::new(0);

fn on_trap(trap: &mut Trap<'_>) {
    HITS.fetch_add(1, Ordering::SeqCst);
    WRONG.fetch_add(usize::from(trap.pc() != make as *const () as usize), Ordering::SeqCst);
}

#[test]
fn thread_waits_at_a_breakpoint_for_another_thread() {
    in_child("thread_waits_at_a_breakpoint_for_another_thread", || {
        pin(0).expect("an allowed core");
        let (start, end) = (make as *const () as usize, &raw const inject_test_make_end as usize);
        Region::decode(&[CodeFunction { name: "make", start, end }]).expect("code");
        // SAFETY: The program's own code.
        let _text = unsafe { Text::writable(start, end) }.expect("writable");
        // SAFETY: The handler stores into atomics.
        unsafe { install_trap_handler(on_trap, &[libc::SIGPROF]) }.expect("a handler");
        let nothing = words(&[BATON.pass_call(7)]);
        for round in 0..ROUNDS {
            // SAFETY: A boundary of writable code; the other thread may run it, too.
            unsafe { set_breakpoint_for(start, gettid()) };
            let calls = nothing.clone();
            // SAFETY: The call passes a baton that no thread waits for.
            let other = thread::spawn(move || unsafe { make(calls.as_ptr(), 1) });
            for _ in 0..round % 4 {
                thread::yield_now();
            }
            assert_eq!(breakpoint(), Some(start), "the other has taken it for its own");
            // Every fifth time it is given up rather than hit.
            if round % 5 == 0 {
                assert_eq!(clear_breakpoint(), Some(start));
            } else {
                // SAFETY: As above.
                assert_eq!(unsafe { make(nothing.as_ptr(), 1) }, 0);
            }
            assert_eq!(other.join().expect("no panic"), 0);
        }
        assert_eq!((HITS.load(Ordering::SeqCst), WRONG.load(Ordering::SeqCst)), (ROUNDS - ROUNDS / 5, 0));
        assert_eq!(breakpoint(), None);
    });
}

#[test]
fn leaving_the_parking_place_unblocks_the_signal() {
    in_child("leaving_the_parking_place_unblocks_the_signal", || {
        let blocked = || {
            // SAFETY: All-zero bytes are a valid set.
            let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
            // SAFETY: The set is live; nothing is changed.
            assert_eq!(unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask) }, 0);
            // SAFETY: The set was written.
            unsafe { libc::sigismember(&mask, libc::SIGPROF) == 1 }
        };
        let parking = Parking::new(libc::SIGPROF).expect("a parking place");
        assert!(!blocked());
        let calls = words(&[parking.block_call(), parking.wake_call(), parking.wait_call()]);
        // SAFETY: The calls are those that park, and it wakes itself.
        assert_eq!(unsafe { make(calls.as_ptr(), calls.len()) }, 1);
        assert!(blocked(), "until it leaves");
        parking.leave();
        assert!(!blocked());
    });
}
