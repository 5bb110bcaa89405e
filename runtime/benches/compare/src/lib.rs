//! Ours and theirs, side by side.
//!
//! A group's bench makes a [`Bench`] and hands it its comparisons: a case of ours and
//! some of theirs. Each is measured twice. Criterion measures one case after the other,
//! with its own statistics and its memory of the run before. But on a shared machine the
//! load changes between two cases, so the ratios come from a second measurement in which
//! the cases take turns every few milliseconds: a ratio is the median over the turns, its
//! spread the 10th and the 90th percentile.
//!
//! A group's results are kept as data ([`Figures`]); the binary `compare` makes the tables
//! and plots of every group's data.

mod case;
mod figures;
mod machine;
pub mod plot;
pub mod table;

use std::env;
use std::fmt::{self, Debug, Formatter};
use std::time::{Duration, Instant};

use criterion::Criterion;

pub use case::{Case, time};
pub use figures::{Figures, GROUPS, Line, Plot, Row, Sheet, reports};

/// A group's measurement.
pub struct Bench {
    criterion: Option<Criterion>,
    figures: Figures,
    begun: Instant,
    measures: bool,
    quick: bool,
    turn: Duration,
    turns: usize,
}

impl Debug for Bench {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("figures", &self.figures).finish_non_exhaustive()
    }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

impl Bench {
    /// Begins a group. The arguments are criterion's; `--quick` shortens the turns, too.
    ///
    /// `bare` says that the core was built with neither points nor defects.
    ///
    /// # Panics
    /// If figures are wanted and the core is not bare but should be.
    pub fn new(group: &str, bare: bool) -> Bench {
        // `cargo test --all-targets` runs every case once, with whatever features the
        // workspace has put together; only figures need the bare core.
        let measures = env::args().any(|arg| arg == "--bench");
        assert!(
            bare || !measures,
            "figures of a core with scheduling points or planted defects say nothing: \
             run `cargo bench -p sigstorm-runtime`, which builds it with neither"
        );
        let quick = env::args().any(|arg| arg == "--quick");
        let criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(if quick { 10 } else { 50 }))
            .measurement_time(Duration::from_millis(if quick { 50 } else { 200 }))
            .sample_size(10)
            .nresamples(2_000)
            .configure_from_args();
        Bench {
            criterion: Some(criterion),
            figures: Figures {
                group: group.to_owned(),
                measured: machine::describe(),
                quick,
                ..Figures::default()
            },
            begun: Instant::now(),
            measures,
            quick,
            turn: Duration::from_micros(if quick { 250 } else { 2_000 }),
            turns: if quick { 15 } else { 61 },
        }
    }

    /// Returns whether figures are wanted, and not only a run of every case.
    pub fn measures(&self) -> bool {
        self.measures
    }

    /// Returns the first value for full settings, and the second for short ones.
    pub fn choose<T>(&self, full: T, quick: T) -> T {
        if self.measures && !self.quick { full } else { quick }
    }

    /// Compares ours with each of theirs.
    pub fn compare(&mut self, name: &str, ours: Case, theirs: Vec<Case>) {
        self.compare_goals(name, ours, theirs.into_iter().map(|case| (case, None)).collect());
    }

    /// Compares ours with each of theirs; some have a ratio that ours should reach.
    pub fn compare_goals(&mut self, name: &str, ours: Case, theirs: Vec<(Case, Option<f64>)>) {
        let (mut cases, mut goals) = (vec![ours], Vec::new());
        for (case, goal) in theirs {
            cases.push(case);
            goals.push(goal);
        }
        if let Some(criterion) = &mut self.criterion {
            let mut group = criterion.benchmark_group(format!("{}: {name}", self.figures.group));
            for case in &mut cases {
                group.bench_function(case.name.clone(), |b| b.iter_custom(|times| case.run(times)));
            }
        }
        if self.measures {
            let figures = self.in_turns(&mut cases);
            for (index, goal) in goals.into_iter().enumerate() {
                self.row(name, &cases[index + 1].name, &figures[0], &figures[index + 1], goal);
            }
        }
    }

    /// A figure for each turn, of each case.
    fn in_turns(&self, cases: &mut [Case]) -> Vec<Vec<f64>> {
        let times: Vec<u64> = cases.iter_mut().map(|case| case.fit(self.turn)).collect();
        let mut figures: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
        for _ in 0..self.turns {
            for ((case, times), figures) in cases.iter_mut().zip(&times).zip(&mut figures) {
                figures.push(case.run(*times).as_secs_f64() * 1e9 / *times as f64 / case.units);
            }
        }
        figures
    }

    /// Adds a row, from figures that were taken in turns.
    pub fn row(&mut self, name: &str, peer: &str, ours: &[f64], theirs: &[f64], goal: Option<f64>) {
        let ratios = sorted(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect());
        self.figures.rows.push(Row {
            group: self.figures.group.clone(),
            name: name.to_owned(),
            peer: peer.to_owned(),
            ours_ns: percentile(&sorted(ours.to_vec()), 50),
            theirs_ns: percentile(&sorted(theirs.to_vec()), 50),
            ratio: percentile(&ratios, 50),
            spread: [percentile(&ratios, 10), percentile(&ratios, 90)],
            goal,
            command: format!("just bench {}", self.figures.group),
        });
    }

    /// The rows so far.
    pub fn rows(&self) -> &[Row] {
        &self.figures.rows
    }

    /// Adds figures that are no ratios.
    pub fn sheet(&mut self, title: &str, head: &[&str], rows: Vec<Vec<String>>) {
        self.figures.sheets.push(Sheet {
            title: title.to_owned(),
            head: head.iter().map(|&cell| cell.to_owned()).collect(),
            rows,
        });
    }

    /// Adds a plot.
    pub fn plot(&mut self, file: &str, title: &str, axes: [&str; 2], lines: Vec<Line>) {
        self.figures.plots.push(Plot {
            file: file.to_owned(),
            title: title.to_owned(),
            axes: axes.map(str::to_owned),
            lines,
        });
    }

    /// Adds a note for readers.
    pub fn note(&mut self, text: impl Into<String>) {
        self.figures.notes.push(text.into());
    }

    /// Ends the group, and keeps its figures.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn end(mut self) {
        if let Some(criterion) = self.criterion.take() {
            criterion.final_summary();
        }
        if self.measures {
            self.figures.seconds = self.begun.elapsed().as_secs_f64();
            let reports = reports();
            self.figures.save(&reports).unwrap_or_else(|error| panic!("{}: {error}", reports.display()));
        }
    }
}

