//! The interleaving map's place in AFL's map.
//!
//! AFL's runtime deals out the bytes of its shared map to whoever asks, by guards: a range
//! of words into which it writes their indices. Each instrumented module asks for one
//! guard an edge; we ask for one a feature. So the two never share a byte, and AFL counts
//! a feature as it counts an edge.
//!
//! afl-fuzz first runs the program only to hear how large its map is, and the runtime
//! answers from a constructor of priority 3. Modules ask in theirs, of priority 2, and so
//! do we: what asks in `main` asks too late.

use std::cell::UnsafeCell;

use sigstorm::executor::feedback::{self, MAP_SIZE};

/// A guard for each feature. The runtime writes consecutive indices into it, once, before
/// `main`.
struct Guards(UnsafeCell<[u32; MAP_SIZE]>);

// SAFETY: written by a constructor, when there is one thread, and only read from then on.
unsafe impl Sync for Guards {}

static GUARDS: Guards = Guards(UnsafeCell::new([0; MAP_SIZE]));

unsafe extern "C" {
    /// The shared map, once the runtime has attached it; a dummy outside of AFL.
    static __afl_area_ptr: *mut u8;
    fn __sanitizer_cov_trace_pc_guard_init(start: *mut u32, stop: *mut u32);
}

#[used]
#[unsafe(link_section = ".init_array.00002")]
static ASK: unsafe extern "C" fn() = ask;

/// Asks for the indices.
///
/// # Safety
/// A constructor: it is called once, by the loader.
unsafe extern "C" fn ask() {
    let start = GUARDS.0.get().cast::<u32>();
    // SAFETY: the array's bounds; nothing else looks at it before `main`.
    unsafe { __sanitizer_cov_trace_pc_guard_init(start, start.add(MAP_SIZE)) };
}

/// Copies the last run's features into AFL's map, and forgets them.
///
/// # Safety
/// No run is under way.
pub unsafe fn publish() {
    // SAFETY: the runtime made its map large enough for every index that it dealt out, and
    // ours follow each other from the first; nobody writes to either map (caller).
    unsafe {
        let first = (*GUARDS.0.get())[0] as usize;
        let ours = feedback::map();
        __afl_area_ptr.add(first).copy_from_nonoverlapping(ours.as_ptr(), MAP_SIZE);
        feedback::clear();
    }
}
