//! Two regions at once: their pages, their ladders, a breakpoint on a ladder's rung, and a thread
//! that is late at a breakpoint of the one while the other is in use.

mod common;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Log, child_output, describe, functions, in_child, outer};
use sigstorm_inject::{
    CodeFunction, Ladder, Region, SignalStack, Text, Trap, TrapKind, breakpoint, clear_breakpoint, gettid,
    install_trap_handler, set_breakpoint, set_breakpoint_for,
};

/// The regions of `outer` and of `inner`, which `outer` calls.
static REGIONS: [OnceLock<Region>; 2] = [const { OnceLock::new() }; 2];
static LADDERS: [OnceLock<Ladder>; 2] = [const { OnceLock::new() }; 2];
const OUTER: usize = 0;
const INNER: usize = 1;

static STOPS: Log<64> = Log::new();
/// The kinds of the stops: 0 for a breakpoint, 1 for a rung.
static KINDS: Log<64> = Log::new();
/// Boundaries with a wrong byte at a stop.
static WRONG: AtomicUsize = AtomicUsize::new(0);

fn region(of: usize) -> &'static Region {
    REGIONS[of].get_or_init(|| Region::decode(&functions()[of..=of]).expect("it is code"))
}

fn ladder(of: usize) -> &'static Ladder {
    LADDERS[of].get_or_init(|| Ladder::new(region(of)))
}

fn at(of: usize, index: usize) -> usize {
    region(of).address(0, index).expect("it exists")
}

fn boundaries(of: usize) -> Vec<usize> {
    (0..region(of).count(0)).map(|index| at(of, index)).collect()
}

fn byte(address: usize) -> u8 {
    // SAFETY: Tests pass addresses of code, which is readable.
    unsafe { (address as *const u8).read_volatile() }
}

fn is_patched(address: usize) -> bool {
    byte(address) == 0xcc
}

fn on_trap(trap: &mut Trap<'_>) {
    STOPS.push(trap.pc());
    KINDS.push(match trap.kind() {
        TrapKind::Breakpoint => 0,
        TrapKind::Rung => 1,
        TrapKind::Step => 2,
    });
    for (regions, ladders) in REGIONS.iter().zip(&LADDERS) {
        let (Some(region), Some(ladder)) = (regions.get(), ladders.get()) else { continue };
        let addresses = (0..region.count(0)).filter_map(|index| region.address(0, index));
        // The instruction that runs next is whole. Every other of an armed ladder is patched.
        let wrong = addresses.filter(|&address| {
            let patched = (ladder.is_armed() && address != trap.pc()) || breakpoint() == Some(address);
            is_patched(address) != patched
        });
        WRONG.fetch_add(wrong.count(), Ordering::SeqCst);
    }
}

fn writable(function: CodeFunction) -> Text {
    // SAFETY: The test's own code stays mapped.
    unsafe { Text::writable(function.start, function.end) }.expect("it is code")
}

/// Both regions, writable, and the handler.
fn stage() -> ([Text; 2], SignalStack) {
    // Ladders are made before a handler looks for them.
    ladder(OUTER);
    ladder(INNER);
    let stack = SignalStack::install().expect("memory");
    // SAFETY: The handler stores into atomics.
    unsafe { install_trap_handler(on_trap, &[]) }.expect("a handler");
    (functions().map(writable), stack)
}

/// The boundaries that `outer(x)` crosses for an `x` that is not zero, in order.
fn path() -> Vec<usize> {
    let outer = |range: std::ops::Range<usize>| range.map(|index| at(OUTER, index));
    outer(0..6).chain(boundaries(INNER)).chain(outer(6..9)).collect()
}

