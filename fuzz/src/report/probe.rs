//! A probe's findings and summary, for people and for scripts.

use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanCount;
use serde::Serialize;

use super::words::lossy_path;
use super::{Inconclusive, Report, Source};
use crate::outcome::Finding;
use crate::probe::campaign::{Probed, by_kind};
use crate::probe::defaults;
use crate::probe::finding::{Group, Kind, Site};
use crate::probe::plan::{Deliver, ProbePlan};
use crate::probe::replay::Replay;

/// The probe that has a finding.
#[derive(Debug)]
pub struct FoundProbe {
    /// The injection, to be done again.
    pub replay: Replay,
    /// The finding, and all others of its cause.
    pub group: Group,
}

/// The report of a probe's finding.
pub fn report(plan: &ProbePlan, group: &Group) -> Report {
    let found = &group.first;
    Report {
        finding: Finding {
            verdict: found.kind.name().to_owned(),
            summary: found.summary.clone(),
            evidence: found.evidence.clone(),
            dump: found.stacks.clone(),
            step: 0,
        },
        source: Source::Probe(Box::new(FoundProbe {
            replay: Replay::new(plan, group),
            group: group.clone(),
        })),
        defects: Vec::new(),
        seed: plan.seed,
        seconds: group.seconds,
        notes: group.notes.clone(),
    }
}

/// A boundary in a line: place, instruction, source, visit.
pub fn site_line(site: &Site) -> String {
    let source = site.source.as_ref().map_or_else(String::new, |source| format!("  ({source})"));
    let visit = if site.visit > 1 { format!("  visit {}", site.visit) } else { String::new() };
    format!("{:<44} {}{source}{visit}", site.describe(), site.instruction)
}

/// How sure a finding is, in words.
pub fn confidence(group: &Group) -> String {
    let found = &group.first;
    let certain = match found.kind {
        Kind::Deadlock | Kind::Livelock if found.certain => ", certain",
        Kind::Deadlock | Kind::Livelock => ", likely",
        _ => "",
    };
    format!("reproduced {}/{}{certain}", group.reproduced, group.tried)
}

/// A finding as a line of JSON.
#[derive(Debug, Serialize)]
pub struct ProbeFinding<'a> {
    r#type: &'static str,
    kind: &'static str,
    summary: &'a str,
    object: Option<&'a str>,
    function: Option<&'a str>,
    offset: Option<u64>,
    instruction: Option<&'a str>,
    source: Option<&'a str>,
    visit: Option<u32>,
    deliver: &'a str,
    signal: &'a str,
    thread: i32,
    certain: bool,
    confirmed: bool,
    reproduced: u32,
    tried: u32,
    boundaries: usize,
    met: u64,
    cause: String,
    evidence: &'a [String],
    found_after_seconds: f64,
    #[serde(serialize_with = "lossy_path")]
    report: Option<&'a Path>,
}

impl<'a> ProbeFinding<'a> {
    /// Of a cause, whose report is in this folder.
    pub fn new(found: &'a FoundProbe, report: Option<&'a Path>) -> ProbeFinding<'a> {
        let FoundProbe { replay, group } = found;
        let (found, site) = (&group.first, group.first.site.as_ref());
        ProbeFinding {
            r#type: "finding",
            kind: found.kind.name(),
            summary: &found.summary,
            object: site.map(|site| site.object.as_str()),
            function: site.map(|site| site.function.as_str()),
            offset: site.map(|site| site.offset),
            instruction: site.map(|site| site.instruction.as_str()),
            source: site.and_then(|site| site.source.as_deref()),
            visit: site.map(|site| site.visit),
            deliver: &replay.deliver,
            signal: &replay.signal,
            thread: found.thread,
            certain: found.certain,
            confirmed: group.is_confirmed(),
            reproduced: group.reproduced,
            tried: group.tried,
            boundaries: group.sites.len(),
            met: group.met,
            cause: found.cause(),
            evidence: &found.evidence,
            found_after_seconds: group.seconds,
            report,
        }
    }
}

/// The summary of a probe.
#[derive(Debug, Serialize)]
pub struct ProbeSummary {
    r#type: &'static str,
    command: &'static str,
    functions: usize,
    boundaries: usize,
    reached: usize,
    injected: u64,
    returned: u64,
    masked: u64,
    processes: u64,
    threads: usize,
    seconds: f64,
    injections_per_second: f64,
    findings: usize,
    unconfirmed: usize,
    left_out: BTreeMap<String, u64>,
    kinds: BTreeMap<&'static str, usize>,
    handler: Option<String>,
    signal: String,
    deliver: &'static str,
    fresh: bool,
    seed: u64,
    verdict: Option<&'static str>,
    inconclusive: Option<&'static str>,
    notes: Vec<String>,
}

