//! The ladder: a stop at every boundary, each time that a thread reaches it; and breakpoints that
//! count visits without single-stepping.

mod common;

use std::arch::naked_asm;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Log, in_child};
use sigstorm_inject::{
    Baton, CodeFunction, Context, Ladder, Region, SignalStack, Text, Trap, TrapKind, clear_breakpoint,
    gettid, install_trap_handler, set_breakpoint, tgkill,
};

/// `ring(n)` calls `step` n times, and `spin` in the end: `3 * n + 1_000`.
#[unsafe(naked)]
extern "C" fn ring(n: u64) -> u64 {
    naked_asm!(
        "mov eax, 1000",
        "test rdi, rdi",
        "je 3f",
        "2:",
        "call {step}",
        "dec rdi",
        "jnz 2b",
        "3:",
        "lea rdx, [rip + {spin}]",
        "call rdx",
        "ret",
        ".globl inject_test_ring_end",
        "inject_test_ring_end:",
        step = sym step,
        spin = sym spin,
    )
}

#[unsafe(naked)]
extern "C" fn step() {
    naked_asm!("add rax, 3", "ret", ".globl inject_test_step_end", "inject_test_step_end:")
}

/// An instruction that follows itself.
#[unsafe(naked)]
extern "C" fn spin() {
    naked_asm!("mov ecx, 3", "2:", "loop 2b", "ret", ".globl inject_test_spin_end", "inject_test_spin_end:")
}

unsafe extern "C" {
    static inject_test_ring_end: u8;
    static inject_test_step_end: u8;
    static inject_test_spin_end: u8;
}

const RING: usize = 0;
const STEP: usize = 1;
const SPIN: usize = 2;

fn functions() -> [CodeFunction; 3] {
    let function = |name, start: *const (), end: *const u8| CodeFunction {
        name,
        start: start as usize,
        end: end as usize,
    };
    [
        function("ring", ring as *const (), &raw const inject_test_ring_end),
        function("step", step as *const (), &raw const inject_test_step_end),
        function("spin", spin as *const (), &raw const inject_test_spin_end),
    ]
}

static REGION: OnceLock<Region> = OnceLock::new();
static LADDER: OnceLock<Ladder> = OnceLock::new();
/// The boundaries that were reached, in order: `pc << 1 | profiled`.
static LOG: Log<512> = Log::new();
static SEND: AtomicBool = AtomicBool::new(false);
/// The breakpoint that counts visits: its address, and the visits that are left.
static AT: AtomicUsize = AtomicUsize::new(0);
static LEFT: AtomicUsize = AtomicUsize::new(0);
static STOPS: AtomicUsize = AtomicUsize::new(0);
static FLAG: AtomicUsize = AtomicUsize::new(0);
/// Hands the turn to the other thread at every boundary, while `TURNS` is set.
static BATON: Baton = Baton::new();
static TURNS: AtomicBool = AtomicBool::new(false);

std::thread_local! {
    static SLOT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn ladder() -> &'static Ladder {
    LADDER.get().expect("staged")
}

fn on_trap(trap: &mut Trap<'_>) {
    if AT.load(Ordering::SeqCst) != 0 {
        return count_visits(trap);
    }
    LOG.push(trap.pc() << 1);
    if SEND.load(Ordering::SeqCst) && !trap.blocks(libc::SIGPROF) {
        tgkill(gettid(), libc::SIGPROF).expect("a signal");
    }
    if TURNS.load(Ordering::SeqCst) {
        let slot = SLOT.get();
        let mine = ladder().close();
        BATON.pass_and_wait(slot, 1 - slot);
        ladder().open(mine);
    }
}

/// As an executor does with a hit count.
fn count_visits(trap: &mut Trap<'_>) {
    let at = AT.load(Ordering::SeqCst);
    match trap.kind() {
        TrapKind::Breakpoint if LEFT.load(Ordering::SeqCst) > 1 => {
            LEFT.fetch_sub(1, Ordering::SeqCst);
            // SAFETY: The staged text; this thread runs it alone.
            if !unsafe { ladder().arm_after(at) } {
                FLAG.fetch_add(1, Ordering::SeqCst);
                trap.set_single_step(true);
            }
        }
        TrapKind::Breakpoint => {
            STOPS.fetch_add(1, Ordering::SeqCst);
        }
        TrapKind::Rung | TrapKind::Step => {
            trap.set_single_step(false);
            ladder().disarm();
            // SAFETY: As above, and the ladder is disarmed.
            unsafe { set_breakpoint(at) };
        }
    }
}

extern "C" fn on_sigprof(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: It is the handler's third argument.
    let context = unsafe { Context::from_raw(context) };
    LOG.push(context.pc() << 1 | 1);
}

struct Stage {
    text: Text,
    _stack: SignalStack,
}

fn stage() -> Stage {
    let region = REGION.get_or_init(|| Region::decode(&functions()).expect("it is code"));
    LADDER.get_or_init(|| Ladder::new(region));
    let stack = SignalStack::install().expect("memory");
    // SAFETY: Both handlers store into atomics and make raw system calls.
    unsafe {
        install_trap_handler(on_trap, &[libc::SIGPROF]).expect("it can be installed");
        common::handle(libc::SIGPROF, libc::SA_ONSTACK, on_sigprof);
    }
    let first = functions().iter().map(|f| f.start).min().expect("three functions");
    let last = functions().iter().map(|f| f.end).max().expect("three functions");
    // SAFETY: This is a test's own code, which stays mapped.
    let text = unsafe { Text::writable(first, last) }.expect("it is code");
    Stage { text, _stack: stack }
}