#[test]
fn neighbouring_regions_share_a_page() {
    in_child("neighbouring_regions_share_a_page", || {
        let ([outer_text, inner_text], _stack) = stage();
        let page = |address: usize| address & !4095;
        assert_eq!(page(at(OUTER, 0)), page(at(INNER, 0)), "else this tests nothing");
        outer_text.protect().expect("it can be protected");
        // SAFETY: A boundary of writable code, which this thread runs alone.
        unsafe { set_breakpoint(at(INNER, 1)) };
        assert_eq!(outer(5), 1_015);
        assert_eq!(STOPS.take(), [at(INNER, 1)], "the page has stayed writable");
        inner_text.protect().expect("it can be protected");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("it can be read");
        assert!(!maps.contains("rwxp"), "a page has stayed writable:\n{maps}");
        drop(functions().map(writable));
    });
}

#[test]
fn ladders_of_two_regions_see_one_path() {
    in_child("ladders_of_two_regions_see_one_path", || {
        let _stage = stage();
        // SAFETY: The staged text; this thread runs it alone.
        unsafe { ladder(OUTER).arm_all() };
        // SAFETY: As above.
        unsafe { ladder(INNER).arm_all() };
        for _ in 0..2 {
            assert_eq!(outer(5), 1_015);
            assert_eq!(STOPS.take(), path());
            assert_eq!(KINDS.take(), vec![1; path().len()]);
        }
        ladder(OUTER).disarm();
        assert!(!ladder(OUTER).is_armed() && ladder(INNER).is_armed());
        assert_eq!(outer(5), 1_015);
        assert_eq!(STOPS.take(), boundaries(INNER), "the other ladder stays");
        ladder(INNER).disarm();
        assert_eq!(outer(5), 1_015);
        assert_eq!(STOPS.take(), []);
        assert_eq!(WRONG.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn open_rung_is_closed_from_its_own_ladder_only() {
    in_child("open_rung_is_closed_from_its_own_ladder_only", || {
        let _stage = stage();
        // SAFETY: The staged text; this thread runs it alone.
        unsafe { ladder(OUTER).arm_all() };
        // SAFETY: As above.
        unsafe { ladder(INNER).arm_all() };
        ladder(OUTER).open(Some(at(OUTER, 2)));
        assert!(!is_patched(at(OUTER, 2)));
        assert_eq!(ladder(INNER).close(), None);
        assert!(!is_patched(at(OUTER, 2)));
        assert_eq!(ladder(OUTER).close(), Some(at(OUTER, 2)));
        assert!(is_patched(at(OUTER, 2)));
        assert_eq!(ladder(OUTER).close(), None, "it is closed already");
        ladder(OUTER).disarm();
        ladder(INNER).disarm();
        ladder(OUTER).open(Some(at(OUTER, 2)));
        assert_eq!(ladder(OUTER).close(), None, "nothing is armed");
        assert!(!is_patched(at(OUTER, 2)));
    });
}

#[test]
fn breakpoint_in_one_region_and_ladder_in_the_other_both_stop() {
    in_child("breakpoint_in_one_region_and_ladder_in_the_other_both_stop", || {
        let _stage = stage();
        // SAFETY: The staged text; this thread runs it alone.
        unsafe { ladder(INNER).arm_all() };
        // SAFETY: As above.
        unsafe { set_breakpoint(at(OUTER, 6)) };
        assert_eq!(outer(5), 1_015);
        let expected: Vec<usize> = boundaries(INNER).into_iter().chain([at(OUTER, 6)]).collect();
        assert_eq!(STOPS.take(), expected);
        assert_eq!(KINDS.take(), [1, 1, 1, 0]);
        assert_eq!(WRONG.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn breakpoint_on_a_rung_stops_once_and_leaves_the_rung() {
    in_child("breakpoint_on_a_rung_stops_once_and_leaves_the_rung", || {
        let _stage = stage();
        let clean = boundaries(INNER).into_iter().map(byte).collect::<Vec<_>>();
        // SAFETY: The staged text; this thread runs it alone.
        unsafe { ladder(INNER).arm_all() };
        // SAFETY: As above.
        unsafe { set_breakpoint(at(INNER, 1)) };
        assert_eq!(outer(5), 1_015);
        assert_eq!((STOPS.take(), KINDS.take()), (boundaries(INNER), vec![1, 0, 1]));
        assert_eq!(outer(5), 1_015);
        assert_eq!((STOPS.take(), KINDS.take()), (boundaries(INNER), vec![1, 1, 1]));

        // Given up on a rung, it leaves the rung.
        // SAFETY: As above.
        unsafe { set_breakpoint(at(INNER, 1)) };
        assert_eq!(clear_breakpoint(), Some(at(INNER, 1)));
        assert!(is_patched(at(INNER, 1)));
        // And without the ladder, the breakpoint.
        // SAFETY: As above.
        unsafe { set_breakpoint(at(INNER, 1)) };
        ladder(INNER).disarm();
        assert_eq!(boundaries(INNER).into_iter().map(is_patched).collect::<Vec<_>>(), [false, true, false]);
        let decoded = Region::decode(&functions()[INNER..]).expect("it is code");
        assert_eq!(decoded.boundaries(0), region(INNER).boundaries(0), "a patch was taken for code");
        assert_eq!(clear_breakpoint(), Some(at(INNER, 1)));
        assert_eq!(boundaries(INNER).into_iter().map(byte).collect::<Vec<_>>(), clean);
        assert_eq!(WRONG.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn protecting_one_region_leaves_the_others_ladder_and_breakpoint() {
    in_child("protecting_one_region_leaves_the_others_ladder_and_breakpoint", || {
        let ([outer_text, inner_text], _stack) = stage();
        // SAFETY: The staged text; this thread runs it alone.
        unsafe { ladder(INNER).arm_all() };
        // SAFETY: As above.
        unsafe { set_breakpoint(at(INNER, 0)) };
        outer_text.protect().expect("it can be protected");
        assert!(ladder(INNER).is_armed());
        assert_eq!(breakpoint(), Some(at(INNER, 0)));
        inner_text.protect().expect("it can be protected");
        assert!(!ladder(INNER).is_armed());
        assert_eq!(breakpoint(), None);
        assert_eq!(outer(5), 1_015);
        assert_eq!(STOPS.take(), []);
    });
}

#[test]
fn two_ladders_at_one_address_abort() {
    use std::os::unix::process::ExitStatusExt;
    let output = child_output("two_ladders_at_one_address_abort", || {
        let _stage = stage();
        let again: &'static Ladder = Box::leak(Box::new(Ladder::new(region(INNER))));
        // SAFETY: The staged text; no thread runs it.
        unsafe { ladder(INNER).arm_all() };
        // SAFETY: As above.
        unsafe { again.arm_all() };
    });
    if let Some(output) = output {
        let text = describe(&output);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
        assert!(text.contains("two ladders are armed at one address"), "{text}");
    }
}

/// The thread is late at a breakpoint that is gone, or set again between its two looks at it, and
/// another region was made writable since.
#[test]
fn thread_without_the_baton_survives_a_breakpoint_that_comes_and_goes() {
    in_child("thread_without_the_baton_survives_a_breakpoint_that_comes_and_goes", || {
        let _stage = stage();
        let elsewhere = libc::getppid as *const () as usize;
        // SAFETY: The C library's code stays mapped.
        let _text = unsafe { Text::writable(elsewhere, elsewhere + 1) }.expect("it is code");
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut runs = 0;
                while done.load(Ordering::SeqCst) == 0 || runs < 1_000 {
                    assert_eq!(outer(1), 1_003);
                    runs += 1;
                }
            });
            for _ in 0..300_000 {
                // SAFETY: A boundary of writable code; the other thread may run it, too.
                unsafe { set_breakpoint_for(at(OUTER, 0), gettid()) };
                clear_breakpoint();
            }
            done.store(1, Ordering::SeqCst);
            other.join().expect("no panic");
        });
        assert_eq!(STOPS.take(), []);
    });
}
