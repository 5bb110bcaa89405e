//! `sigstorm worker`: the process in which the engine explores.
//!
//! Hidden: [`campaign`](super::campaign) starts it and says what the two exchange.

use super::{args, child, output::complain};
use sigstorm::worker::WorkerOptions;
use std::process::ExitCode;

/// Ends with the process.
pub fn main(args: args::Worker) -> ExitCode {
    if let Err(error) = child::begin(args.parent) {
        complain(&format!("cannot bind this process to its parent: {error}"));
        return ExitCode::from(super::Exit::Harness as u8);
    }
    ExitCode::from(sigstorm::worker::run(WorkerOptions {
        dir: args.dir,
        core: args.core,
        seed: args.seed,
        steps: args.steps,
        runs: args.runs,
        seconds: args.seconds,
        corpus: args.corpus,
        random: args.random,
        defects: args.planted.defects,
    }))
}
