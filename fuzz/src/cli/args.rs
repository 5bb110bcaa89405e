//! What can be typed: the commands, their options, and their help.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use sigstorm::schedule::MAX_STEPS;
use sigstorm::storm::{Clock, Delay, MAX_RATE, MAX_THREADS};
use sigstorm_runtime::instrument::defect::Defect;
use std::path::PathBuf;

/// What `sigstorm` says when it is given no command.
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
    /// Disturb schedules at every instruction of the protocol that they come to
    Sweep(Sweep),
    /// Explore, as a child of `hunt`
    #[command(hide = true)]
    Worker(Worker),
    /// Blow, as a child of `storm`
    #[command(hide = true)]
    Stormer(Stormer),
    /// Run schedules from standard input, as a child of `replay` and others
    #[command(hide = true)]
    Runner(Runner),
}

/// The mistakes to put back into the core.
#[derive(Args, Clone, Debug)]
pub struct Planted {
    /// Plant this defect in the core; may be given more than once
    #[arg(long = "defect", value_name = "NAME", value_parser = defect())]
    pub defects: Vec<Defect>,
}

fn defect() -> impl TypedValueParser<Value = Defect> {
    PossibleValuesParser::new(Defect::ALL.iter().map(|defect| defect.name()))
        .try_map(|name| Defect::from_name(&name).ok_or("no such defect"))
}

/// `hunt`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm hunt                                   the core as it is, every core, until Ctrl-C
  sigstorm hunt --seconds 60 --defect copystack-unlocked
  sigstorm hunt --runs 100000 --jobs 1 --seed 7   the same schedules every time
  sigstorm hunt --corpus fuzz/corpus/hunt         keep schedules that are new, and start from them next time

A finding is shrunk and left in REPORTS/ID/: report.txt to read, schedule.txt to replay. Workers take the
idlest cores that no other sigstorm has taken.
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 wrong usage; 3 no answer: a harness error, or
no schedule, no signal, or a worker with less than 5 % of a core (\"inconclusive\" in the summary).")]
pub struct Hunt {
    /// Stop after so many seconds [default: go on until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub seconds: Option<u64>,
    /// Stop after so many schedules, over all workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: Option<u64>,
    /// How many workers, each on a core [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// Where the random choices begin [default: a random one, which is printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Make every schedule exactly this long, for measuring: 1 to 4096
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_STEPS))]
    pub steps: Option<u16>,
    /// Start from the schedules in this folder and add new ones; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,
    /// Where the report of a finding goes
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub reports: PathBuf,
    #[command(flatten)]
    pub planted: Planted,
}

/// More workers than this are a slip of the finger.
pub const MOST_JOBS: i64 = 256;
const MOST_STEPS: i64 = MAX_STEPS as i64;
/// A hundred years, so that no clock overflows.
const MOST_SECONDS: u64 = 100 * 366 * 86_400;

