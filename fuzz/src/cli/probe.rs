//! `sigstorm probe`: a signal at every instruction of another program.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use console::style;
use serde_json::json;
use sigstorm::files;
use sigstorm::probe::campaign;
use sigstorm::probe::plan::{Deliver, ProbePlan, ProbeSignal};
use sigstorm::probe::replay::Replay;
use sigstorm::report::Source;
use sigstorm::report::probe::{self as report, ProbeFinding, ProbeSummary};
use sigstorm::report::words::counted;
use sigstorm_inject::remote::Error;
use sigstorm_inject::remote::symbols::Pattern;

use super::args::{MOST_JOBS, MOST_SECONDS};
use super::display::ProbeBar;
use super::findings::{keep, tell};
use super::output::{Out, complain};
use super::{Exit, Outcome, Trouble, interrupt, usage};

/// `probe`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm probe -- ./yours                       SIGPROF wherever a profiler's handler usually goes wrong
  sigstorm probe --at 'libc!_int_*' -- ./yours    at every instruction of these functions
  sigstorm probe --fresh --at dl_iterate_phdr -- ./yours
                                                  a new process for each: what happens once in a process
  sigstorm probe --deliver others --at lock -- ./yours
                                                  the other threads get it while one is in `lock`
  sigstorm probe --list 'pthread_*' -- ./yours    which functions would that be?
  sigstorm probe --replay reports/deadlock-1f2e/probe.json

The program runs under ptrace, unchanged; its output goes to a file, its input is empty. Debian's libc has no names
for its inner functions (_int_malloc) without the package libc6-dbg.
Exit status: 0 nothing found; 1 a finding that a fresh process has shown again; 2 wrong usage, or the program cannot
be started; 3 no answer: a harness error, or nothing was injected.")]
pub struct Probe {
    /// Functions at whose instructions the signal comes: a glob, perhaps with OBJECT! before it; may be given
    /// more than once [default: what signal handlers usually trip over, as far as the program has it]
    #[arg(long, value_name = "FUNCTIONS", value_parser = pattern)]
    pub at: Vec<Pattern>,
    /// The signal, and after a colon where it says that it comes from: tkill, user, timer or kernel
    #[arg(long, value_name = "SIG[:ORIGIN]", default_value = "PROF", value_parser = ProbeSignal::parse)]
    pub signal: ProbeSignal,
    /// The threads that get it: the one at the instruction; every other thread while that one is held there; that
    /// one, whose handler is then held at instructions of its own; that thread, and another signal in its handler
    #[arg(long, value_name = "WHO", default_value = "here", value_parser = deliver())]
    pub deliver: Deliver,
    /// With --deliver held: the functions in which the handler is held [default: itself, and those that it calls]
    #[arg(long, value_name = "FUNCTIONS", value_parser = pattern)]
    pub handler: Vec<Pattern>,
    /// With --deliver twice: the second signal [default: the same one]
    #[arg(long, value_name = "SIG[:ORIGIN]", value_parser = ProbeSignal::parse)]
    pub second: Option<ProbeSignal>,
    /// A new process for each instruction that is reached
    #[arg(long)]
    pub fresh: bool,
    /// How many visits of an instruction get a signal, in each process
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub visits: u32,
    /// Begin at the first call of this function [default: as soon as the signal has a handler]
    #[arg(long, value_name = "FUNCTION", value_parser = pattern)]
    pub from: Option<Pattern>,
    /// Stop after so many seconds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub seconds: u64,
    /// Fresh processes at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// Other output than undisturbed is a finding, too
    #[arg(long)]
    pub same_output: bool,
    /// Exit statuses that are no finding
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub allow_exit: Vec<i32>,
    /// Probe children, too, rather than letting them go
    #[arg(long)]
    pub follow: bool,
    /// Registers that the handler edits for the interrupted code are a finding, too
    #[arg(long)]
    pub strict_state: bool,
    /// Where the random choices begin: which visits are served after the first round
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Only list the functions that these patterns name in the program, and their boundaries
    #[arg(long, value_name = "FUNCTIONS", value_parser = pattern, conflicts_with = "replay")]
    pub list: Vec<Pattern>,
    /// Do the injection of a finding again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["at", "program"])]
    pub replay: Option<PathBuf>,
    /// Not yet: it comes with the shadow stack
    #[arg(long, hide = true, value_name = "TAP")]
    pub record: Option<String>,
    /// Not yet: it comes with the shadow stack
    #[arg(long, hide = true)]
    pub audit: bool,
    /// Not yet: it comes with failing system calls
    #[arg(long, hide = true, value_name = "CALL:ERRNO")]
    pub fail: Option<String>,
    /// Where the reports go
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub reports: PathBuf,
    /// The program and its arguments, after `--`
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| error.to_string())
}

