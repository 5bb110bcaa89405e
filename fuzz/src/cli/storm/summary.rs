//! What a storm comes to: the line that scripts rely on, the table and the display that
//! people read.

use super::super::cores;
use super::super::inconclusive::Reason;
use super::super::output::Out;
use super::super::summary::{Machine, overrun};
use super::parent::{Blown, Plan};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde::Serialize;
use sigstorm::outcome::Verdict;
use sigstorm::schedule::Op;
use sigstorm::storm::StormCounts;
use sigstorm_runtime::CodeClass;
use sigstorm_runtime::profiler::SkipReason;
use std::collections::BTreeMap;
use std::path::Path;

/// The last line of `storm --json`. Keys are added, never changed.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
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
    report: Option<&'a Path>,
    seed: u64,
    inconclusive: Option<&'static str>,
    overrun: Option<f64>,
    cores: &'a [usize],
    core_share: Vec<Option<f64>>,
    notes: &'a [String],
}

/// Signals a second on each thread that runs goroutines.
fn per_thread(plan: &Plan, blown: &Blown) -> f64 {
    blown.counts.on_machines as f64 / blown.seconds.max(1e-3) / plan.threads as f64
}

impl<'a> Summary<'a> {
    /// The summary; `verdict` and `report` are those of the finding.
    pub fn new(
        plan: &Plan,
        blown: &Blown,
        verdict: Option<&'a str>,
        report: Option<&'a Path>,
        machine: Option<&'a Machine>,
    ) -> Summary<'a> {
        let c = &blown.counts;
        Summary {
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
            inconclusive: blown.inconclusive().map(Reason::name),
            overrun: overrun(plan.seconds, blown.seconds),
            cores: machine.map_or(&[], |machine| &machine.cores),
            core_share: vec![blown.share],
            notes: machine.map_or(&[], |machine| &machine.notes),
        }
    }
}

