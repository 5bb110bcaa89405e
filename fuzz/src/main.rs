//! The command line, `sigstorm`.
//!
//! A violation ends the process that ran the schedule: the core is corrupted, or its
//! threads are parked for good. So nothing here runs one. Commands start children of
//! this same binary (`sigstorm worker`, `sigstorm runner`) and judge what becomes of
//! them; see [`cli`].

#![deny(unsafe_code)]

mod cli;
mod engine;

fn main() -> std::process::ExitCode {
    cli::main()
}