fn deliver() -> impl TypedValueParser<Value = Deliver> {
    PossibleValuesParser::new(Deliver::ALL.iter().map(|deliver| deliver.name()))
        .try_map(|name| Deliver::from_name(&name).ok_or("no such way"))
}

/// `sigstorm probe`.
pub fn run(args: &Probe, out: &Out) -> Outcome {
    for (given, name) in
        [(args.record.is_some(), "--record"), (args.audit, "--audit"), (args.fail.is_some(), "--fail")]
    {
        if given {
            return Err(Trouble::Usage(format!("{name} does not exist yet")));
        }
    }
    if let Some(file) = &args.replay {
        return replay(file, out);
    }
    let plan = plan(args)?;
    if !args.list.is_empty() {
        return list(&plan, &args.list, out);
    }
    files::writable_folder(&args.reports).map_err(usage)?;
    let stop = interrupt::install()?;
    announce(&plan, out)?;
    let bar = ProbeBar::new(out);
    let probed = campaign::probe(&plan, stop, &mut |progress| bar.show(progress));
    bar.end();
    let probed = probed.map_err(trouble)?;
    // No function of `--at` exists, or that of `--from` does not, so that nothing ever began.
    let is_nowhere = probed.armed && !plan.at.is_empty() && probed.points.is_empty();
    if !probed.unmatched.is_empty() && (is_nowhere || !probed.armed) {
        let lines = [probed.unmatched.as_slice(), &probed.missing_symbols].concat();
        return Err(Trouble::Usage(lines.join("\n")));
    }

    let mut exit = Exit::Clean;
    let mut told = Ok(());
    for group in &probed.groups {
        let report = report::report(&plan, group);
        let written = keep(&report, &args.reports);
        told = told
            .and_then(|()| match &report.source {
                Source::Probe(found) => out.object(&ProbeFinding::new(found, written.as_deref())),
                _ => Ok(()),
            })
            .and_then(|()| tell(&report, written.as_deref(), &args.reports, out))
            .and_then(|()| out.say(""));
    }
    if report::verdict(&probed).is_some() {
        exit = Exit::Violation;
    }
    if let Some(error) = &probed.error {
        complain(&format!("harness error: {error}"));
        exit = Exit::Harness;
    }
    let inconclusive = report::inconclusive(&probed);
    if inconclusive.is_some() {
        exit = exit.worse(Exit::Inconclusive);
    }
    let told = told.and_then(|()| out.object(&ProbeSummary::new(&plan, &probed))).and_then(|()| {
        for note in probed.unmatched.iter().chain(&probed.notes).chain(&probed.missing_symbols) {
            out.remark(&format!("note: {note}"));
        }
        out.say(&report::table(&plan, &probed))?;
        if let Some(handler) = &probed.handler {
            out.say(&format!("handler: {handler}"))?;
        }
        if stop.load(Ordering::SeqCst) {
            out.say("broken off")?;
        }
        let confirmed = report::confirmed(&probed).len();
        match (inconclusive, probed.groups.len()) {
            (Some(reason), _) => out.inconclusive(reason),
            (None, 0) => {
                out.say(&style(format!("nothing found in {:.1} s", probed.seconds)).green().to_string())
            }
            (None, all) => out.say(&format!(
                "{}, {} that no fresh process has shown again",
                counted(confirmed, "finding"),
                all - confirmed
            )),
        }
    });
    exit.once_told(told)
}

fn plan(args: &Probe) -> Result<ProbePlan, Trouble> {
    let Some((program, rest)) = args.program.split_first() else {
        return Err(Trouble::Usage("which program? Name it after `--`: sigstorm probe -- ./yours".into()));
    };
    let jobs = args
        .jobs
        .map_or_else(|| sigstorm_inject::allowed_cores().map_or(1, |cores| cores.len()), usize::from);
    Ok(ProbePlan {
        program: program.clone(),
        args: rest.to_vec(),
        at: args.at.clone(),
        signal: args.signal,
        deliver: args.deliver,
        handler: args.handler.clone(),
        second: args.second,
        fresh: args.fresh,
        visits: args.visits,
        from: args.from.clone(),
        seconds: args.seconds,
        jobs,
        same_output: args.same_output,
        allow_exit: args.allow_exit.clone(),
        follow: args.follow,
        strict_state: args.strict_state,
        seed: args.seed,
    })
}

