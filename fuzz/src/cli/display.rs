//! What a person sees on the terminal meanwhile.

use super::campaign::{Plan, Totals};
use super::cores;
use super::output::Out;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::time::Duration;

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
pub struct Hunting {
    bar: ProgressBar,
    plan: Plan,
}

impl Hunting {
    /// Shown only where somebody looks.
    pub fn new(plan: &Plan, out: &Out) -> Hunting {
        let bar = if out.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        match (plan.runs, plan.seconds) {
            (None, None) => bar.set_style(style(ENDLESS)),
            (runs, seconds) => {
                bar.set_style(style(BOUNDED));
                bar.set_length(runs.unwrap_or(0).max(seconds.unwrap_or(0) * 1000));
            }
        }
        Hunting { bar, plan: plan.clone() }
    }

    /// Shows how far it is.
    pub fn show(&self, totals: &Totals, elapsed: Duration) {
        let counts = &totals.counts;
        // The budget that is nearer to its end is the one that counts.
        let part = |done: u64, of: Option<u64>| of.map(|of| (done as f64 / of as f64, done, of));
        let runs = part(counts.schedules, self.plan.runs);
        let time = part(elapsed.as_millis() as u64, self.plan.seconds.map(|seconds| seconds * 1000));
        if let Some((_, done, of)) = [runs, time].into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0)) {
            self.bar.set_length(of);
            self.bar.set_position(done.min(of));
        }
        let budgets = [
            self.plan.seconds.map(|seconds| format!("of {seconds} s")),
            self.plan
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
pub struct Shrinking(ProgressBar);

impl Shrinking {
    /// Shown only where somebody looks.
    pub fn new(out: &Out) -> Shrinking {
        let bar = if out.shows_progress() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(style(SHRINKING));
        Shrinking(bar)
    }

    /// Shows how far it is.
    pub fn show(&self, before: usize, now: usize, runs: u64) {
        self.0.set_message(format!("{before} → {now} steps, {} runs", HumanCount(runs)));
        self.0.tick();
    }

    /// Takes it off the screen.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// The progress of many trials.
#[derive(Debug)]
pub struct Trials {
    bar: ProgressBar,
    under_way: Vec<String>,
    found: u64,
}

impl Trials {
    /// Shown only where somebody looks.
    pub fn new(trials: u64, jobs: usize, out: &Out) -> Trials {
        let bar = if out.shows_progress() { ProgressBar::new(trials) } else { ProgressBar::hidden() };
        bar.set_style(style(TRIALS));
        bar.enable_steady_tick(Duration::from_secs(1));
        Trials { bar, under_way: vec![String::new(); jobs], found: 0 }
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
pub struct Sweeping(ProgressBar);

impl Sweeping {
    /// Shown only where somebody looks.
    pub fn new(out: &Out) -> Sweeping {
        let bar = if out.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        bar.set_style(style(SWEEPING));
        Sweeping(bar)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_sound() {
        for template in [ENDLESS, BOUNDED, SWEEPING, SHRINKING, TRIALS] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
