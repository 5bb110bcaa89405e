//! The bare core, without a harness: no hooks, no features, real threads, real signals.
//!
//! Handlers and the function table are process-wide, and a broken core aborts or hangs.
//! So every test runs its body in a child process ([`child`]) that is killed if it hangs.

mod allocator;
mod caller;
mod child;
mod collector;
mod cycles;
mod faults;
mod foreign;
mod life;
mod machine;
mod panics;
mod races;
mod running;
mod signals;
mod storm;
mod syscalls;
mod throws;
mod timers;
