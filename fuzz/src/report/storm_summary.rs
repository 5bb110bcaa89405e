//! The result of a storm: the line that scripts rely on, and the table that people read.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sigstorm_runtime::CodeClass;
use sigstorm_runtime::profiler::SkipReason;

use super::Inconclusive;
use super::summary::{Machine, overrun, side_by_side};
use super::words::lossy_path;
use crate::campaign::storm::Blown;
use crate::outcome::Verdict;
use crate::schedule::Op;
use crate::storm::{StormCounts, StormOptions};

/// The last line of `storm --json`. Keys are added, never changed.
#[derive(Debug, Serialize)]
pub struct StormSummary<'a> {
    r#type: &'static str,
    command: &'static str,
    seconds: f64,
    threads: usize,
    rate: u32,
    clock: &'static str,
    delay: String,
    signals: u64,
    signals_per_second_per_thread: f64,
    tracebacks: u64,
    skips: BTreeMap<&'static str, u64>,
    interrupted: BTreeMap<&'static str, u64>,
    sent: u64,
    coalesced: u64,
    dropped: u64,
    alone: u64,
    unjudged: u64,
    operations: u64,
    operations_by_kind: BTreeMap<&'static str, u64>,
    started: u64,
    syscalls: u64,
    interrupted_calls: u64,
    foreign_calls: u64,
    callbacks: u64,
    events: u64,
    panics: u64,
    recoveries: u64,
    copies: u64,
    barriers: u64,
    samples_read: u64,
    cycles: u64,
    delays: u64,
    rounds: u64,
    rss_kib: u64,
    rss_warm_kib: u64,
    rss_peak_kib: u64,
    violations: u64,
    verdict: Option<&'a str>,
    #[serde(serialize_with = "lossy_path")]
    report: Option<&'a Path>,
    seed: u64,
    inconclusive: Option<&'static str>,
    overrun: Option<f64>,
    cores: &'a [usize],
    core_share: Vec<Option<f64>>,
    notes: &'a [String],
}

/// Signals a second on each thread that runs goroutines.
fn per_thread(plan: &StormOptions, blown: &Blown) -> f64 {
    blown.counts.on_machines as f64 / blown.seconds.max(1e-3) / plan.threads as f64
}

impl<'a> StormSummary<'a> {
    /// The summary; `verdict` and `report` are those of the finding.
    pub fn new(
        plan: &StormOptions,
        blown: &Blown,
        verdict: Option<&'a str>,
        report: Option<&'a Path>,
        machine: Option<&'a Machine>,
    ) -> StormSummary<'a> {
        let c = &blown.counts;
        StormSummary {
            r#type: "summary",
            command: "storm",
            seconds: blown.seconds,
            threads: plan.threads,
            rate: plan.rate,
            clock: plan.clock.name(),
            delay: plan.delay.to_string(),
            signals: c.signals,
            signals_per_second_per_thread: per_thread(plan, blown),
            tracebacks: c.tracebacks,
            skips: by_reason(c).collect(),
            interrupted: by_class(c).collect(),
            sent: c.sent,
            coalesced: c.coalesced,
            dropped: c.dropped,
            alone: c.alone,
            unjudged: c.unjudged,
            operations: c.operations,
            operations_by_kind: by_kind(c).collect(),
            started: c.started,
            syscalls: c.syscalls,
            interrupted_calls: c.interrupted_calls,
            foreign_calls: c.foreign_calls,
            callbacks: c.callbacks,
            events: c.events,
            panics: c.panics,
            recoveries: c.recoveries,
            copies: c.copies,
            barriers: c.barriers,
            samples_read: c.samples_read,
            cycles: c.cycles,
            delays: c.delays,
            rounds: c.rounds,
            rss_kib: blown.memory.last,
            rss_warm_kib: blown.memory.warm,
            rss_peak_kib: blown.memory.peak,
            // An error of the harness is none of the core's.
            violations: verdict.is_some_and(|verdict| verdict != Verdict::HarnessError.name()).into(),
            verdict,
            report,
            seed: plan.seed,
            inconclusive: blown.inconclusive().map(Inconclusive::name),
            overrun: overrun(plan.seconds, blown.seconds),
            cores: machine.map_or(&[], |machine| &machine.cores),
            core_share: vec![blown.share],
            notes: machine.map_or(&[], |machine| &machine.notes),
        }
    }
}

/// One line a second, for machines.
#[derive(Debug, Serialize)]
pub struct StormProgress {
    r#type: &'static str,
    seconds: f64,
    signals: u64,
    tracebacks: u64,
    skips: u64,
    unjudged: u64,
    cycles: u64,
    copies: u64,
    recoveries: u64,
    rss_kib: u64,
}

