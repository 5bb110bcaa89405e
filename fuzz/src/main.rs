//! The command line, `sigstorm`.
//!
//! A violation ends the process that ran the schedule: the core is corrupted, or its
//! threads are parked for good. So nothing here runs one. Commands start children of
//! this same binary (`sigstorm worker`, `sigstorm runner`) and judge what becomes of
//! them; see `cli`.

#![deny(unsafe_code)]

#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod engine;

#[cfg(feature = "cli")]
fn main() -> std::process::ExitCode {
    cli::main()
}

#[cfg(not(feature = "cli"))]
fn main() -> std::process::ExitCode {
    eprintln!("sigstorm: this build has no command line: build it with the feature `cli`");
    std::process::ExitCode::from(2)
}
