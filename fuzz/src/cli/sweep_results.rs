//! The results of a sweep on standard output.

use std::collections::BTreeMap;
use std::path::Path;

use console::style;
use indicatif::HumanCount;
use serde::Serialize;
use sigstorm::process::cores;
use sigstorm::report::Inconclusive;
use sigstorm::report::summary::Machine;
use sigstorm::report::words::{counted, lossy_path};
use sigstorm::sweep::run::{ENOUGH, SweepRun};
use sigstorm::sweep::{InstructionCoverage, UnreachedReason};
use sigstorm_inject::Region;
use sigstorm_runtime::profiler::SkipReason;

use super::Trouble;
use super::findings::no_violation;
use super::output::Out;
use super::sweep::Sweep;

/// The last line of `sweep --json`. Keys are added, never changed.
#[derive(Serialize)]
struct SweepSummary<'a> {
    r#type: &'a str,
    command: &'a str,
    boundaries: usize,
    injected: usize,
    unreached: usize,
    violations: u64,
    verdict: Option<&'a str>,
    files: u64,
    runs: u64,
    samples: u64,
    tracebacks: u64,
    alone: u64,
    skips: BTreeMap<&'static str, u64>,
    handovers: u64,
    verdicts: &'a BTreeMap<String, u64>,
    beyond: u64,
    cut: u64,
    unreadable: u64,
    seconds: f64,
    #[serde(serialize_with = "lossy_path")]
    listing: Option<&'a Path>,
    inconclusive: Option<&'static str>,
    cores: &'a [usize],
    core_share: &'a [Option<f64>],
    inert_steps: usize,
    unreached_stops: usize,
    doubtful_stops: usize,
    notes: &'a [String],
}

/// An instruction that was not disturbed.
#[derive(Serialize)]
struct UnreachedLine {
    r#type: &'static str,
    place: String,
    instruction: String,
    why: &'static str,
}

/// The sums over the files, beside those of their runs.
#[derive(Debug, Default)]
pub struct FileTotals {
    /// Files that cannot be read.
    pub unreadable: u64,
    /// Stops that this build cannot take as they were meant.
    pub doubtful: usize,
    /// Whether there was a note about a file.
    pub said: bool,
    /// Notes about them.
    pub notes: Vec<String>,
}

/// All that is printed at the end.
#[derive(Debug)]
pub struct SweepResults<'a> {
    /// The arguments of the command.
    pub args: &'a Sweep,
    /// Where the results are printed.
    pub out: &'a Out,
    /// The sweep.
    pub sweep: &'a SweepRun,
    /// The sums over the files.
    pub files: &'a FileTotals,
    /// The marked code.
    pub region: &'a Region,
    /// Its cores, and notes.
    pub machine: &'a Machine,
    /// Each job's share of a core.
    pub shares: &'a [Option<f64>],
}

impl SweepResults<'_> {
    /// Prints the instructions that were not disturbed, and the summary.
    pub fn print(&self, listing: Option<&Path>, seconds: f64) -> Result<(), Trouble> {
        let SweepResults { files, region, machine, shares, .. } = self;
        let (totals, coverage) = (self.sweep.totals(), self.sweep.coverage());
        let (boundaries, injected) = (coverage.boundaries(), coverage.injected());
        let listed = |place: &InstructionCoverage| {
            let f = sigstorm_runtime::FuncId::ALL.iter().position(|f| *f == place.function);
            region.disassemble(f.unwrap_or(usize::MAX), usize::from(place.index))
        };
        let mut by_why: Vec<(UnreachedReason, u64)> = Vec::new();
        for (place, why) in coverage.unreached() {
            match by_why.iter_mut().find(|(known, _)| *known == why) {
                Some((_, count)) => *count += 1,
                None => by_why.push((why, 1)),
            }
            let name = format!("{}#{}", place.function, place.index);
            let instruction = listed(place);
            let line = format!("  unreached: {name:<22} {instruction:<44} {}", why.name());
            // Few are worth reading one by one; the listing has all.
            if boundaries - injected <= 40 {
                self.out.say(line.trim_end())?;
            }
            self.out.object(&UnreachedLine {
                r#type: "unreached",
                place: name,
                instruction,
                why: why.name(),
            })?;
        }
        let skips = || SkipReason::ALL.iter().map(|skip| skip.name()).zip(totals.injected.skips);
        let samples = totals.injected.samples();
        self.out.object(&SweepSummary {
            r#type: "summary",
            command: "sweep",
            boundaries,
            injected,
            unreached: boundaries - injected,
            violations: totals.violations,
            verdict: totals.verdict.as_deref(),
            files: totals.files,
            runs: totals.runs,
            samples,
            tracebacks: totals.injected.right,
            alone: totals.injected.alone,
            skips: skips().collect(),
            handovers: totals.injected.handed,
            verdicts: &totals.verdicts,
            beyond: totals.beyond,
            cut: totals.cut,
            unreadable: files.unreadable,
            seconds,
            listing,
            inconclusive: machine.inconclusive.map(Inconclusive::name),
            cores: &machine.cores,
            core_share: shares,
            inert_steps: totals.inert,
            unreached_stops: totals.unreached,
            doubtful_stops: files.doubtful,
            notes: &machine.notes,
        })?;
        if let Some(reason) = machine.inconclusive {
            return self.out.inconclusive(reason);
        }
        let say = |line: String| self.out.say(&line);
        let percent = 100.0 * injected as f64 / boundaries.max(1) as f64;
        say(format!("{injected} of {boundaries} reachable instructions disturbed ({percent:.1} %)"))?;
        for (why, count) in by_why {
            say(format!("  {count} not: {}", why.name()))?;
        }
        let skipped: Vec<String> =
            skips().filter(|(_, n)| *n != 0).map(|(name, n)| format!("{} {name}", HumanCount(n))).collect();
        say(format!(
            "{} signals exactly at an instruction: {} right tracebacks, {} without a goroutine, skipped for a \
             true reason: {}",
            HumanCount(samples),
            HumanCount(totals.injected.right),
            HumanCount(totals.injected.alone),
            if skipped.is_empty() { "none".to_owned() } else { skipped.join(", ") },
        ))?;
        say(format!(
            "{} hand-overs there; {} runs of {} in {seconds:.1} s",
            HumanCount(totals.injected.handed),
            HumanCount(totals.runs),
            counted(totals.files as usize, "schedule"),
        ))?;
        if totals.beyond != 0 {
            say(format!("{} visits are a step's ninth or later, which no stop can name", totals.beyond))?;
        }
        let jobs = counted(shares.len(), "job");
        say(format!("{jobs} had {}", cores::in_words(shares)))?;
        if totals.inert + totals.unreached != 0 {
            say(format!(
                "of the schedules as they are, {} had no effect and {} not reached",
                counted(totals.inert, "step"),
                match totals.unreached {
                    1 => "1 stop was".to_owned(),
                    many => format!("{many} stops were"),
                },
            ))?;
        }
        let found = match totals.verdicts.is_empty() {
            true => no_violation(files.said),
            false => style(totals.found()).red().bold(),
        };
        say(format!("{found}"))?;
        if totals.cut != 0 {
            let enough = if self.args.first { 1 } else { ENOUGH };
            let enough = counted(enough as usize, "violation");
            say(format!("{} ended after {enough}", counted(totals.cut as usize, "file")))?;
        }
        if let Some(page) = listing {
            say(format!("listing: {}", page.display()))?;
        }
        Ok(())
    }
}