/// An error of the tracer: the program's, or ours.
fn trouble(error: Error) -> Trouble {
    match error {
        Error::Start { .. } | Error::Refused { .. } => Trouble::Usage(error.to_string()),
        error => Trouble::Harness(error.into()),
    }
}

fn announce(plan: &ProbePlan, out: &Out) -> Result<(), Trouble> {
    let at: Vec<&str> = plan.at.iter().map(Pattern::text).collect();
    out.object(&json!({
        "type": "start", "command": "probe", "program": plan.program.to_string_lossy(), "at": at,
        "signal": plan.signal.to_string(), "deliver": plan.deliver.name(), "fresh": plan.fresh, "seed": plan.seed,
    }))?;
    let at = if at.is_empty() { "what handlers usually trip over".into() } else { at.join(", ") };
    out.remark(&format!(
        "probe for {} s: {} at {at}, delivered {}",
        plan.seconds,
        plan.signal,
        plan.deliver.name()
    ));
    Ok(())
}

/// `--list`: the functions that patterns name in the program.
fn list(plan: &ProbePlan, patterns: &[Pattern], out: &Out) -> Outcome {
    let listed = campaign::list(plan, patterns).map_err(trouble)?;
    let mut boundaries = 0;
    for function in listed.points.functions() {
        boundaries += function.points.len();
        out.object(&json!({
            "type": "function", "object": function.object.to_string_lossy(), "function": function.name,
            "address": function.address, "boundaries": function.points.len(),
        }))?;
        let name = format!("{}!{}", function.object_name(), function.name);
        out.say(&format!("{:>7}  {name}", function.points.len()))?;
    }
    for (reason, names) in &listed.points.left_out {
        for name in names {
            out.object(&json!({"type": "left-out", "function": name, "reason": reason}))?;
            out.say(&format!("      -  {name}: {reason}"))?;
        }
    }
    out.object(&json!({
        "type": "summary", "command": "probe", "functions": listed.points.functions().len(), "boundaries": boundaries,
    }))?;
    for unmatched in &listed.unmatched {
        complain(&format!("error: {unmatched}"));
    }
    out.say(&format!("{boundaries} boundaries in {}", counted(listed.points.functions().len(), "function")))?;
    Ok(if listed.points.is_empty() { Exit::Usage } else { Exit::Clean })
}

/// `--replay`: the injection of a finding once more, in fresh processes.
fn replay(file: &std::path::Path, out: &Out) -> Outcome {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Trouble::Usage(format!("cannot read {}: {error}", file.display())))?;
    let unreadable =
        |error: String| Trouble::Usage(format!("{} is no probe.json of a finding: {error}", file.display()));
    let replay = Replay::parse(&text).map_err(unreadable)?;
    let plan = replay.plan().map_err(unreadable)?;
    let Some(site) = &replay.site else {
        return Err(unreadable("it names no boundary".into()));
    };
    let stop = interrupt::install()?;
    let began = Instant::now();
    out.remark(&format!("again: {} at {}, visit {}", plan.signal, site.describe(), site.visit));
    let again = campaign::again(&plan, site, replay.kind, stop).map_err(trouble)?;
    let same = again.reproduced;
    if let Some(found) = again.found.iter().find(|found| found.kind == replay.kind) {
        out.say(&style(format!("{}: {}", found.kind.name(), found.summary)).red().bold().to_string())?;
        for line in found.evidence.iter().chain(&found.stacks) {
            out.say(&format!("    {line}"))?;
        }
    }
    out.object(&json!({
        "type": "summary", "command": "probe", "replay": file.to_string_lossy(), "tried": again.tried,
        "reproduced": same, "reached": again.reached, "seconds": began.elapsed().as_secs_f64(),
        "verdict": (same > 0).then(|| replay.kind.name()),
        "inconclusive": (again.reached == 0).then_some("no-boundaries-reached"),
    }))?;
    out.say(&format!("{} in {same} of {} fresh processes", replay.kind.name(), again.tried))?;
    if again.reached == 0 {
        out.inconclusive(sigstorm::report::Inconclusive::Boundaries)?;
        return Ok(Exit::Inconclusive);
    }
    Ok(if same > 0 { Exit::Violation } else { Exit::Clean })
}
