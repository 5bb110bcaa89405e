//! x86-64: every instruction that runs on a goroutine stack, and the switch onto one.
//!
//! ## A goroutine stack
//!
//! Addresses grow upwards. A frame's *delta* is the distance from SP to the slot of its return
//! address; in a body it is the frame's size and 8. CFA is SP after the frame has returned.
//!
//! ```text
//!  hi    +----------------------------------+
//!        | barrier entries                  |  carved from the allocation, see `stack::barrier`
//!  top   +----------------------------------+
//!        | 0                                |  ends the rbp chain          <-- rbp of `entry`
//!        | slot 0 .. slot 3 of `entry`      |                              <-- SP in its body
//!        | return address into `entry`      |  CFA - 8: a barrier replaces this word
//!        | saved rbp                        |  CFA - 16                    <-- rbp of the frame
//!        | slot 0 .. slot 3                 |  CFA - 24 .. CFA - 48: pointers
//!        | the rest of the frame            |
//!        |                                  |  CFA - 16 - size             <-- SP in its body
//!        | return address into the frame    |  pushed by its `call rax` or `call switch_out`
//!        | ...                              |
//!  guard +----------------------------------+  lo + STACK_RESERVE; only code without a stack
//!        | reserve                          |  check reaches below
//!  lo    +----------------------------------+
//!        | guard page                       |  unreadable
//!        +----------------------------------+
//! ```
//!
//! ## Registers
//!
//! | register | on a goroutine stack |
//! |---|---|
//! | `r14` | the `G`, always; on the thread's own stack it is an ordinary register |
//! | `rsp` | as in the diagram |
//! | `rbp` | the frame-pointer chain, which ends in zero |
//! | `rax` | what the runtime answers to an ask; otherwise free |
//! | `eax` | the exit reason, at `call switch_out` |
//! | `rcx`, `rdx`, `r11` | scratch; `switch_out` clobbers `rcx` and `rdx`, a stack check `r11` |
//! | `rbx`, `r12` | live in the system-call stub alone, while the thread is in the kernel |
//!
//! Nothing else is live across a call, a return or a switch.
//!
//! ## A frame's life
//!
//! The prologue compares SP with the guard. Where the frame does not fit, or where a preemption
//! request has raised the guard above every SP, it leaves with `MORESTACK` and then starts over.
//! The body leaves with `NEXT_OP` and is given an address to call, or zero: return. So no Rust
//! code ever runs on a goroutine stack, and a frame that is called again and again has one call
//! site and one ask site.
//!
//! ## Labels
//!
//! All functions use the same numbers for the same places. "Delta" is what the unwinding row at
//! that place says.
//!
//! | label | place | delta | state |
//! |---|---|---|---|
//! | 20 | first byte | 0 | SP at the return address, `rbp` the caller's, no slot exists |
//! | 21 | behind `push rbp` | 8 | the caller's `rbp` is saved, `rbp` still the caller's or just replaced |
//! | 22 | behind `sub rsp` | size + 8 | the frame has its size; slots are being zeroed and are no pointers yet |
//! | 23 | body: the ask | size + 8 | slots hold pointers from here on |
//! | 24 | the ask's return address | size + 8 | `rax` = address to call, or zero |
//! | 25 | the calls' return address | size + 8 | the callee's frame is gone; a barrier hit here has been counted |
//! | 26 | epilogue begins | size + 8 | slots are dead, `rbp` still this frame's |
//! | 27 | the stack check failed | 0 | as at 20; nothing has been pushed |
//! | 28 | return address of `MORESTACK`, or of a stub's second ask | 0, or the stub's | there is room, or the request was answered |
//! | 29 | landing | size + 8 | a recovery has put SP and `rbp` here, as in the body |
//! | 30 | behind `add rsp` | 8 | SP at the saved `rbp` |
//! | 31 | behind `pop rbp` | 0 | as at 20, but the frame is over |
//! | 32 | end | | one past the last byte |
//! | 33 | the other return address of calls | size + 8 | as at 25, in a frame whose callee has replaced its caller's PC |
//! | 33 | in `syscall`: one system call, for the first time or again | 8 | `r12` = the call, `rbx` = how often the kernel was entered before |
//! | 33 | in `callback`: return address of the exit | 0 | not reached |
//! | 34 | behind `syscall` | 8 | the kernel is left, for good or interrupted; `rax` = its result |
//! | 35 | the last system call is done | 8 | `rbx` = how often the kernel was entered |
//!
//! ## Tables beside the code
//!
//! * `stkbar_tab`: rows of (first byte, end, delta, function | class | flags), the only source of
//!   unwinding truth in the core. A row's delta holds before the instruction runs.
//! * `stkbar_dir`: a row for each function, with its bounds and its return addresses, for code
//!   that must know positions but not deltas.
//! * `stkbar_exc`: pairs (faulting load, where to go on).
//!
//! Every address in them is relative to its own place, so nothing needs relocating. The sections
//! carry the retain flag, without which the linker drops what no code refers to.

#[macro_use]
mod emit;
mod frames;
pub(crate) mod load;
#[cfg(feature = "defects")]
pub(crate) mod order_check;
pub(crate) mod sections;
mod stubs;
pub(crate) mod switch;
pub(crate) mod trampoline;
