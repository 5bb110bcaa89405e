//! Progress on the terminal.

use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use sigstorm::campaign::hunt::{HuntPlan, Totals};
use sigstorm::campaign::storm::Blown;
use sigstorm::probe::campaign::Progress;
use sigstorm::process::cores;
use sigstorm::report::storm_summary;
use sigstorm::shrink::Shrinking;
use sigstorm::storm::{StormCounts, StormOptions};

use super::output::Out;

/// A style from a template; the plain one if there is a mistake in it, which a test would find.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

const ENDLESS: &str = "{spinner} {elapsed_precise} {prefix}\n{msg}";
const BOUNDED: &str = "{bar:24} {elapsed_precise} {prefix}\n{msg}";
const SWEEPING: &str = "{bar:24} {human_pos}/{human_len} runs {elapsed_precise} {prefix}  {msg}";
const SHRINKING: &str = "{spinner} shrinking  {msg}";
const TRIALS: &str = "{bar:24} {elapsed_precise} {pos} of {len} trials, {prefix}\n{msg}";

/// The progress of a hunt.
#[derive(Debug)]
pub struct HuntingBar {
    bar: ProgressBar,
    plan: HuntPlan,
}

impl HuntingBar {
    /// Shown only where somebody looks.
    pub fn new(plan: &HuntPlan, out: &Out) -> HuntingBar {
        let bar = if out.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        match (plan.worker.runs, plan.worker.seconds) {
            (None, None) => bar.set_style(style(ENDLESS)),
            (runs, seconds) => {
                bar.set_style(style(BOUNDED));
                bar.set_length(runs.unwrap_or(0).max(seconds.unwrap_or(0) * 1000));
            }
        }
        HuntingBar { bar, plan: plan.clone() }
    }

    /// Shows how far it is.
    pub fn show(&self, totals: &Totals, elapsed: Duration) {
        let counts = &totals.counts;
        // The budget that is nearer to its end is the one that counts.
        let part = |done: u64, of: Option<u64>| of.map(|of| (done as f64 / of as f64, done, of));
        let runs = part(counts.schedules, self.plan.worker.runs);
        let time = part(elapsed.as_millis() as u64, self.plan.worker.seconds.map(|seconds| seconds * 1000));
        if let Some((_, done, of)) = [runs, time].into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0)) {
            self.bar.set_length(of);
            self.bar.set_position(done.min(of));
        }
        let budgets = [
            self.plan.worker.seconds.map(|seconds| format!("of {seconds} s")),
            self.plan
                .worker
                .runs
                .map(|runs| format!("{} of {} schedules", HumanCount(counts.schedules), HumanCount(runs))),
        ];
        let share = (!totals.shares.is_empty()).then(|| cores::in_words(&totals.shares));
        self.bar.set_prefix(budgets.into_iter().flatten().chain(share).collect::<Vec<_>>().join(", "));
        let rate = counts.schedules as f64 / elapsed.as_secs_f64().max(0.001) / self.plan.jobs as f64;
        self.bar.set_message(format!(
            "{} schedules/s per core, {} signals, {} right tracebacks, {} skips, {} interleavings seen",
            HumanCount(rate as u64),
            HumanCount(counts.signals),
            HumanCount(counts.tracebacks),
            HumanCount(counts.skips.iter().sum()),
            HumanCount(totals.features),
        ));
        self.bar.tick();
    }

    /// Takes it off the screen.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// The progress of shrinking.
#[derive(Debug)]
pub struct ShrinkingBar(ProgressBar);

impl ShrinkingBar {
    /// Shown only where somebody looks.
    pub fn new(out: &Out) -> ShrinkingBar {
        let bar = if out.shows_progress() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(style(SHRINKING));
        ShrinkingBar(bar)
    }

    /// Shows how far it is.
    pub fn show(&self, progress: Shrinking) {
        let Shrinking { before, smallest, runs } = progress;
        self.0.set_message(format!("{before} → {smallest} steps, {} runs", HumanCount(runs)));
        self.0.tick();
    }

