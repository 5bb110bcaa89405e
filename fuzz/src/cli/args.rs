//! The commands that can be typed, and the options that several of them take.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use sigstorm::schedule::MAX_STEPS;
use sigstorm_runtime::Defect;

use super::collect::Collect;
use super::convert::{Convert, PACK_EXAMPLES, SHOW_EXAMPLES};
use super::hunt::Hunt;
use super::museum::Museum;
use super::mutants::Mutants;
use super::probe::Probe;
use super::replay::Replay;
use super::shrink::Shrink;
use super::storm::Storm;
use super::sweep::Sweep;

/// The text of `sigstorm` without a command.
pub const INTRODUCTION: &str = "\
sigstorm attacks a profiler that must walk a running program's stack: it drives a small native runtime
(real stacks, threads and signals) through schedules of garbage collection, panics, stack copies and
profiling signals, one instruction at a time. Every traceback must be right, or skipped for a reason that
was true at that instant; whatever breaks this is found, shrunk, and can be replayed.

Try first:
  cargo run --release -- hunt --seconds 60 --defect install-unlocked
                          put a mistake of a real runtime back in, watch it being found and shrunk
  cargo run --release -- replay reports/*/schedule.txt --defect install-unlocked --trace
                          run what was found again, and see what met what, thread by thread
  cargo run --release -- hunt
                          hunt in the core as it is, on every core, until Ctrl-C
  cargo run --release -- probe -- ./yours
                          put a signal at every instruction where handlers go wrong, in a program of yours

Exit status:
  0  it ran, and nothing was found    2  wrong usage, or a file that cannot be read
  1  a violation                      3  no answer: the harness itself is wrong (wins
                                         over 1), or nothing was run (loses to 1 and 2)

`sigstorm --help` lists all commands; `sigstorm COMMAND --help` says what each one takes.
";

const EXIT_CODES: &str = "\
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 wrong usage or unreadable input; 3 no answer: a
harness error (wins over 1), or nothing was run.";

/// Fuzzing and fault injection for stack barriers, stack copies and profiling signals.
#[derive(Debug, Parser)]
#[command(name = "sigstorm", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Print one JSON object per line on standard output; the last one is the summary
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Explore schedules until something is found or time is up
    Hunt(Hunt),
    /// Run schedules again
    Replay(Replay),
    /// Convert a schedule to text
    #[command(after_help = SHOW_EXAMPLES)]
    Show(Convert),
    /// Convert a schedule to its canonical bytes
    #[command(after_help = PACK_EXAMPLES)]
    Pack(Convert),
    /// Find the smallest schedule with the same verdict
    Shrink(Shrink),
    /// Plant each real defect in turn, and tabulate how soon it is found
    Museum(Museum),
    /// Make reports of what AFL and cargo-fuzz have found
    Collect(Collect),
    /// Let everything happen at once, truly parallel, with real timers
    Storm(Storm),
    /// Change the core in small ways, and see whether that is noticed
    #[command(hide = true)]
    Mutants(Mutants),
    /// Put a signal at every instruction of functions in a program of yours
    Probe(Box<Probe>),
    /// Disturb schedules at every instruction of the protocol that they reach
    Sweep(Sweep),
    /// Explore, as a child of `hunt`
    #[command(hide = true)]
    Worker(ChildArgs),
    /// Blow, as a child of `storm`
    #[command(hide = true)]
    Stormer(ChildArgs),
    /// Run schedules from standard input, as a child of `replay` and others
    #[command(hide = true)]
    Runner(ChildArgs),
    /// Sweep schedules, as a child of `mutants`
    #[command(hide = true)]
    Sweeper(ChildArgs),
}

/// A child of this binary: see [`sigstorm::process`].
#[derive(Args, Debug)]
pub struct ChildArgs {
    /// Its orders, in JSON
    #[arg(value_name = "ORDERS")]
    pub orders: String,
}

/// The mistakes to put back into the core.
#[derive(Args, Clone, Debug)]
pub struct Planted {
    /// Plant this defect in the core; may be given more than once
    #[arg(long = "defect", value_name = "NAME", value_parser = defect())]
    pub defects: Vec<Defect>,
}

pub fn defect() -> impl TypedValueParser<Value = Defect> {
    PossibleValuesParser::new(Defect::ALL.iter().map(|defect| defect.name()))
        .try_map(|name| Defect::from_name(&name).ok_or("no such defect"))
}

/// More workers than this are a slip of the finger.
pub const MOST_JOBS: i64 = 256;
pub const MOST_STEPS: i64 = MAX_STEPS as i64;
/// A hundred years, so that no clock overflows.
pub const MOST_SECONDS: u64 = 100 * 366 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_mistake_in_the_command_line() {
        Cli::command().debug_assert();
    }

    #[test]
    fn introduction_names_only_commands_that_exist() {
        let listed = |name: &str| Cli::command().get_subcommands().any(|c| c.get_name() == name);
        for line in INTRODUCTION.lines().filter_map(|line| line.split_once("-- ")) {
            let command = line.1.split(' ').next().unwrap();
            assert!(listed(command), "{command}");
        }
        assert!(Defect::from_name("install-unlocked").is_some());
    }

    #[test]
    fn defects_are_parsed_by_name() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["sigstorm", "hunt"], args].concat());
        let Some(Command::Hunt(hunt)) = parse(&["--defect", "sigprof-spins"]).unwrap().command else {
            panic!("not hunt")
        };
        assert_eq!(hunt.planted.defects, [Defect::SigprofSpins]);
        let error = parse(&["--defect", "sigprof-spin"]).unwrap_err().to_string();
        assert!(error.contains("'sigprof-spins'") && error.contains("copystack-unlocked"), "{error}");
    }
}