/// The boundaries that `ring(n)` crosses, in order.
fn path(n: u64) -> Vec<usize> {
    let region = REGION.get().expect("staged");
    let at = |f, index| region.address(f, index).expect("it exists");
    let mut path: Vec<usize> = (0..3).map(|index| at(RING, index)).collect();
    for _ in 0..n {
        path.extend([at(RING, 3), at(STEP, 0), at(STEP, 1), at(RING, 4), at(RING, 5)]);
    }
    // The `loop` runs three times and is seen once: it follows itself.
    path.extend([at(RING, 6), at(RING, 7), at(SPIN, 0), at(SPIN, 1), at(SPIN, 2), at(RING, 8)]);
    path
}

fn boundaries() -> Vec<usize> {
    let region = REGION.get().expect("staged");
    (0..3)
        .flat_map(|f| (0..region.count(f)).map(move |index| region.address(f, index).expect("it exists")))
        .collect()
}

#[test]
fn ladder_stops_at_every_boundary_in_order() {
    in_child("ladder_stops_at_every_boundary_in_order", || {
        let _stage = stage();
        for (n, send) in [(0, false), (3, false), (0, true), (3, true)] {
            SEND.store(send, Ordering::SeqCst);
            // SAFETY: The staged text; this thread runs it alone.
            unsafe { ladder().arm_all() };
            assert!(ladder().is_armed());
            assert_eq!(ring(n), 3 * n + 1_000);
            ladder().disarm();
            let expected: Vec<usize> = path(n).into_iter().flat_map(|pc| [pc << 1, pc << 1 | 1]).collect();
            let expected: Vec<usize> = expected.into_iter().filter(|e| send || e & 1 == 0).collect();
            assert_eq!(LOG.take(), expected, "{n}, {send}");
            assert_eq!(ring(n), 3 * n + 1_000);
            assert_eq!(LOG.take(), [], "nothing is armed any more");
        }
    });
}

#[test]
fn two_threads_climb_one_ladder_in_turns() {
    in_child("two_threads_climb_one_ladder_in_turns", || {
        let _stage = stage();
        TURNS.store(true, Ordering::SeqCst);
        // SAFETY: The staged text; the two threads that run it take turns.
        unsafe { ladder().arm_all() };
        let other = std::thread::spawn(|| {
            let _stack = SignalStack::install().expect("memory");
            SLOT.set(1);
            BATON.wait(1);
            let result = ring(3);
            // From here on the first thread is alone.
            TURNS.store(false, Ordering::SeqCst);
            BATON.pass(0);
            result
        });
        // The second thread reaches its first boundary second, so it is done second.
        assert_eq!(ring(3), 1_009);
        BATON.pass(1);
        assert_eq!(other.join().expect("no panic"), 1_009);
        ladder().disarm();
        let seen: Vec<usize> = LOG.take().into_iter().map(|entry| entry >> 1).collect();
        let expected: Vec<usize> = path(3).into_iter().flat_map(|pc| [pc, pc]).collect();
        assert_eq!(seen, expected);
    });
}

#[test]
fn breakpoint_counts_visits_without_the_trap_flag() {
    in_child("breakpoint_counts_visits_without_the_trap_flag", || {
        let _stage = stage();
        let path = path(4);
        let loops = REGION.get().and_then(|region| region.address(SPIN, 1)).expect("it exists");
        for address in boundaries() {
            // The `loop` runs three times.
            let crossed = if address == loops { 3 } else { path.iter().filter(|&&pc| pc == address).count() };
            for hit in 1..=crossed + 1 {
                AT.store(address, Ordering::SeqCst);
                LEFT.store(hit, Ordering::SeqCst);
                STOPS.store(0, Ordering::SeqCst);
                // SAFETY: A boundary of the staged text, run by this thread only.
                unsafe { set_breakpoint(address) };
                assert_eq!(ring(4), 1_012);
                clear_breakpoint();
                ladder().disarm();
                AT.store(0, Ordering::SeqCst);
                let stops = STOPS.load(Ordering::SeqCst);
                assert_eq!(stops, usize::from(hit <= crossed), "{address:#x}, hit {hit} of {crossed}");
            }
        }
        // SAFETY: As above; nothing is armed by this.
        assert!(!unsafe { ladder().arm_after(loops) }, "it may follow itself");
        assert!(!ladder().is_armed());
        // Its hits 2, 3 and 4 need one step, two and three; and a return that follows a call may
        // return to itself.
        assert_eq!(FLAG.load(Ordering::SeqCst), 7, "only there is the trap flag needed");
    });
}

#[test]
fn armed_ladder_is_not_decoded_as_code_and_goes_with_its_text() {
    in_child("armed_ladder_is_not_decoded_as_code_and_goes_with_its_text", || {
        let stage = stage();
        let clean = REGION.get().expect("staged");
        assert_eq!(ladder().len(), (0..3).map(|f| clean.count(f)).sum::<usize>());
        // SAFETY: The staged text; this thread runs it alone.
        unsafe { ladder().arm_all() };
        let patched = Region::decode(&functions()).expect("it is code");
        for f in 0..3 {
            assert_eq!(clean.boundaries(f), patched.boundaries(f));
        }
        let byte = |address: usize| {
            // SAFETY: Code is readable.
            unsafe { (address as *const u8).read_volatile() }
        };
        assert!(boundaries().iter().all(|&address| byte(address) == 0xcc));
        stage.text.protect().expect("it can be protected");
        assert!(!ladder().is_armed());
        assert!(boundaries().iter().all(|&address| byte(address) != 0xcc));
        assert_eq!(ring(2), 1_006);
        assert_eq!(LOG.take(), []);
    });
}
