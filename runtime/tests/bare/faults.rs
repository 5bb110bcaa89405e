//! Signals that are not the core's: they go to the handler that had them before.

use std::os::unix::process::ExitStatusExt;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use sigstorm_runtime::Config;
use sigstorm_runtime::unwind::fault;

use crate::child::{ends, passes};
use crate::machine::machines;

const PAGE: usize = 4096;

#[test]
fn foreign_fault_goes_to_the_previous_handler() {
    let name = "faults::foreign_fault_goes_to_the_previous_handler";
    let status = ends(name, || {
        let _ = machines(Config::default());
        // A second installation must not make the handler its own predecessor.
        fault::install().expect("fault handlers");
        // SAFETY: it is not: the fault is what the test wants.
        unsafe { core::ptr::without_provenance::<u8>(64).read_volatile() };
    });
    assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
}

/// Number of signals that the handler before the core's has had.
static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// Makes the page readable that the fault was in.
extern "C" fn unprotects(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the kernel passes a siginfo; the page is one of the test's own.
    unsafe {
        let page = (*info).si_addr() as usize / PAGE * PAGE;
        if libc::mprotect(page as *mut _, PAGE, libc::PROT_READ) != 0 {
            libc::_exit(2);
        }
    }
}

/// Counts the signal.
extern "C" fn counts(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Sets the handler of a signal.
fn handle(signal: libc::c_int, handler: usize, flags: libc::c_int) {
    // SAFETY: a zeroed sigaction is a valid one, and the handlers here keep to what handlers may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
    }
}

/// Returns the handler of a signal.
fn handler(signal: libc::c_int) -> usize {
    // SAFETY: it only asks.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal, ptr::null(), &mut action), 0);
        action.sa_sigaction
    }
}

#[test]
fn previous_handler_has_every_foreign_fault_and_the_cores_stays() {
    passes("faults::previous_handler_has_every_foreign_fault_and_the_cores_stays", || {
        handle(libc::SIGSEGV, unprotects as *const () as usize, libc::SA_SIGINFO);
        let _ = machines(Config::default());
        let ours = handler(libc::SIGSEGV);
        // SAFETY: fresh mappings; the handler makes each page readable as it is read.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let pages = libc::mmap(ptr::null_mut(), 3 * PAGE, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            for page in 0..3 {
                assert_eq!(pages.cast::<u8>().add(page * PAGE).read_volatile(), 0);
                assert_eq!(HANDLED.load(Ordering::SeqCst), page + 1);
                assert_eq!(handler(libc::SIGSEGV), ours);
            }
        }
    });
}

#[test]
fn previous_handler_has_every_signal_that_was_sent() {
    passes("faults::previous_handler_has_every_signal_that_was_sent", || {
        handle(libc::SIGBUS, counts as *const () as usize, 0);
        let _ = machines(Config::default());
        for count in 1..=3 {
            // SAFETY: a signal with a handler.
            assert_eq!(unsafe { libc::raise(libc::SIGBUS) }, 0);
            assert_eq!(HANDLED.load(Ordering::SeqCst), count);
        }
    });
}

#[test]
fn signal_that_was_ignored_is_ignored_if_sent() {
    passes("faults::signal_that_was_ignored_is_ignored_if_sent", || {
        handle(libc::SIGILL, libc::SIG_IGN, 0);
        let _ = machines(Config::default());
        let ours = handler(libc::SIGILL);
        // SAFETY: a signal with a handler.
        assert_eq!(unsafe { libc::raise(libc::SIGILL) }, 0);
        assert_eq!(handler(libc::SIGILL), ours);
    });
}

#[test]
fn signal_without_previous_handler_ends_the_process_if_sent() {
    let name = "faults::signal_without_previous_handler_ends_the_process_if_sent";
    let status = ends(name, || {
        handle(libc::SIGILL, libc::SIG_DFL, 0);
        let _ = machines(Config::default());
        // SAFETY: it ends the process.
        unsafe { libc::raise(libc::SIGILL) };
    });
    assert_eq!(status.signal(), Some(libc::SIGILL), "{status}");
}
