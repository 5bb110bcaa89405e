//! A traced process: real programs, stopped and signalled at their instructions, must end and print
//! as they do undisturbed.

#[macro_use]
#[path = "../common/attacked.rs"]
mod attacked;
#[path = "../common/programs.rs"]
mod programs;

mod boundaries;
mod children;
mod cleanup;
mod cost;
mod handlers;
mod injected;
mod rust_program;
mod signals;
mod stacks;
mod stacks_damaged;
mod staying;
mod victim;
mod waits;
