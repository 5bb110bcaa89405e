//! Cases that are measured twice: by criterion, and in turns for the table.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use criterion::Criterion;

/// How long a case's turn takes.
const TURN: Duration = Duration::from_millis(4);
/// How many turns each case has.
const TURNS: usize = 75;

/// Something to measure: takes a number of times, says how long that took.
pub struct Case {
    name: &'static str,
    run: Box<dyn FnMut(u64) -> Duration>,
}

impl Case {
    /// A case of this name.
    pub fn new(name: &'static str, run: impl FnMut(u64) -> Duration + 'static) -> Case {
        Case { name, run: Box::new(run) }
    }

    /// How many times fit into a turn.
    fn times(&mut self) -> u64 {
        let mut times = 1000;
        loop {
            let took = (self.run)(times);
            if took >= TURN / 8 {
                let fit = TURN.as_nanos() * u128::from(times) / took.as_nanos();
                return u64::try_from(fit).expect("a turn is short").max(1);
            }
            times *= 2;
        }
    }
}

/// One case after the other.
pub fn by_criterion(criterion: &mut Criterion, group: &str, cases: &mut [Case]) {
    let mut group = criterion.benchmark_group(group);
    for Case { name, run } in cases {
        group.bench_function(*name, |b| b.iter_custom(&mut *run));
    }
}

struct Row {
    group: String,
    ours: f64,
    peer: &'static str,
    theirs: f64,
    ratio: f64,
}

/// The first case of each group against the others.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Table {
    /// Measures the cases in turns.
    pub fn by_turns(&mut self, group: &str, cases: &mut [Case]) {
        let times: Vec<u64> = cases.iter_mut().map(Case::times).collect();
        let mut figures: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
        for _ in 0..TURNS {
            for ((case, times), figures) in cases.iter_mut().zip(&times).zip(&mut figures) {
                figures.push((case.run)(*times).as_secs_f64() * 1e9 / *times as f64);
            }
        }
        let (ours, peers) = figures.split_first().expect("ours is the first case");
        for (case, theirs) in cases[1..].iter().zip(peers) {
            self.rows.push(Row {
                group: group.to_owned(),
                ours: median(ours.clone()),
                peer: case.name,
                theirs: median(theirs.clone()),
                ratio: median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()),
            });
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (name, peer) = ("medians of turns, ns", "peer");
        writeln!(f, "{name:<26} {:>8}   {peer:<14} {:>8} {:>7}", "sigstorm", "its", "ratio")?;
        for Row { group, ours, peer, theirs, ratio } in &self.rows {
            writeln!(f, "{group:<26} {ours:>8.2}   {peer:<14} {theirs:>8.2} {ratio:>7.2}")?;
        }
        writeln!(f, "ratio: ours by its, lower is better")
    }
}
