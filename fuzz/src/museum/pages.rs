//! The files that the museum leaves: `museum.md`, `museum/survival.svg`, and for each specimen a page
//! and the schedule that shows it.

use std::env;
use std::fmt::{self, Write};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::HumanCount;

use super::tally::Tally;
use super::trials::{Show, TrialResult};
use super::{Specimen, Subject, plot, specimen, table};
use crate::files::{self, origin::Origin};
use crate::report::words::counted;
use crate::report::{FoundSchedule, Report, Source, interleaving};
use crate::shrink::{Shrinking, reproduce};

/// A page's schedule is shrunk for no longer than this.
const SHRINKING: Duration = Duration::from_secs(30);

/// The results to write.
#[derive(Debug)]
pub struct Results<'a> {
    /// The show.
    pub show: &'a Show,
    /// The trials, summed up.
    pub tallies: &'a [Tally],
    /// The trials.
    pub ran: &'a [TrialResult],
    /// How long storms were to last, and their table; none where there were none.
    pub storms: Option<(u64, String)>,
    /// How long the trials took.
    pub seconds: f64,
}

/// Writes all of it into `folder`.
///
/// # Errors
/// As for making the folders and writing the files.
pub fn write(
    folder: &Path,
    results: &Results<'_>,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(Shrinking),
) -> Result<()> {
    let &Results { show, tallies, ran, .. } = results;
    let pages = folder.join("museum");
    fs::create_dir_all(&pages).with_context(|| format!("cannot make {}", pages.display()))?;
    files::write(&pages.join("survival.svg"), plot::svg(tallies, show.budget)?.as_bytes())?;
    for &subject in &show.subjects {
        let Some(specimen) = subject.0.and_then(specimen) else { continue };
        let report = shrunk(subject, show, ran, stop, watch);
        let page = page(specimen, subject, tallies, report.as_ref(), folder);
        files::write(&pages.join(format!("{}.md", specimen.name)), page.as_bytes())?;
        if let Some(report) = &report
            && let Some(found) = report.schedule()
        {
            let text = Origin::here(&report.defects).text(&found.schedule);
            files::write(&pages.join(format!("{}.txt", specimen.name)), text.as_bytes())?;
        }
    }
    // Last, so that what it links to is there.
    files::write(&folder.join("museum.md"), overview(results).as_bytes())
}

/// The first finding of the first baseline that has one, shrunk and traced.
fn shrunk(
    subject: Subject,
    show: &Show,
    ran: &[TrialResult],
    stop: &AtomicBool,
    watch: &mut dyn FnMut(Shrinking),
) -> Option<Report> {
    let first = ran
        .iter()
        .filter(|ran| ran.trial.subject == subject && ran.marks.detected.is_some())
        .min_by_key(|ran| (ran.trial.baseline, ran.trial.number))?;
    let (found, detected) = (first.found.as_ref()?, first.marks.detected?);
    let schedule = FoundSchedule::found(&found.bytes, detected.schedules);
    let mut report = Report {
        finding: found.finding.clone(),
        source: Source::Schedule(Box::new(schedule)),
        defects: show.plan(&first.trial, 0).worker.defects,
        seed: first.trial.seed,
        seconds: detected.seconds,
        notes: Vec::new(),
    };
    reproduce(&mut report, stop, SHRINKING, watch);
    Some(report)
}

fn page(
    specimen: &Specimen,
    subject: Subject,
    tallies: &[Tally],
    report: Option<&Report>,
    folder: &Path,
) -> String {
    let mut text = String::new();
    // A string takes whatever is written.
    let _ = write_page(&mut text, specimen, subject, tallies, report, folder);
    text
}

fn write_page(
    f: &mut String,
    specimen: &Specimen,
    subject: Subject,
    tallies: &[Tally],
    report: Option<&Report>,
    folder: &Path,
) -> fmt::Result {
    let name = specimen.name;
    writeln!(f, "# {}. {name}\n", specimen.number)?;
    writeln!(f, "{}\n\n{}\n\nSource: {}.", specimen.wrong, specimen.bites, specimen.source)?;
    let own: Vec<Tally> = tallies.iter().filter(|tally| tally.name == subject.name()).cloned().collect();
    writeln!(f, "\n## How soon it is found\n\n{}", table::markdown(&own, |_| None))?;
    let expected: Vec<_> = specimen.expected.iter().map(|verdict| format!("`{verdict}`")).collect();
    let Some((report, found)) = report.and_then(|report| Some((report, report.schedule()?))) else {
        return if expected.is_empty() {
            writeln!(f, "Nothing was found, and nothing may be.")
        } else {
            writeln!(f, "It was not found; expected: {}.", expected.join(" or "))
        };
    };
    let expected = if expected.is_empty() { "nothing".into() } else { expected.join(" or ") };
    writeln!(f, "## The verdict\n\n`{}`; expected: {expected}.", report.finding.verdict)?;
    block(f, std::iter::once(&report.finding.summary).chain(&report.finding.evidence))?;
    for note in &report.notes {
        writeln!(f, "\nNote: {note}.")?;
    }
    writeln!(
        f,
        "\n## The schedule\n\nAs the harness found it, in schedule {} from seed {}, shrunk from {} to {}.",
        HumanCount(found.schedules),
        report.seed,
        counted(found.steps_before(), "step"),
        found.schedule.steps.len()
    )?;
    let schedule = found.schedule.to_text();
    block(f, schedule.lines())?;
    let file = folder.join("museum").join(format!("{name}.txt"));
    let defects: String = report.defects.iter().map(|defect| format!(" --defect {defect}")).collect();
    block(f, [format!("cargo run --release -- replay {}{defects}", file.display())])?;
    writeln!(f, "\n## What happened, thread by thread")?;
    let lines: Vec<_> = interleaving::lay_out(&found.events).iter().map(|line| line.plain()).collect();
    if lines.is_empty() {
        writeln!(f, "\nThe run ended its process, so there is no trace of it.")?;
    } else {
        block(f, &lines)?;
    }
    writeln!(f, "\n## The stacks at that moment")?;
    block(f, &report.finding.dump)
}

