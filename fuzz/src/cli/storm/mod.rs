//! `sigstorm storm`: everything at once, in a child, watched from here.

mod parent;
mod report;
mod summary;

use super::output::{Out, complain};
use super::{Exit, Outcome, Trouble, args, child as children, files, interrupt};
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
    let plan = plan(args);
    let stop = interrupt::install()?;
    announce(&plan, out)?;

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
    let exit = Exit::of_verdict(verdict);
    let told = out.object(&Summary::new(&plan, &blown, verdict, written.as_deref())).and_then(|()| {
        out.say(&summary::table(&plan, &blown))?;
        match &report {
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