/// `replay`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm replay reports/*/schedule.txt
  sigstorm replay reports/fault-1a2b3c4d/schedule.bin --defect remove-unlocked --trace
  sigstorm replay corpus/schedule/* --times 10    is every run of a schedule the same?

A file may name the defects that it was made with (`# defect NAME`), and a run without them is told so.
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 a file cannot be read (the others are still
run); 3 no answer: a harness error, such as a schedule whose runs differ, or no step had an effect.")]
pub struct Replay {
    /// Schedules, as text or as bytes; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Run each so often, and compare the runs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub times: u64,
    /// Print what happened, event by event, a column for each thread
    #[arg(long)]
    pub trace: bool,
    #[command(flatten)]
    pub planted: Planted,
}

const SHOW_EXAMPLES: &str = "\
Examples:
  sigstorm show schedule.bin
  sigstorm show crash-3fa9 -o schedule.txt
  head -c 64 /dev/urandom | sigstorm show -        any bytes are a schedule";

const PACK_EXAMPLES: &str = "\
Examples:
  sigstorm pack schedule.txt -o schedule.bin
  sigstorm pack schedule.txt | xxd";

/// `show` and `pack`.
#[derive(Args, Debug)]
pub struct Convert {
    /// A schedule, as text or as bytes; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where it goes [default: standard output]
    #[arg(short, long = "out", value_name = "OUT")]
    pub out: Option<PathBuf>,
}

/// `shrink`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm shrink reports/fault-1a2b3c4d/original.bin --defect remove-unlocked
  sigstorm shrink crash-3fa9 -o small.bin

Ctrl-C ends it early, with the smallest so far.
Exit status: 0 shrunk; 2 FILE cannot be read or violates nothing; 3 harness error.")]
pub struct Shrink {
    /// A schedule, as text or as bytes; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where it goes, as bytes if this ends in `.bin`, else as text [default: standard output]
    #[arg(short, long = "out", value_name = "OUT")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub planted: Planted,
}

/// What a hunt of the museum is for: a defect, or `none`, the core as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject(pub Option<Defect>);

impl Subject {
    /// The core as it is, as the command line and the tables name it.
    pub const NONE: &'static str = "none";

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.map_or(Subject::NONE, Defect::name)
    }
}

fn subject() -> impl TypedValueParser<Value = Subject> {
    PossibleValuesParser::new(Defect::ALL.iter().map(|defect| defect.name()).chain([Subject::NONE]))
        .map(|name| Subject(Defect::from_name(&name)))
}

/// How schedules come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Baseline {
    /// Feedback chooses what to mutate
    Hunt,
    /// Each one is made from nothing
    Random,
}

impl Baseline {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Baseline::Hunt => "hunt",
            Baseline::Random => "random",
        }
    }
}

/// `museum`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm museum --trials 10 --budget 60 --baseline hunt --baseline random
  sigstorm museum --trials 3 --budget 10 --defect copystack-unlocked
  sigstorm museum --with exit-keeps-barriers      is all found with another mistake planted, too?

A trial is one worker on one core that begins with nothing, and ends with its first finding or its
budget. A full run leaves REPORTS/museum.md and a page for each specimen in REPORTS/museum/.
Exit status: 0 all are found in 9 of 10 trials, and the silent ones are silent; 1 not so; 2 wrong
usage; 3 no answer: a harness error, or a trial that ran nothing.")]
pub struct Museum {
    /// How many trials of each specimen
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub trials: u32,
    /// Seconds after which a trial ends without a finding
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub budget: u64,
    /// How many trials at a time, each on a core [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// Where the random choices begin [default: a random one, which is printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Only this specimen; may be given more than once [default: all, and the core as it is]
    #[arg(long = "defect", value_name = "NAME", value_parser = subject())]
    pub subjects: Vec<Subject>,
    /// How schedules come about; may be given more than once
    #[arg(long, value_name = "BASELINE", value_enum, default_value = "hunt")]
    pub baseline: Vec<Baseline>,
    /// Plant this one, too, in every trial; may be given more than once
    #[arg(long, value_name = "NAME", value_parser = defect())]
    pub with: Vec<Defect>,
    /// Blow a storm of at most S seconds for each specimen, too
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub storm: Option<u64>,
    /// Where tables and pages go [default: reports; nowhere with --defect or --with]
    #[arg(long, value_name = "DIR")]
    pub reports: Option<PathBuf>,
}

/// `collect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm collect fuzz/afl/out                   whatever a campaign has found so far
  sigstorm collect fuzz/artifacts --defect install-unlocked
  sigstorm collect crash-3fa9

In a folder, at any depth, it takes AFL's findings (crashes/id:*) and libFuzzer's (crash-*). Each is run
again; of one verdict the first few are shrunk and left in REPORTS/ID/, as a hunt's are.
Exit status: 0 nothing found; 1 a violation; 2 a file or folder cannot be read, or there is nothing to collect
and no folder of an engine's; 3 harness error.")]
pub struct Collect {
    /// Folders to look through, and files
    #[arg(value_name = "DIR", required = true)]
    pub places: Vec<PathBuf>,
    /// Where the reports go
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub reports: PathBuf,
    #[command(flatten)]
    pub planted: Planted,
}

/// `storm`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm storm --seconds 60                     the core as it is, a thread on each core, until time is up
  sigstorm storm --rate 20000 --delay 0.01:500    more signals, and threads that are late more often
  sigstorm storm --clock cpu                      timers as a profiler has them; the kernel's tick bounds them
  sigstorm storm --seconds 30 --defect sigprof-spins

A storm shows that something is wrong, and where; there is no schedule to replay, and the same seed gives
the same work but not the same meetings. For a small reproducer, hunt.
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 wrong usage; 3 no answer: a harness error, no
signal, or threads with less than 5 % of a core.")]
pub struct Storm {
    /// Stop after so many seconds [default: go on until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub seconds: Option<u64>,
    /// Signals a second from each thread's timer, up to 20000
    #[arg(long, value_name = "HZ", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    pub rate: u32,
    /// How many threads run goroutines; one more collects [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    pub threads: Option<u16>,
    /// What the timers go by: the processor's time of their thread, or the clock on the wall
    #[arg(long, value_name = "CLOCK", default_value = "monotonic", value_parser = clock())]
    pub clock: Clock,
    /// How likely a thread is late at a scheduling point, and how many microseconds at most
    #[arg(long, value_name = "P:US", default_value_t = Delay::default())]
    pub delay: Delay,
    /// Where the random choices begin [default: a random one, which is printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Where the report of a finding goes
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub reports: PathBuf,
    #[command(flatten)]
    pub planted: Planted,
}

fn clock() -> impl TypedValueParser<Value = Clock> {
    PossibleValuesParser::new(Clock::ALL.iter().map(|clock| clock.name()))
        .try_map(|name| Clock::from_name(&name).ok_or("no such clock"))
}

/// `stormer`.
#[derive(Args, Debug)]
pub struct Stormer {
    /// Where it finds `stats`, and leaves what it finds
    #[arg(long)]
    pub dir: PathBuf,
    /// How long it blows
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Signals a second from each thread's timer
    #[arg(long)]
    pub rate: u32,
    /// How many threads run goroutines
    #[arg(long)]
    pub threads: usize,
    /// What the timers go by
    #[arg(long, value_parser = clock())]
    pub clock: Clock,
    /// Delays at scheduling points
    #[arg(long)]
    pub delay: Delay,
    /// Where its random choices begin
    #[arg(long)]
    pub seed: u64,
    /// The cores that it runs on, counted among those that it may use [default: all]
    #[arg(long, value_delimiter = ',')]
    pub cores: Vec<usize>,
    #[command(flatten)]
    pub planted: Planted,
    /// The process that started it, without which it ends
    #[arg(long)]
    pub parent: Option<i32>,
}

/// `mutants`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples, in the repository:
  sigstorm mutants --check                  does the list still fit the core?
  sigstorm mutants --only 7,12 --seconds 10
  sigstorm mutants --report reports/mutants.md

Exit status: 0 every mutant that is not equivalent was killed; 1 not so; 2 the list does not fit the
core; 3 harness error.")]
pub struct Mutants {
    /// Seconds after which a mutant has survived
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub seconds: u64,
    /// Schedules after which it has survived, if they come sooner
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: Option<u64>,
    /// How many at a time, each on a core [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// Where the random choices begin
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Only these numbers of the list
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub only: Vec<u32>,
    /// Build nothing: only see whether the list fits the core
    #[arg(long)]
    pub check: bool,
    /// Sweep the schedules of corpus/sweep in each, instead of hunting
    #[arg(long, conflicts_with_all = ["seconds", "runs", "seed"])]
    pub sweep: bool,
    /// Where the copy of the workspace goes, and its builds
    #[arg(long, value_name = "DIR", default_value = "target/mutants")]
    pub scratch: PathBuf,
    /// Where the table goes
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// `sweep`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm sweep corpus/sweep/*                   the protocol, instruction by instruction
  sigstorm sweep corpus/sweep/* --pairs           and with two threads held at once
  sigstorm sweep corpus/schedule/remove-unlocked.txt --plain --defect remove-unlocked

At each instruction there is a run with a signal, and one for each thing that another thread may do
meanwhile. What was done where is in REPORTS/sweep/coverage.html, and coverage.txt.
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 a file cannot be read (the others are still
swept) or nothing can be reached; 3 no answer: a harness error, or nothing was disturbed.")]
pub struct Sweep {
    /// Schedules, as text or as bytes; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Hold two threads at once, too: a walk half-way and a writer half-way
    #[arg(long)]
    pub pairs: bool,
    /// Take the schedules' own stops out first: operations in plain order
    #[arg(long)]
    pub plain: bool,
    /// How many runs at a time, each on a core [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// The first job's core, counted among those that there are [default: the idlest]
    #[arg(long, value_name = "N", hide = true)]
    pub core: Option<usize>,
    /// End with the first violation
    #[arg(long)]
    pub first: bool,
    /// Disturb nothing: look for S seconds for schedules that come to instructions which these
    /// files do not, and leave them in REPORTS/sweep/grown
    #[arg(long, value_name = "S", conflicts_with_all = ["pairs", "plain"])]
    pub grow: Option<u64>,
    /// Where the random choices of --grow begin
    #[arg(long, value_name = "N", default_value_t = 1, requires = "grow")]
    pub seed: u64,
    /// Where the listing goes
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub reports: PathBuf,
    #[command(flatten)]
    pub planted: Planted,
}

/// `worker`.
#[derive(Args, Debug)]
pub struct Worker {
    /// Where it finds `stats` and `current`, and leaves what it finds
    #[arg(long)]
    pub dir: PathBuf,
    /// The core it is pinned to
    #[arg(long)]
    pub core: usize,
    /// Where its random choices begin
    #[arg(long)]
    pub seed: u64,
    /// The schedules' length
    #[arg(long)]
    pub steps: Option<usize>,
    /// Its share of the schedules to run
    #[arg(long)]
    pub runs: Option<u64>,
    /// How long it may take
    #[arg(long)]
    pub seconds: Option<u64>,
    /// The corpus folder
    #[arg(long)]
    pub corpus: Option<PathBuf>,
    /// Random schedules, without an engine
    #[arg(long)]
    pub random: bool,
    #[command(flatten)]
    pub planted: Planted,
    /// The process that started it, without which it ends
    #[arg(long)]
    pub parent: Option<i32>,
}

/// `runner`.
#[derive(Args, Debug)]
pub struct Runner {
    #[command(flatten)]
    pub planted: Planted,
    /// The core it is pinned to
    #[arg(long)]
    pub core: Option<usize>,
    /// The process that started it, without which it ends
    #[arg(long)]
    pub parent: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_introduction_names_what_there_is() {
        let listed = |name: &str| Cli::command().get_subcommands().any(|c| c.get_name() == name);
        for line in INTRODUCTION.lines().filter_map(|line| line.split_once("-- ")) {
            let command = line.1.split(' ').next().unwrap();
            assert!(listed(command), "{command}");
        }
        assert!(Defect::from_name("install-unlocked").is_some());
    }

    #[test]
    fn defects_are_known_by_name() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["sigstorm", "hunt"], args].concat());
        let Some(Command::Hunt(hunt)) = parse(&["--defect", "sigprof-spins"]).unwrap().command else {
            panic!("not hunt")
        };
        assert_eq!(hunt.planted.defects, [Defect::SigprofSpins]);
        let error = parse(&["--defect", "sigprof-spin"]).unwrap_err().to_string();
        assert!(error.contains("'sigprof-spins'") && error.contains("copystack-unlocked"), "{error}");
    }
}
