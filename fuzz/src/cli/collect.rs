//! `sigstorm collect`: reports of what other engines have found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use sigstorm::files::{self, input};
use sigstorm::process::Runner;
use sigstorm::report::words::counted;
use sigstorm::report::{FoundSchedule, Report, Source};
use sigstorm::shrink::reproduce;

use super::args::Planted;
use super::display::ShrinkingBar;
use super::findings::{keep, tell};
use super::output::{Out, complain, warn};
use super::{Exit, Outcome, Trouble, interrupt, usage};

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

/// Findings of one verdict that are shrunk; the others are only counted.
const EACH: u64 = 3;
/// How long one is shrunk.
const SHRINKING: Duration = Duration::from_secs(20);
/// Folders are not looked into deeper than this.
const DEPTH: usize = 8;

#[derive(Default, Serialize)]
struct CollectSummary {
    r#type: &'static str,
    command: &'static str,
    files: u64,
    violations: u64,
    /// How many there are of each verdict.
    verdicts: BTreeMap<String, u64>,
    /// How many different reports there are.
    reports: usize,
    verdict: Option<String>,
    unreadable: u64,
    /// Whether it was not broken off.
    complete: bool,
    notes: Vec<String>,
}

/// `sigstorm collect`.
pub fn run(args: &Collect, out: &Out) -> Outcome {
    Exit::settled(|exit| collect(args, out, exit))
}

fn collect(args: &Collect, out: &Out, exit: &mut Exit) -> Result<(), Trouble> {
    files::writable_folder(&args.reports).map_err(usage)?;
    let stop = interrupt::install()?;
    let mut summary =
        CollectSummary { r#type: "summary", command: "collect", complete: true, ..CollectSummary::default() };
    let mut found = BTreeSet::new();
    let mut searched = 0;
    for place in &args.places {
        match fs::metadata(place) {
            Ok(meta) if meta.is_dir() => {
                searched += findings(place, DEPTH, &mut found)
                    .map_err(|error| Trouble::Usage(format!("cannot read {}: {error}", place.display())))?;
            }
            Ok(_) => drop(found.insert(place.clone())),
            Err(error) => {
                complain(&format!("error: cannot read {}: {error}", place.display()));
                summary.unreadable += 1;
                *exit = exit.worse(Exit::Usage);
            }
        }
    }

    if found.is_empty() && *exit == Exit::Clean {
        // Whether an engine has found nothing yet, or this is another folder, makes a difference.
        let wanted = "AFL's findings (crashes/id:*) and libFuzzer's (crash-*)";
        let said = match searched {
            0 => format!(
                "there is nothing to collect: neither a folder of AFL's named crashes nor any file crash-*; in a folder it takes {wanted}, any other file by its name"
            ),
            _ => format!(
                "no findings yet: {} of an engine without one; it takes {wanted}",
                counted(searched, "folder")
            ),
        };
        complain(&format!("{}{said}", if searched == 0 { "error: " } else { "note: " }));
        summary.notes.push(said);
        *exit = if searched == 0 { Exit::Usage } else { Exit::Clean };
    }
    let mut runner = Runner::new(&args.planted.defects);
    let mut written = BTreeSet::new();
    for file in found {
        if stop.load(Ordering::SeqCst) {
            summary.complete = false;
            *exit = exit.worse(Exit::Inconclusive);
            break;
        }
        let input = match input::load(&file) {
            Ok(input) => input,
            Err(message) => {
                complain(&format!("error: {message}"));
                summary.unreadable += 1;
                *exit = exit.worse(Exit::Usage);
                continue;
            }
        };
        summary.files += 1;
        summary.notes.extend(warn(&input, &args.planted.defects));
        let found = FoundSchedule::found(&input.schedule.encode(), 0);
        let answer = runner.run(&found.original, false)?;
        let Some(finding) = answer.finding else {
            let said = if answer.steps == 0 {
                *exit = exit.worse(Exit::Inconclusive);
                "inconclusive: no step had an effect"
            } else {
                "no violation when it is run here"
            };
            let note = format!("{}: {said}", input.name);
            out.remark(&format!("note: {note}"));
            summary.notes.push(note);
            continue;
        };
        let known = summary.verdicts.get(&finding.verdict).copied().unwrap_or_default();
        let mut report = Report {
            finding,
            source: Source::Schedule(Box::new(found)),
            defects: args.planted.defects.clone(),
            seed: 0,
            seconds: 0.0,
            notes: vec![format!("collected from {}", input.name)],
        };
        if known < EACH {
            let bar = ShrinkingBar::new(out);
            reproduce(&mut report, stop, SHRINKING, &mut |progress| bar.show(progress));
            bar.end();
        }
        // It may be another now: that the same schedule does not do the same is an error of the harness.
        let verdict = &report.finding.verdict;
        let this = Exit::of_verdict(Some(verdict));
        *exit = exit.worse(this);
        summary.violations += u64::from(this == Exit::Violation);
        summary.verdict.get_or_insert_with(|| verdict.clone());
        *summary.verdicts.entry(verdict.clone()).or_default() += 1;
        let folder = report.folder(&args.reports);
        if known < EACH
            && !written.contains(&folder)
            && let Some(folder) = keep(&report, &args.reports)
        {
            tell(&report, Some(&folder), &args.reports, out)?;
            written.insert(folder);
        }
    }
    summary.reports = written.len();
    out.object(&summary)?;
    let CollectSummary { files, violations, reports, .. } = summary;
    out.say(&format!(
        "{}, {}, {}",
        counted(files as usize, "file"),
        counted(violations as usize, "violation"),
        counted(reports, "different report")
    ))?;
    Ok(())
}

/// Adds the findings of engines in a folder. Returns the number of folders in which engines leave theirs.
fn findings(folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) -> io::Result<usize> {
    // AFL's, and the one that cargo-fuzz makes.
    let is_engines = |name: &str| name.starts_with("crashes") || name == "artifacts";
    let mut engines = usize::from(folder.file_name().is_some_and(|name| is_engines(&name.to_string_lossy())));
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let of_afl = name.starts_with("id:")
            && folder.file_name().is_some_and(|folder| folder.to_string_lossy().starts_with("crashes"));
        if path.is_dir() && depth > 0 && !path.is_symlink() {
            engines += findings(&path, depth - 1, found)?;
        } else if path.is_file() && (of_afl || name.starts_with("crash-")) {
            found.insert(path.clone());
        }
    }
    Ok(engines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_engines_are_collected_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let crashes = dir.path().join("out/main/crashes");
        let queue = dir.path().join("out/main/queue");
        for folder in [&crashes, &queue] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("id:000001"), "").unwrap();
        }
        for name in ["out/crash-1", "out/timeout-1", "out/main/crashes/README.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut found = BTreeSet::new();
        assert_eq!(findings(dir.path(), DEPTH, &mut found).unwrap(), 1);
        let wanted = [crashes.join("id:000001"), dir.path().join("out/crash-1")];
        assert!(found.into_iter().eq(BTreeSet::from(wanted)));
    }
}
