//! An allocator that a thread can be forbidden to use, as code in a signal handler is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

struct Guarded;

/// Ends the process at the calling thread's next allocation, or when it frees memory.
pub fn forbid() {
    FORBIDDEN.set(true);
}

fn check() {
    if FORBIDDEN.get() {
        const TEXT: &[u8] = b"a signal handler uses the allocator\n";
        // SAFETY: the text is readable; the process ends here.
        unsafe {
            libc::write(libc::STDERR_FILENO, TEXT.as_ptr().cast(), TEXT.len());
            libc::_exit(1);
        }
    }
}

// SAFETY: the system's allocator, which is passed what this one is.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: as for this function (caller).
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: as for this function (caller).
        unsafe { System.dealloc(pointer, layout) }
    }
}