/// The lines of a plot: a point for each row whose name begins with `prefix` and ends with
/// a number, a line for each peer, and one for ours.
pub fn lines(rows: &[Row], prefix: &str, ours: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = vec![Line { name: ours.to_owned(), points: Vec::new() }];
    for row in rows {
        let Some(x) = row.name.strip_prefix(prefix).and_then(|rest| rest.trim().parse::<f64>().ok()) else {
            continue;
        };
        if lines[0].points.last().is_none_or(|last| last.0 != x) {
            lines[0].points.push((x, row.ours_ns));
        }
        match lines.iter_mut().find(|line| line.name == row.peer) {
            Some(line) => line.points.push((x, row.theirs_ns)),
            None => lines.push(Line { name: row.peer.clone(), points: vec![(x, row.theirs_ns)] }),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, peer: &str, ours_ns: f64, theirs_ns: f64) -> Row {
        Row {
            group: "g".to_owned(),
            name: name.to_owned(),
            peer: peer.to_owned(),
            ours_ns,
            theirs_ns,
            ratio: ours_ns / theirs_ns,
            spread: [0.0, 0.0],
            goal: None,
            command: String::new(),
        }
    }

    #[test]
    fn a_line_for_each_peer_and_one_for_ours() {
        let rows = [
            row("depth 1", "a", 1.0, 2.0),
            row("depth 1", "b", 1.0, 3.0),
            row("depth 8", "a", 4.0, 5.0),
            row("other", "a", 9.0, 9.0),
        ];
        let lines = lines(&rows, "depth ", "ours");
        let plain: Vec<(&str, &[(f64, f64)])> =
            lines.iter().map(|line| (line.name.as_str(), line.points.as_slice())).collect();
        assert_eq!(
            plain,
            [("ours", &[(1.0, 1.0), (8.0, 4.0)][..]), ("a", &[(1.0, 2.0), (8.0, 5.0)]), ("b", &[(1.0, 3.0)])]
        );
    }

    #[test]
    fn percentiles_are_taken_from_the_values() {
        let values = sorted((0..=100).rev().map(f64::from).collect());
        assert_eq!([0, 10, 50, 90, 100].map(|p| percentile(&values, p)), [0.0, 10.0, 50.0, 90.0, 100.0]);
        assert_eq!(percentile(&[7.0], 90), 7.0);
    }

    #[test]
    fn a_case_runs_as_often_as_fits_a_turn() {
        let mut case = Case::timed("exact", Duration::from_micros);
        assert_eq!(case.fit(Duration::from_millis(4)), 4000);
        let mut slow = Case::timed("slow", Duration::from_secs);
        assert_eq!(slow.fit(Duration::from_millis(4)), 1);
    }
}
