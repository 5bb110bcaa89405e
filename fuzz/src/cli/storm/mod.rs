//! `sigstorm storm`: everything at once, in a child, watched from here.

mod parent;
mod report;
mod summary;

use super::cores::{self, Cores};
use super::inconclusive::Reason;
use super::input::counted;
use super::output::{Out, complain};
use super::summary::{Machine, overrun};
use super::{Exit, Outcome, Trouble, args, child as children, files, interrupt};
use anyhow::Context;
use console::style;
pub use parent::{Plan, blow};
use report::Report;
use serde_json::json;
use sigstorm::storm::{Clock, MAX_THREADS, StormOptions};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use summary::{Display, Progress, Summary};

/// `sigstorm stormer`: ends with the process.
pub fn child(args: args::Stormer) -> ExitCode {
    if let Err(error) = children::begin(args.parent) {
        complain(&format!("cannot bind this process to its parent: {error}"));
        return ExitCode::from(Exit::Harness as u8);
    }
    if !args.cores.is_empty()
        && let Err(error) = sigstorm_inject::confine(&args.cores)
    {
        complain(&format!("cannot keep to the cores {:?}: {error}", args.cores));
        return ExitCode::from(Exit::Harness as u8);
    }
    sigstorm::storm::run(StormOptions {
        dir: args.dir,
        seconds: args.seconds,
        rate: args.rate,
        threads: args.threads,
        clock: args.clock,
        delay: args.delay,
        seed: args.seed,
        defects: args.planted.defects,
    })
}

/// `sigstorm storm`.
pub fn run(args: &args::Storm, out: &Out) -> Outcome {
    files::writable_folder(&args.reports).map_err(|error| Trouble::Usage(format!("{error:#}")))?;
    let mut plan = plan(args);
    let stop = interrupt::install()?;
    let cores = take_cores(&mut plan)?;
    announce(&plan, out)?;
    let cores = cores.with_warnings(out);
    let mut notes = cores.warnings();
    let allowed = sigstorm_inject::allowed_cores().map_or(plan.threads, |cores| cores.len());
    if plan.threads > allowed {
        let few = format!(
            "{} threads take turns on {}: less happens at once",
            plan.threads,
            counted(allowed, "core")
        );
        out.remark(&format!("note: {few}"));
        notes.push(few);
    }

    let mut display = Display::new(&plan, out);
    let blown = blow(&plan, stop, |blown| {
        display.show(blown);
        if display.a_second_has_passed(blown) {
            // If nobody listens any more, the storm still has its exit status.
            let _ = out.object(&Progress::new(blown));
        }
    });
    display.end();
    let blown = blown?;

    let report = blown.finding.as_ref().map(|finding| Report { finding, plan: &plan, blown: &blown });
    let written = report.as_ref().and_then(|report| keep(report, &args.reports));
    let verdict = blown.finding.as_ref().map(|finding| finding.verdict.as_str());
    let inconclusive = blown.inconclusive();
    let exit = match inconclusive {
        Some(_) => Exit::Inconclusive,
        None => Exit::of_verdict(verdict),
    };
    let late = overrun(plan.seconds, blown.seconds).filter(|late| *late >= 1.0);
    notes.extend(late.map(|late| format!("took {late:.1} s longer than it should")));
    let machine = Machine { cores: cores.numbers(), inconclusive, notes };
    let summary = Summary::new(&plan, &blown, verdict, written.as_deref(), Some(&machine));
    let told = out.object(&summary).and_then(|()| {
        out.say(&summary::table(&plan, &blown))?;
        if let Some(share) = blown.share.filter(|share| *share < FEW) {
            out.say(&format!("threads had {}", cores::in_words(&[Some(share)])))?;
        }
        if let Some(late) = late {
            out.say(&format!("took {late:.1} s longer than it should"))?;
        }
        match &report {
            None if inconclusive.is_some() => {
                let sentence = inconclusive.map_or("", Reason::sentence);
                out.say(&style(format!("inconclusive: {sentence}")).yellow().bold().to_string())
            }
            None => out.say(&format!("nothing found in {:.1} s", blown.seconds)),
            Some(report) => tell(report, written.as_deref(), out),
        }
    });
    match told {
        // What was found counts for more than that it could not be printed.
        Err(Trouble::Usage(message)) if exit != Exit::Clean => {
            complain(&format!("error: {message}"));
            Ok(exit)
        }
        other => other.map(|()| exit),
    }
}

/// Threads of a storm sleep now and then, too. With less of a core than this others were in their way.
const FEW: f64 = 0.25;

/// The cores that a storm takes: one for each thread and one for the collector, as far as there are
/// so many. Where there are more, the storm keeps to its own.
pub fn take_cores(plan: &mut Plan) -> Result<Cores, Trouble> {
    let allowed = sigstorm_inject::allowed_cores().context("cannot read the affinity mask")?.len();
    let wanted = plan.threads + 1;
    let cores = Cores::take(wanted.min(allowed))?;
    plan.cores = if wanted < allowed { cores.nths() } else { Vec::new() };
    Ok(cores)
}

/// How a storm is to blow, as the command line has it.
pub fn plan(args: &args::Storm) -> Plan {
    let cores = || thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let mut defects = args.planted.defects.clone();
    defects.sort();
    defects.dedup();
    Plan {
        seconds: args.seconds,
        rate: args.rate,
        threads: args.threads.map_or_else(cores, usize::from),
        clock: args.clock,
        delay: args.delay,
        // Short enough to be typed, and for every reader of JSON.
        seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) & 0xffff_ffff),
        cores: Vec::new(),
        defects,
    }
}

fn announce(plan: &Plan, out: &Out) -> Result<(), Trouble> {
    let names: Vec<_> = plan.defects.iter().map(|defect| defect.name()).collect();
    out.object(&json!({
        "type": "start", "command": "storm", "seed": plan.seed, "threads": plan.threads,
        "rate": plan.rate, "clock": plan.clock.name(), "delay": plan.delay.to_string(), "defects": names,
    }))?;
    let planted =
        if names.is_empty() { "the core as it is".into() } else { format!("planted: {}", names.join(", ")) };
    let budget = plan.seconds.map_or("until Ctrl-C".into(), |seconds| format!("for {seconds} s"));
    out.remark(&format!(
        "storm {budget}: {} threads and the collector, {} Hz ({}), delays {}, seed {}, {planted}",
        plan.threads,
        plan.rate,
        plan.clock.name(),
        plan.delay,
        plan.seed
    ));
    if plan.clock == Clock::Cpu && plan.rate > 250 {
        out.remark(
            "the kernel looks at processor-time clocks once a tick: expect fewer signals than asked for",
        );
    }
    Ok(())
}

/// Writes the report; if that fails, it goes where it is not lost.
fn keep(report: &Report<'_>, reports: &Path) -> Option<std::path::PathBuf> {
    match report.write(reports) {
        Ok(folder) => Some(folder),
        Err(error) => {
            complain(&format!("error: {error:#}; this is the report:\n{}", report.text()));
            None
        }
    }
}

fn tell(report: &Report<'_>, written: Option<&Path>, out: &Out) -> Result<(), Trouble> {
    let finding = report.finding;
    out.say(&style(format!("{}: {}", finding.verdict, finding.summary)).red().bold().to_string())?;
    for line in &finding.evidence {
        out.say(&format!("    {line}"))?;
    }
    out.say(&format!("found after {:.1} s", report.blown.seconds))?;
    if let Some(folder) = written {
        out.say(&format!("report: {}", folder.join("report.txt").display()))?;
    }
    out.say(&format!("again:  {}   (another storm: what met what is up to the machine)", report.again()))
}
