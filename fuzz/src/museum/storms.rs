//! The same specimens in storms: truly parallel threads for so many seconds, where a
//! trial has one thread at a time. One storm each, one after the other, since each takes every core.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use indicatif::HumanCount;
use serde::Serialize;

use super::Subject;
use super::table::seconds;
use super::tally::Tally;
use super::trials::Show;
use crate::campaign::storm;
use crate::report::Inconclusive;
use crate::storm::StormOptions;

/// One storm.
#[derive(Debug, Serialize)]
pub struct StormResult {
    r#type: &'static str,
    name: &'static str,
    /// Until something was found, or until its time was up.
    seconds: f64,
    /// Signals that were handled.
    signals: u64,
    /// The verdict, if anything was found.
    verdict: Option<String>,
    /// Why it says nothing, if it does not.
    inconclusive: Option<&'static str>,
}

/// Blows one for each specimen, so many seconds long; those that `stop` breaks off are left out. `watch` is told
/// of the next subject and its index, and then of its result.
///
/// # Errors
/// Where a storm cannot be started or watched.
pub fn run(
    show: &Show,
    limit: u64,
    stop: &AtomicBool,
    mut watch: impl FnMut(usize, Subject, Option<&StormResult>),
) -> Result<Vec<StormResult>> {
    let mut storms = Vec::new();
    for (number, &subject) in show.subjects.iter().enumerate() {
        watch(number, subject, None);
        let mut options = options(show, subject, limit);
        let cores = storm::take_cores(&mut options)?;
        let blown = storm::blow(&options, stop, |_| {})?;
        drop(cores);
        if stop.load(Ordering::SeqCst) && blown.finding.is_none() {
            break;
        }
        let storm = StormResult {
            r#type: "storm",
            name: subject.name(),
            seconds: blown.seconds,
            signals: blown.counts.signals,
            inconclusive: blown.inconclusive().map(Inconclusive::name),
            verdict: blown.finding.map(|finding| finding.verdict),
        };
        watch(number, subject, Some(&storm));
        storms.push(storm);
    }
    Ok(storms)
}

/// A storm as the command blows it by itself, with these defects.
fn options(show: &Show, subject: Subject, limit: u64) -> StormOptions {
    let defects = subject.0.into_iter().chain(show.with.iter().copied()).collect();
    StormOptions {
        seconds: Some(limit),
        threads: storm::usual_threads(),
        seed: show.seed & 0xffff_ffff,
        defects,
        ..StormOptions::default()
    }
}

/// The specimens once more, a column for each means.
pub fn markdown(show: &Show, tallies: &[Tally], storms: &[StormResult], limit: u64) -> String {
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