    /// Takes it off the screen.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// The progress of many trials.
#[derive(Debug)]
pub struct TrialsBar {
    bar: ProgressBar,
    under_way: Vec<String>,
    found: u64,
}

impl TrialsBar {
    /// Shown only where somebody looks.
    pub fn new(trials: u64, jobs: usize, out: &Out) -> TrialsBar {
        let bar = if out.shows_progress() { ProgressBar::new(trials) } else { ProgressBar::hidden() };
        bar.set_style(style(TRIALS));
        bar.enable_steady_tick(Duration::from_secs(1));
        TrialsBar { bar, under_way: vec![String::new(); jobs], found: 0 }
    }

    /// A job has begun this trial.
    pub fn began(&mut self, job: usize, trial: String) {
        self.under_way[job] = trial;
        self.show();
    }

    /// A job's trial has ended.
    pub fn ended(&mut self, job: usize, found: bool) {
        self.under_way[job].clear();
        self.found += u64::from(found);
        self.bar.inc(1);
        self.show();
    }

    fn show(&self) {
        self.bar.set_prefix(format!("{} found something", self.found));
        let under_way = self.under_way.iter().filter(|trial| !trial.is_empty());
        self.bar.set_message(under_way.cloned().collect::<Vec<_>>().join("; "));
    }

    /// Takes it off the screen.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// The progress of a sweep.
#[derive(Debug)]
pub struct SweepingBar(ProgressBar);

impl SweepingBar {
    /// Shown only where somebody looks.
    pub fn new(out: &Out) -> SweepingBar {
        let bar = if out.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        bar.set_style(style(SWEEPING));
        SweepingBar(bar)
    }

    /// Another file, of so many runs.
    pub fn begin(&self, file: &str, runs: usize) {
        self.0.set_length(runs as u64);
        self.0.set_position(0);
        self.0.set_prefix(file.to_owned());
    }

    /// Shows how far it is, and what was found.
    pub fn show(&self, runs: usize, found: String) {
        self.0.set_position(runs as u64);
        self.0.set_message(found);
    }

    /// Takes it off the screen.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// The progress of a storm: rates in the last second.
#[derive(Debug)]
pub struct StormBar {
    bar: ProgressBar,
    seconds: Option<u64>,
    before: (f64, StormCounts),
    told: u64,
}

impl StormBar {
    /// Shown only where somebody looks.
    pub fn new(plan: &StormOptions, out: &Out) -> StormBar {
        let bar = if out.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        let template = if plan.seconds.is_some() { BOUNDED } else { ENDLESS };
        bar.set_style(style(template));
        if let Some(seconds) = plan.seconds {
            bar.set_length(seconds * 1000);
            bar.set_prefix(format!("of {seconds} s"));
        }
        StormBar { bar, seconds: plan.seconds, before: (0.0, StormCounts::default()), told: 0 }
    }

    /// Returns whether this is the first call in a second of the storm.
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
            let skips: Vec<String> = storm_summary::by_reason(now)
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

/// The progress of a probe.
#[derive(Debug)]
pub struct ProbeBar(ProgressBar);

impl ProbeBar {
    /// Shown only where somebody looks.
    pub fn new(out: &Out) -> ProbeBar {
        let bar = if out.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        bar.set_style(style(BOUNDED));
        bar.enable_steady_tick(Duration::from_secs(1));
        ProbeBar(bar)
    }

    /// Shows how far it is.
    pub fn show(&self, progress: &Progress) {
        let counts = &progress.totals.counts;
        self.0.set_length(progress.budget * 1000);
        self.0.set_position(((progress.seconds * 1000.0) as u64).min(progress.budget * 1000));
        self.0.set_prefix(format!("of {} s, {}", progress.budget, progress.phase));
        self.0.set_message(format!(
            "{} boundaries, {} signals delivered, {} processes, {} threads, {} findings",
            HumanCount(progress.boundaries as u64),
            HumanCount(counts.injected),
            HumanCount(progress.totals.processes + progress.totals.confirming),
            counts.threads,
            progress.findings,
        ));
    }

    /// Takes it off the screen.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_of_progress_bars_are_valid() {
        for template in [ENDLESS, BOUNDED, SWEEPING, SHRINKING, TRIALS] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
