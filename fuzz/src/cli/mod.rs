//! The command line: one file a command, each with its options, one call of the library, and its output.
//!
//! [`args`] says what can be typed, and [`Command`] is dispatched here. The commands share:
//!
//! - [`output`]: standard output and standard error. [`display`]: progress on the terminal.
//! - [`findings`]: findings on the terminal, and their reports.
//! - `interrupt`: Ctrl-C.
//!
//! Exit status: 0 it ran and nothing was found, 1 a violation, 2 wrong usage or unreadable input, 3
//! no answer: a harness error, which wins over 1, or nothing ran
//! ([`Inconclusive`](sigstorm::report::Inconclusive)), over which 1 and 2 win.

mod args;
mod collect;
mod convert;
mod display;
mod findings;
mod hunt;
mod interrupt;
mod museum;
mod mutants;
mod output;
mod probe;
mod replay;
mod shrink;
mod storm;
mod sweep;
mod sweep_results;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use output::{Out, complain};
use sigstorm::outcome::Verdict;
use sigstorm::process;

/// How a command ended, if it could do its work at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exit {
    /// Nothing was found.
    #[default]
    Clean = 0,
    /// A violation.
    Violation = 1,
    /// Wrong usage, or input that cannot be read.
    Usage = 2,
    /// Nothing was run that could have found anything, so there is no answer. It says least, so any
    /// other but the first wins over it.
    Inconclusive = 4,
    /// The harness is wrong. It wins over the others.
    Harness = 3,
}

impl Exit {
    /// The meaning of a verdict's name for the exit status.
    pub fn of_verdict(verdict: Option<&str>) -> Exit {
        match verdict {
            None => Exit::Clean,
            Some(name) if name == Verdict::HarnessError.name() => Exit::Harness,
            Some(_) => Exit::Violation,
        }
    }

    /// The one that counts where there are two: a violation in one file weighs more than
    /// another file that cannot be read, and a harness error most.
    pub fn worse(self, other: Exit) -> Exit {
        let weight = |exit| match exit {
            Exit::Clean => 0,
            Exit::Inconclusive => 1,
            Exit::Usage => 2,
            Exit::Violation => 3,
            Exit::Harness => 4,
        };
        if weight(other) > weight(self) { other } else { self }
    }

    /// The outcome of a command that raises its status as it goes, see [`once_told`](Self::once_told).
    ///
    /// # Errors
    /// As there.
    pub fn settled(work: impl FnOnce(&mut Exit) -> Result<(), Trouble>) -> Result<Exit, Trouble> {
        let mut exit = Exit::Clean;
        let told = work(&mut exit);
        exit.once_told(told)
    }

    /// The outcome of a command that has told its result, or could not: a finding counts for more than that it
    /// could not be printed.
    ///
    /// # Errors
    /// Where the result could not be told and is no finding, or something of the harness went wrong.
    pub fn once_told(self, told: Result<(), Trouble>) -> Result<Exit, Trouble> {
        match told {
            Err(Trouble::Usage(message)) if self != Exit::Clean => {
                complain(&format!("error: {message}"));
                Ok(self)
            }
            other => other.map(|()| self),
        }
    }

    /// The status with which the process ends: there is no answer, whether the harness is wrong or
    /// nothing was run.
    pub fn status(self) -> u8 {
        match self {
            Exit::Inconclusive => Exit::Harness as u8,
            exit => exit as u8,
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub enum Trouble {
    /// The request makes no sense, or a file cannot be read or written. Exit status 2.
    Usage(String),
    /// Something of the harness's own went wrong. Exit status 3.
    Harness(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Trouble {
        Trouble::Harness(error)
    }
}

/// An error about what was asked for, such as a file that cannot be written.
fn usage(error: anyhow::Error) -> Trouble {
    Trouble::Usage(format!("{error:#}"))
}

/// The outcome of a command.
pub type Outcome = Result<Exit, Trouble>;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing to be done where not even this can be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { Exit::Clean as u8 });
        }
    };
    let out = Out::new(cli.json);
    let outcome = match cli.command {
        None => out.text(args::INTRODUCTION).map(|()| Exit::Clean),
        Some(Command::Hunt(args)) => hunt::run(&args, &out),
        Some(Command::Replay(args)) => replay::run(&args, &out),
        Some(Command::Show(args)) => convert::show(&args, &out),
        Some(Command::Pack(args)) => convert::pack(&args, &out),
        Some(Command::Shrink(args)) => shrink::run(&args, &out),
        Some(Command::Collect(args)) => collect::run(&args, &out),
        Some(Command::Museum(args)) => museum::run(&args, &out),
        Some(Command::Storm(args)) => storm::run(&args, &out),
        Some(Command::Mutants(args)) => mutants::run(&args, &out),
        Some(Command::Sweep(args)) => sweep::run(&args, &out),
        Some(Command::Probe(args)) => probe::run(&args, &out),
        Some(
            Command::Worker(child)
            | Command::Stormer(child)
            | Command::Runner(child)
            | Command::Sweeper(child),
        ) => return process::main(&child.orders),
    };
    let exit = outcome.unwrap_or_else(|trouble| match trouble {
        Trouble::Usage(message) => {
            complain(&format!("error: {message}"));
            Exit::Usage
        }
        Trouble::Harness(error) => {
            complain(&format!("harness error: {error:#}"));
            Exit::Harness
        }
    });
    ExitCode::from(exit.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harness_error_wins_and_inconclusive_run_loses() {
        let harness = Exit::of_verdict(Some("harness-error"));
        assert_eq!(harness, Exit::Harness);
        let fault = Exit::of_verdict(Some("fault"));
        for (a, b, worse) in [
            (fault, harness, harness),
            (Exit::Clean, fault, fault),
            (Exit::Usage, fault, fault),
            (Exit::of_verdict(None), Exit::Usage, Exit::Usage),
            (Exit::Clean, Exit::Inconclusive, Exit::Inconclusive),
            (Exit::Usage, Exit::Inconclusive, Exit::Usage),
            (fault, Exit::Inconclusive, fault),
        ] {
            assert_eq!((a.worse(b), b.worse(a)), (worse, worse));
        }
        assert_eq!([Exit::Clean, fault, Exit::Inconclusive, harness].map(Exit::status), [0, 1, 3, 3]);
    }
}
