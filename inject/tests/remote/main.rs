//! A traced process: real programs, stopped and signalled at their instructions, must end and print
//! as they do undisturbed.

mod boundaries;
mod children;
mod cleanup;
mod cost;
mod handlers;
mod rust_program;
mod signals;
mod staying;
mod victim;