impl StormProgress {
    /// How far it is.
    pub fn new(blown: &Blown) -> StormProgress {
        let c = &blown.counts;
        StormProgress {
            r#type: "progress",
            seconds: blown.seconds,
            signals: c.signals,
            tracebacks: c.tracebacks,
            skips: c.skips.iter().sum(),
            unjudged: c.unjudged,
            cycles: c.cycles,
            copies: c.copies,
            recoveries: c.recoveries,
            rss_kib: blown.memory.last,
        }
    }
}

/// The skips, by the names of their reasons.
pub fn by_reason(counts: &StormCounts) -> impl Iterator<Item = (&'static str, u64)> {
    SkipReason::ALL.iter().map(|reason| reason.name()).zip(counts.skips)
}

/// The operations that a storm does, by name, and how often it did them. Operations that never happen are
/// left out: options, and those about stops.
fn by_kind(counts: &StormCounts) -> impl Iterator<Item = (&'static str, u64)> {
    Op::names().zip(counts.kinds).filter(|(_, times)| *times != 0)
}

fn by_class(counts: &StormCounts) -> impl Iterator<Item = (&'static str, u64)> {
    CodeClass::ALL.iter().map(|class| class.name()).zip(counts.interrupted)
}

/// The counts side by side: what was done, what became of the samples, what was interrupted.
pub fn table(plan: &StormOptions, blown: &Blown) -> String {
    let c = &blown.counts;
    let done = vec![
        ("operations", c.operations),
        ("goroutines started", c.started),
        ("system calls", c.syscalls),
        ("interrupted in the kernel", c.interrupted_calls),
        ("foreign calls", c.foreign_calls),
        ("callbacks", c.callbacks),
        ("traced events", c.events),
        ("panics", c.panics),
        ("recoveries", c.recoveries),
        ("stack copies", c.copies),
        ("barriers", c.barriers),
        ("samples read", c.samples_read),
        ("cycles", c.cycles),
        ("delays", c.delays),
        ("rounds", c.rounds),
        ("memory, KiB", blown.memory.last),
        ("after 2 s, KiB", blown.memory.warm),
    ];
    let mut samples = vec![
        ("signals", c.signals),
        ("per second and thread", per_thread(plan, blown) as u64),
        ("sent by threads", c.sent),
        ("coalesced", c.coalesced),
        ("right tracebacks", c.tracebacks),
        ("no goroutine there", c.alone),
        ("not judged", c.unjudged),
        ("dropped", c.dropped),
    ];
    samples.extend(by_reason(c));
    let columns = [done, samples, by_class(c).collect()];
    side_by_side(["done", "samples", "interrupted in"], &columns)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::campaign::storm::Memory;
    use serde_json::Value;

    pub(in crate::report) fn plan() -> StormOptions {
        StormOptions { seconds: Some(10), threads: 2, seed: 7, ..StormOptions::default() }
    }

    pub(in crate::report) fn blown() -> Blown {
        let mut counts = StormCounts { signals: 1000, on_machines: 800, ..StormCounts::default() };
        counts.skips[0] = 3;
        counts.kinds[Op::Panic.kind()] = 5;
        Blown {
            counts,
            seconds: 2.0,
            memory: Memory { warm: 9, peak: 12, last: 11 },
            finding: None,
            share: Some(0.5),
        }
    }

    #[test]
    fn storm_summary_has_the_keys_that_scripts_use() {
        let value = serde_json::to_value(StormSummary::new(&plan(), &blown(), None, None, None)).unwrap();
        let keys = "type command seconds threads signals tracebacks skips violations verdict report seed \
                    unjudged sent coalesced dropped operations_by_kind interrupted rss_kib rss_warm_kib inconclusive overrun cores core_share notes";
        for key in keys.split_whitespace() {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(value["signals_per_second_per_thread"], 200.0);
        assert_eq!((&value["verdict"], &value["skips"]["lock-held"]), (&Value::Null, &3.into()));
        assert_eq!(value["operations_by_kind"], serde_json::json!({ "panic": 5 }));
        let violations = |verdict| StormSummary::new(&plan(), &blown(), verdict, None, None).violations;
        assert_eq!((violations(Some("fault")), violations(Some("harness-error"))), (1, 0));
    }

    #[test]
    fn storm_that_did_nothing_has_no_answer() {
        let reason = |signals, share| {
            let counts = StormCounts { signals, ..StormCounts::default() };
            Blown { counts, share, ..blown() }.inconclusive()
        };
        assert_eq!(reason(0, Some(0.9)), Some(Inconclusive::Signals));
        assert_eq!(reason(9, Some(0.01)), Some(Inconclusive::CoreTime));
        assert_eq!((reason(9, Some(0.5)), reason(9, None)), (None, None));
    }

    #[test]
    fn storm_table_has_every_name() {
        let table = table(&plan(), &blown());
        for name in SkipReason::ALL.iter().map(|s| s.name()).chain(CodeClass::ALL.iter().map(|c| c.name())) {
            assert!(table.contains(name), "{name}");
        }
    }
}