/// One line a second, for machines.
#[derive(Debug, Serialize)]
pub struct Progress {
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

impl Progress {
    /// How far it is.
    pub fn new(blown: &Blown) -> Progress {
        let c = &blown.counts;
        Progress {
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

fn by_reason(counts: &StormCounts) -> impl Iterator<Item = (&'static str, u64)> {
    SkipReason::ALL.iter().map(|reason| reason.name()).zip(counts.skips)
}

/// The operations that a storm does, by name, and how often it did them. Those that never happen are not among
/// them: options, and what is about stops.
fn by_kind(counts: &StormCounts) -> impl Iterator<Item = (&'static str, u64)> {
    Op::names().zip(counts.kinds).filter(|(_, times)| *times != 0)
}

fn by_class(counts: &StormCounts) -> impl Iterator<Item = (&'static str, u64)> {
    CodeClass::ALL.iter().map(|class| class.name()).zip(counts.interrupted)
}

/// The counts side by side: what was done, what became of the samples, what was interrupted.
pub fn table(plan: &Plan, blown: &Blown) -> String {
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
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["done", "", "samples", "", "interrupted in", ""]);
    for row in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
        let cells = columns.iter().flat_map(|column| match column.get(row) {
            Some((name, number)) => [(*name).to_string(), HumanCount(*number).to_string()],
            None => [String::new(), String::new()],
        });
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1).step_by(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

const ENDLESS: &str = "{spinner} {elapsed_precise} {prefix}\n{msg}";
const BOUNDED: &str = "{bar:24} {elapsed_precise} {prefix}\n{msg}";

/// What a person sees on the terminal meanwhile: how much of everything in the last second.
#[derive(Debug)]
pub struct Display {
    bar: ProgressBar,
    seconds: Option<u64>,
    before: (f64, StormCounts),
    told: u64,
}

impl Display {
    /// Shown only where somebody looks.
    pub fn new(plan: &Plan, out: &Out) -> Display {
        let bar = if out.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        let template = if plan.seconds.is_some() { BOUNDED } else { ENDLESS };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        if let Some(seconds) = plan.seconds {
            bar.set_length(seconds * 1000);
            bar.set_prefix(format!("of {seconds} s"));
        }
        Display { bar, seconds: plan.seconds, before: (0.0, StormCounts::default()), told: 0 }
    }

    /// True once in a second.
    pub fn a_second_has_passed(&mut self, blown: &Blown) -> bool {
        let second = blown.seconds as u64;
        second > std::mem::replace(&mut self.told, second)
    }

    /// Shows how it stands.
    pub fn show(&mut self, blown: &Blown) {
        if let Some(seconds) = self.seconds {
            self.bar.set_position(((blown.seconds * 1000.0) as u64).min(seconds * 1000));
        }
        let (then, before) = &self.before;
        let time = blown.seconds - then;
        if time >= 1.0 {
            let now = &blown.counts;
            let rate = |now: u64, before: u64| HumanCount(((now - before) as f64 / time) as u64);
            let skips: Vec<String> = by_reason(now)
                .zip(before.skips)
                .filter(|((_, now), before)| now > before)
                .map(|((name, now), before)| format!("{} {name}", rate(now, before)))
                .collect();
            self.bar.set_message(format!(
                "a second: {} signals, {} right tracebacks, {}; {} cycles, {} copies, {} recoveries; {} MiB",
                rate(now.signals, before.signals),
                rate(now.tracebacks, before.tracebacks),
                if skips.is_empty() { "no skips".into() } else { format!("skips {}", skips.join(" ")) },
                rate(now.cycles, before.cycles),
                rate(now.copies, before.copies),
                rate(now.recoveries, before.recoveries),
                blown.memory.last / 1024,
            ));
            if blown.share.is_some() {
                let budget = self.seconds.map(|seconds| format!("of {seconds} s"));
                let share = Some(cores::in_words(&[blown.share]));
                self.bar.set_prefix(budget.into_iter().chain(share).collect::<Vec<_>>().join(", "));
            }
            self.before = (blown.seconds, *now);
        }
        self.bar.tick();
    }

    /// Takes it off the screen.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::storm::parent::Memory;
    use serde_json::Value;
    use sigstorm::storm::{Clock, Delay};

    pub fn plan() -> Plan {
        Plan {
            seconds: Some(10),
            rate: 10_000,
            threads: 2,
            clock: Clock::Monotonic,
            delay: Delay::default(),
            seed: 7,
            cores: Vec::new(),
            defects: Vec::new(),
        }
    }

    pub fn blown() -> Blown {
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
    fn scripts_find_their_keys() {
        let value = serde_json::to_value(Summary::new(&plan(), &blown(), None, None, None)).unwrap();
        let keys = "type command seconds threads signals tracebacks skips violations verdict report seed \
                    unjudged sent coalesced dropped operations_by_kind interrupted rss_kib rss_warm_kib inconclusive overrun cores core_share notes";
        for key in keys.split_whitespace() {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(value["signals_per_second_per_thread"], 200.0);
        assert_eq!((&value["verdict"], &value["skips"]["lock-held"]), (&Value::Null, &3.into()));
        assert_eq!(value["operations_by_kind"], serde_json::json!({ "panic": 5 }));
        let violations = |verdict| Summary::new(&plan(), &blown(), verdict, None, None).violations;
        assert_eq!((violations(Some("fault")), violations(Some("harness-error"))), (1, 0));
    }

    #[test]
    fn a_storm_that_did_nothing_has_no_answer() {
        let reason = |signals, share| {
            let counts = StormCounts { signals, ..StormCounts::default() };
            Blown { counts, share, ..blown() }.inconclusive()
        };
        assert_eq!(reason(0, Some(0.9)), Some(Reason::Signals));
        assert_eq!(reason(9, Some(0.01)), Some(Reason::CoreTime));
        assert_eq!((reason(9, Some(0.5)), reason(9, None)), (None, None));
    }

    #[test]
    fn the_table_and_the_display_have_every_name() {
        let table = table(&plan(), &blown());
        for name in SkipReason::ALL.iter().map(|s| s.name()).chain(CodeClass::ALL.iter().map(|c| c.name())) {
            assert!(table.contains(name), "{name}");
        }
        for template in [ENDLESS, BOUNDED] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