impl ProbeSummary {
    /// Of a probe that has ended.
    pub fn new(plan: &ProbePlan, probed: &Probed) -> ProbeSummary {
        let confirmed = confirmed(probed);
        let counts = &probed.totals.counts;
        ProbeSummary {
            r#type: "summary",
            command: "probe",
            functions: probed.points.functions().len(),
            boundaries: probed.points.len(),
            reached: probed.reached.len(),
            injected: counts.injected,
            returned: counts.returned,
            masked: counts.masked,
            processes: probed.totals.processes,
            threads: counts.threads,
            seconds: probed.seconds,
            injections_per_second: rate(probed),
            findings: confirmed.len(),
            unconfirmed: probed.groups.len() - confirmed.len(),
            left_out: left_out(probed),
            kinds: by_kind(&probed.groups),
            handler: probed.handler.clone(),
            signal: plan.signal.to_string(),
            deliver: plan.deliver.name(),
            fresh: plan.fresh,
            seed: plan.seed,
            verdict: verdict(probed).map(Kind::name),
            inconclusive: inconclusive(probed).map(Inconclusive::name),
            notes: [probed.notes.as_slice(), &probed.missing_symbols].concat(),
        }
    }
}

/// The findings that a fresh process has shown again.
pub fn confirmed(probed: &Probed) -> Vec<&Group> {
    probed.groups.iter().filter(|group| group.is_confirmed()).collect()
}

/// The verdict: the gravest kind that was confirmed.
pub fn verdict(probed: &Probed) -> Option<Kind> {
    confirmed(probed).into_iter().map(|group| group.first.kind).min()
}

/// Why a probe without a verdict has no answer, if it has none.
pub fn inconclusive(probed: &Probed) -> Option<Inconclusive> {
    let counts = &probed.totals.counts;
    let untried = probed.groups.iter().any(|group| group.tried == 0);
    if verdict(probed).is_some() {
        None
    } else if untried {
        Some(Inconclusive::Confirmation)
    } else if !probed.groups.is_empty() {
        None
    } else if !probed.armed {
        Some(Inconclusive::Handler)
    } else if probed.reached.is_empty() {
        Some(Inconclusive::Boundaries)
    } else if counts.injected + counts.returned == 0 {
        Some(Inconclusive::Injections)
    } else {
        None
    }
}

fn rate(probed: &Probed) -> f64 {
    probed.totals.counts.injected as f64 / probed.injecting.max(0.001)
}

fn left_out(probed: &Probed) -> BTreeMap<String, u64> {
    let mut left_out = BTreeMap::new();
    for (reason, names) in &probed.points.left_out {
        left_out.insert(format!("functions:{reason}"), names.len() as u64);
    }
    for (reason, count) in &probed.points.boundaries_left_out {
        left_out.insert(format!("boundaries:{reason}"), *count);
    }
    let restartable = probed.totals.counts.restartable;
    if restartable > 0 {
        left_out.insert("visits:restartable-sequence".into(), restartable);
    }
    left_out
}

/// The attack and its outcome, for people.
pub fn table(plan: &ProbePlan, probed: &Probed) -> String {
    let counts = &probed.totals.counts;
    let count = |number: u64| HumanCount(number).to_string();
    let mut rows = vec![
        ("functions", count(probed.points.functions().len() as u64)),
        ("boundaries", count(probed.points.len() as u64)),
        ("reached", count(probed.reached.len() as u64)),
        (
            match plan.deliver {
                Deliver::Others => "signals to other threads",
                _ => "signals at a boundary",
            },
            count(counts.injected),
        ),
        ("handlers that returned", count(counts.returned)),
        ("signals that were blocked", count(counts.masked)),
        ("injections a second", count(rate(probed) as u64)),
        ("processes", count(probed.totals.processes)),
    ];
    if probed.totals.confirming > 0 {
        rows.push(("processes to confirm", count(probed.totals.confirming)));
    }
    rows.push(("threads at a time", count(counts.threads as u64)));
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    for (name, number) in rows {
        table.add_row([name.to_owned(), number]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.to_string();
    for (reason, functions, boundaries) in defaults::by_reason(&probed.points) {
        text.push_str(&format!("\n  {functions:>4} functions, {boundaries:>6} boundaries: {reason}"));
    }
    for (reason, number) in left_out(probed) {
        let (what, reason) = reason.split_once(':').unwrap_or(("", &reason));
        text.push_str(&format!("\n  left out: {number} {what}, {reason}"));
    }
    text
}
