//! `sigstorm worker`: the process in which the engine explores.
//!
//! Hidden: [`campaign`](super::campaign) starts it and says what the two exchange.

use super::{args, child, output::complain, stubs};
use sigstorm_runtime::defect::Defect;
use std::path::PathBuf;
use std::process::ExitCode;

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Where it finds `stats` and `current`, and leaves what it finds.
    pub dir: PathBuf,
    /// The core it is pinned to, counted round and round.
    pub core: usize,
    /// Where its random choices begin.
    pub seed: u64,
    /// The schedules' length, if it is fixed.
    pub steps: Option<usize>,
    /// How many schedules it may run.
    pub runs: Option<u64>,
    /// How long it may take.
    pub seconds: Option<u64>,
    /// The corpus folder, which workers share.
    pub corpus: Option<PathBuf>,
    /// What is planted in the core.
    pub defects: Vec<Defect>,
}

/// Ends with the process.
pub fn main(args: args::Worker) -> ExitCode {
    if let Err(error) = child::begin(args.parent) {
        complain(&format!("cannot bind this process to its parent: {error}"));
        return ExitCode::from(super::Exit::Harness as u8);
    }
    ExitCode::from(stubs::worker(WorkerOptions {
        dir: args.dir,
        core: args.core,
        seed: args.seed,
        steps: args.steps,
        runs: args.runs,
        seconds: args.seconds,
        corpus: args.corpus,
        defects: args.planted.defects,
    }))
}
