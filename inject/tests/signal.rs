//! Signal stacks, the flag that puts handlers on them, and sending.

mod common;

use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{in_child, stack_pointer};
use sigstorm_inject::{SIGNAL_STACK_SIZE, SignalStack, gettid, handlers_on_signal_stack, tgkill};

/// The calling thread's signal stack: base, flags, size.
fn current() -> (usize, i32, usize) {
    let mut stack = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: The record is live; nothing is set.
    assert_eq!(unsafe { libc::sigaltstack(ptr::null(), &mut stack) }, 0);
    (stack.ss_sp as usize, stack.ss_flags, stack.ss_size)
}

fn mapping(address: usize) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").expect("it can be read");
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).expect("hexadecimal");
        (number(from) <= address && address < number(to)).then(|| rest[..4].to_owned())
    })
}

#[test]
fn dropped_signal_stack_gives_way_to_the_previous_one() {
    in_child("dropped_signal_stack_gives_way_to_the_previous_one", || {
        thread::spawn(|| {
            let before = current();
            let outer = SignalStack::install().expect("memory");
            let bounds = outer.bounds();
            assert_eq!(bounds.len(), SIGNAL_STACK_SIZE);
            assert_eq!(current(), (bounds.start, 0, bounds.len()));
            assert_eq!(mapping(bounds.start).as_deref(), Some("rw-p"));
            assert_eq!(mapping(bounds.end - 1).as_deref(), Some("rw-p"));
            assert_eq!(mapping(bounds.start - 1).as_deref(), Some("---p"), "the guard");
            {
                let inner = SignalStack::install_sized(40_000).expect("memory");
                assert_eq!(inner.bounds().len(), 40_960, "whole pages");
                assert_eq!(current().0, inner.bounds().start);
            }
            assert_eq!(current(), (bounds.start, 0, bounds.len()), "the previous one");
            drop(outer);
            // The kernel forgets where a disabled stack was.
            assert_eq!(current().1, before.1);
            if before.1 & libc::SS_DISABLE == 0 {
                assert_eq!(current(), before);
            }
            assert_ne!(mapping(bounds.start).as_deref(), Some("rw-p"), "unmapped");
        })
        .join()
        .expect("no panic");
    });
}

#[test]
fn thread_without_a_signal_stack_has_none_after_the_drop() {
    in_child("thread_without_a_signal_stack_has_none_after_the_drop", || {
        thread::spawn(|| {
            let before = current();
            let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            // SAFETY: A thread without a signal stack is legal.
            assert_eq!(unsafe { libc::sigaltstack(&none, ptr::null_mut()) }, 0);
            let stack = SignalStack::install().expect("memory");
            assert_eq!(current().1 & libc::SS_DISABLE, 0);
            drop(stack);
            assert_ne!(current().1 & libc::SS_DISABLE, 0);
            let again = libc::stack_t { ss_sp: before.0 as *mut _, ss_flags: before.1, ss_size: before.2 };
            // SAFETY: It was this thread's stack before, and is still mapped.
            assert_eq!(unsafe { libc::sigaltstack(&again, ptr::null_mut()) }, 0);
        })
        .join()
        .expect("no panic");
    });
}

#[test]
fn signal_stacks_of_impossible_sizes_are_refused() {
    for size in [usize::MAX, isize::MAX as usize, 1 << 60] {
        let error = SignalStack::install_sized(size).expect_err("no such memory");
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{size:#x}: {error}");
    }
}

static HANDLED_AT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_usr1(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    HANDLED_AT.store(stack_pointer(), Ordering::SeqCst);
}

fn flags(signal: i32) -> i32 {
    /// The C library sets this flag itself; the libc crate does not define it.
    const SA_RESTORER: i32 = 0x0400_0000;
    // SAFETY: All-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: The record is live; nothing is set.
    let result = unsafe { libc::sigaction(signal, ptr::null(), &mut action) };
    assert_eq!(result, 0);
    action.sa_flags & !SA_RESTORER
}

#[test]
fn every_handler_is_moved_to_the_signal_stack_once() {
    in_child("every_handler_is_moved_to_the_signal_stack_once", || {
        handlers_on_signal_stack().expect("handlers can be read");
        let stack = SignalStack::install().expect("memory");
        // SAFETY: The handler stores into an atomic.
        unsafe {
            common::handle(libc::SIGUSR1, libc::SA_RESTART, on_usr1);
            common::handle(libc::SIGUSR2, libc::SA_ONSTACK, on_usr1);
            common::handle(libc::SIGRTMAX(), 0, on_usr1);
        }
        let send = || {
            tgkill(gettid(), libc::SIGUSR1).expect("we live");
            HANDLED_AT.swap(0, Ordering::SeqCst)
        };
        let at = send();
        assert_ne!(at, 0, "handled");
        assert!(!stack.bounds().contains(&at), "without the flag it is on the thread's stack");
        let ignored = flags(libc::SIGPIPE);

        assert_eq!(handlers_on_signal_stack().expect("handlers can be read"), 2);

        let expected = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        assert_eq!(flags(libc::SIGUSR1), expected, "the other flags are kept");
        assert_ne!(flags(libc::SIGRTMAX()) & libc::SA_ONSTACK, 0);
        assert_eq!(flags(libc::SIGPIPE), ignored, "an ignored signal is left alone");
        let at = send();
        assert!(stack.bounds().contains(&at), "{at:#x} is not in {:x?}", stack.bounds());
        assert_eq!(handlers_on_signal_stack().expect("handlers can be read"), 0);
    });
}

#[test]
fn sending_to_no_thread_or_no_signal_is_an_error() {
    let me = gettid();
    // Signal 0 only looks.
    tgkill(me, 0).expect("we live");
    let error = tgkill(me, 65).expect_err("no such signal");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    let error = tgkill(-1, 0).expect_err("no such thread");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}
