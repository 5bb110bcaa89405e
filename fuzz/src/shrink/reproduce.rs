//! From a finding to its report: run it again, shrink it, and take a trace of it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;

use super::run::{Shrinking, shrink_in};
use crate::outcome::{Finding, Verdict};
use crate::process::Runner;
use crate::report::passed_over::with_passed_over;
use crate::report::{Report, Source};

/// Runs a report's schedule again, shrinks it for no longer than `limit`, and takes a trace of it. Where that
/// fails, or the run differs, the report says so. An error of the harness is kept as it was met: it may
/// not happen again, or hang. A storm's report is left alone.
pub fn reproduce(report: &mut Report, stop: &AtomicBool, limit: Duration, watch: &mut dyn FnMut(Shrinking)) {
    if !report.finding.is_harness_error()
        && let Err(error) = try_to(report, stop, limit, watch)
    {
        report.notes.push(format!("it could not be shrunk: {error:#}"));
    }
}

fn try_to(
    report: &mut Report,
    stop: &AtomicBool,
    limit: Duration,
    watch: &mut dyn FnMut(Shrinking),
) -> Result<()> {
    let Source::Schedule(source) = &mut report.source else { return Ok(()) };
    let mut runner = Runner::new(&report.defects);
    let verdict = report.finding.verdict.clone();
    let again = runner.run(&source.schedule.encode(), false)?;
    if again.verdict() != Some(&verdict) {
        // The same bytes do the same, always; if not, it is the harness that is wrong.
        let got = again
            .finding
            .as_ref()
            .map_or("nothing".into(), |finding| format!("{}: {}", finding.verdict, finding.summary));
        let summary = format!("{verdict} was found, and {got} when the same schedule was run again");
        let mut evidence = vec![format!("found: {}", report.finding.summary)];
        evidence.append(&mut report.finding.evidence);
        let dump = std::mem::take(&mut report.finding.dump);
        report.finding = Finding { dump, ..Finding::new(Verdict::HarnessError, summary, evidence) };
        return Ok(());
    }
    let shrunk = shrink_in(&mut runner, &source.schedule, &verdict, stop, Some(limit), watch)?;
    source.schedule = shrunk.schedule;
    source.shrunk = true;
    if shrunk.early {
        report
            .notes
            .push(format!("shrinking was ended after {} runs; `sigstorm shrink` goes on", shrunk.runs));
    }
    let last = runner.run(&source.schedule.encode(), true)?;
    source.events = with_passed_over(last.events, &source.schedule, &last.inert, &last.unreached);
    report.notes.extend(last.notes);
    match last.finding {
        Some(finding) if finding.verdict == verdict => report.finding = finding,
        _ => report.notes.push("the shrunk schedule's verdict was another when its trace was taken".into()),
    }
    Ok(())
}
