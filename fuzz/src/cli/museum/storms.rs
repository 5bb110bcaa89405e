//! What a storm finds of the same specimens: truly parallel threads for so many seconds, where a
//! trial has one thread at a time. One storm each, one after the other, since each takes every core.

use super::super::args::{self, Subject};
use super::super::display::Sweeping;
use super::super::inconclusive::Reason;
use super::super::output::Out;
use super::super::storm::{self, Plan};
use super::table::seconds;
use super::tally::Tally;
use super::trials::Show;
use anyhow::Result;
use clap::Parser;
use indicatif::HumanCount;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};

/// One storm.
#[derive(Debug, Serialize)]
pub struct Storm {
    r#type: &'static str,
    name: &'static str,
    /// Until something was found, or until its time was up.
    seconds: f64,
    /// Signals that were handled.
    signals: u64,
    /// What was found.
    verdict: Option<String>,
    /// Why it says nothing, if it does not.
    inconclusive: Option<&'static str>,
}

/// Blows one for each specimen, so many seconds long; those that `stop` breaks off are left out.
pub fn run(show: &Show, limit: u64, stop: &AtomicBool, out: &Out) -> Result<Vec<Storm>> {
    let mut storms = Vec::new();
    let bar = Sweeping::new(out);
    bar.begin("storms", show.subjects.len());
    for (number, &subject) in show.subjects.iter().enumerate() {
        bar.show(number, subject.name().into());
        let mut plan = plan(show, subject, limit);
        let cores = storm::take_cores(&mut plan);
        let blown = storm::blow(&plan, stop, |_| {})?;
        drop(cores);
        if stop.load(Ordering::SeqCst) && blown.finding.is_none() {
            break;
        }
        let storm = Storm {
            r#type: "storm",
            name: subject.name(),
            seconds: blown.seconds,
            signals: blown.counts.signals,
            inconclusive: blown.inconclusive().map(Reason::name),
            verdict: blown.finding.map(|finding| finding.verdict),
        };
        // If nobody listens any more, there are still the files and the exit status.
        let _ = out.object(&storm);
        storms.push(storm);
    }
    bar.end();
    Ok(storms)
}

/// A storm as the command blows it by itself, with these defects.
fn plan(show: &Show, subject: Subject, limit: u64) -> Plan {
    let seconds = Some(limit);
    let defects = subject.0.into_iter().chain(show.with.iter().copied()).collect();
    Plan { seconds, seed: show.seed & 0xffff_ffff, defects, ..storm::plan(&usual()) }
}

/// What the command has where nothing is said.
fn usual() -> args::Storm {
    match args::Cli::parse_from(["sigstorm", "storm"]).command {
        Some(args::Command::Storm(storm)) => storm,
        _ => unreachable!("it was told to"),
    }
}

/// The specimens once more, a column for each means.
pub fn markdown(show: &Show, tallies: &[Tally], storms: &[Storm], limit: u64) -> String {
    let means: Vec<&str> = show.baselines.iter().map(|baseline| baseline.name()).collect();
    let mut text = format!("| specimen | {} | storm | its verdict | signals |\n", means.join(" | "));
    text += &format!("|---|{}--:|---|--:|\n", "--:|".repeat(means.len()));
    for storm in storms {
        text += &format!("| {} |", storm.name);
        for name in &means {
            let tally = tallies.iter().find(|t| t.name == storm.name && t.baseline == *name);
            text += &tally.map_or(" - |".into(), |t| {
                let median = t.median_seconds.map_or(String::new(), |s| format!(", {} s", seconds(s)));
                format!(" {}/{}{median} |", t.detected, t.trials)
            });
        }
        let found = match &storm.verdict {
            Some(verdict) => format!(" {} s | {verdict}", seconds(storm.seconds)),
            None if storm.inconclusive.is_some() => " inconclusive | -".to_owned(),
            None => format!(" not in {limit} s | -"),
        };
        text += &format!("{found} | {} |\n", HumanCount(storm.signals));
    }
    text
}