/// Lines as they are.
fn block(f: &mut String, lines: impl IntoIterator<Item = impl AsRef<str>>) -> fmt::Result {
    writeln!(f, "\n```")?;
    lines.into_iter().try_for_each(|line| writeln!(f, "{}", line.as_ref().trim_end()))?;
    writeln!(f, "```")
}

fn overview(results: &Results<'_>) -> String {
    let mut text = String::new();
    let _ = write_overview(&mut text, results);
    text
}

fn write_overview(f: &mut String, results: &Results<'_>) -> fmt::Result {
    let &Results { show, tallies, ran, ref storms, seconds } = results;
    writeln!(f, "# The museum\n")?;
    writeln!(
        f,
        "Real mistakes of a real runtime, put back into the core one at a time, and how soon they are found.\n\
         A trial is one worker on one core, with an empty corpus and a seed of its own, that ends with its\n\
         first finding or after {} s. *Reached*: the faulty code ran. *Triggered*: the mistake bit, by a canary\n\
         in the defect itself. *Found*: the harness said so. Medians are over all trials, one that ended\n\
         without a finding counting as longer than any; (!) marks a verdict that was not expected.\n",
        show.budget
    )?;
    let link = |name: &str| specimen_page(name);
    writeln!(f, "{}", table::markdown(tallies, link))?;
    for baseline in &show.baselines {
        writeln!(f, "{}", medians(tallies, baseline.name()))?;
    }
    writeln!(f, "\n![survival curves](museum/survival.svg)\n")?;
    if let Some((limit, table)) = storms {
        writeln!(
            f,
            "## Beside storms\n\nThe same specimens in a storm of at most {limit} s: every thread at once, real timers, no\n\
             baton. Beside each the trials from above: in how many of them it was found, and the median.\n\n{table}"
        )?;
    }
    writeln!(f, "## How it was made\n\n```\n{}\n```\n", command_line(show))?;
    let all = show.trials().len();
    if ran.len() < all {
        writeln!(f, "It was ended early, after {} of {all} trials.", ran.len())?;
    }
    writeln!(f, "{}; {} trials in {:.0} s.", machine(), ran.len(), seconds)?;
    let steps = ran.iter().map(|ran| ran.schedules).sum::<u64>();
    writeln!(f, "{} schedules were run.", HumanCount(steps))
}

/// How many medians are short.
fn medians(tallies: &[Tally], baseline: &str) -> String {
    let loud = tallies.iter().filter(|tally| !tally.must_be_silent && tally.baseline == baseline);
    let medians: Vec<_> = loud.map(|tally| tally.median_seconds).collect();
    let within = |limit: f64| medians.iter().filter(|median| median.is_some_and(|m| m <= limit)).count();
    format!(
        "By {baseline}: of {}, {} have a median of at most 2 s and {} of at most 10 s.",
        counted(medians.len(), "specimen"),
        within(2.0),
        within(10.0)
    )
}

/// A specimen's page, from beside `museum.md`.
fn specimen_page(name: &str) -> Option<String> {
    (name != Subject::NONE).then(|| format!("museum/{name}.md"))
}

/// The command that makes the same trials.
fn command_line(show: &Show) -> String {
    let mut words: Vec<String> =
        env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if !words.iter().any(|word| word.starts_with("--seed")) {
        words.extend(["--seed".into(), show.seed.to_string()]);
    }
    format!("cargo run --release -- {}", words.join(" "))
}

/// The machine, in a line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned()))
        .unwrap_or_else(|| "an unknown processor".into());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {}, Linux {}", counted(cores, "core"), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_is_described_in_a_line() {
        let machine = machine();
        assert!(
            machine.contains("core") && machine.contains("Linux") && !machine.contains('\n'),
            "{machine}"
        );
    }
}
