//! The cost of a probe: an injection in place beside the bare stops that it needs, how that grows with the number
//! of functions, how much slower a program is whose boundaries have all been served, the start with many
//! breakpoints, and fresh processes a second.
//!
//! The program is written and compiled here (`victim.rs`). It measures itself, so that its figures leave nothing
//! out: what a breakpoint costs is the time by which the program is later.

mod bare;
mod victim;

use std::process::{Command, Stdio};

use serde_json::Value;
use sigstorm_compare::{Bench, Line, lines};

use victim::{Times, Victim};

/// An injection's stops: the boundary, the handler's entry, its return.
const STOPS: f64 = 3.0;

/// Runs the command on the victim. Returns its summary.
fn probe(victim: &Victim, rounds: u64, at: &str, more: &[&str]) -> Value {
    let reports = tempfile::tempdir().expect("a folder");
    let rounds = rounds.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
    command.args(["probe", "--json", "--at", at, "--reports"]).arg(reports.path()).args(more).arg("--");
    command.arg(victim.program()).arg(&rounds).arg(victim.times());
    let output = command.stderr(Stdio::null()).output().expect("sigstorm runs");
    let text = String::from_utf8(output.stdout).expect("JSON is text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    serde_json::from_str(text.lines().last().expect("a summary")).expect("a summary")
}

/// Enough for undisturbed runs and the first round of a program that ends at once.
const SHORT: &[&str] = &["--seconds", "3"];

/// The undisturbed runs before the first round.
const UNDISTURBED: usize = 3;

/// The program's own times in the first round, in which each boundary is served from its first visit on, and
/// undisturbed.
fn first_round(victim: &Victim, rounds: u64, at: &str, more: &[&str]) -> (Times, Times) {
    victim.forget_times();
    let summary = probe(victim, rounds, at, more);
    let times = victim.read_times();
    assert!(times.len() > UNDISTURBED, "{summary}");
    (times[UNDISTURBED], times[UNDISTURBED - 1])
}

fn injections(bench: &mut Bench) {
    let turns = bench.choose(5, 1);
    let (mut least, mut three) = (Vec::new(), Vec::new());
    for functions in bench.choose(&[1, 4, 16, 64, 128][..], &[4]) {
        let victim = Victim::compile(*functions, 500);
        let (mut ours, mut stops, mut injections) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            let bare = bare::measure();
            let (probed, alone) = first_round(&victim, 1, "work_*", SHORT);
            ours.push((probed.work - alone.work) / victim.boundaries() as f64);
            stops.push(STOPS * bare.stop);
            injections.push(bare.injection);
        }
        let name = format!("injection, functions {functions}");
        bench.row(&name, "3 bare stops", &ours, &stops, Some(1.5));
        bench.row(&name, "the least", &ours, &injections, None);
        least.append(&mut injections);
        three.append(&mut stops);
    }
    bench.row("the least injection", "3 bare stops", &least, &three, None);
    let plot: Vec<Line> = lines(bench.rows(), "injection, functions ", "an injection in place");
    bench.plot("probe", "an injection in place", ["functions of 500 boundaries", "ns"], plot);
}

fn slowdown(bench: &mut Bench) {
    let victim = Victim::compile(16, 64);
    // Undisturbed runs may take a tenth of the time.
    let round = victim.run(10_000).work / 10_000.0;
    let rounds = (bench.choose(1.3e9, 0.1e9) / round) as u64;
    for visits in ["1", "8"] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..bench.choose(3, 1) {
            let more = ["--seconds", bench.choose("20", "3"), "--visits", visits];
            let (probed, alone) = first_round(&victim, rounds, "work_*", &more);
            ours.push(probed.work);
            theirs.push(alone.work);
        }
        bench.row(&format!("program with all served, --visits {visits}"), "alone", &ours, &theirs, Some(1.2));
    }
}

fn start(bench: &mut Bench) {
    let victim = Victim::compile(bench.choose(300, 3), 1000);
    let mut rows = Vec::new();
    for (at, breakpoints) in [("work_0", 1000), ("work_*", victim.boundaries())] {
        let (probed, alone) = first_round(&victim, 1, at, SHORT);
        let cell = |ns: f64| format!("{:.1}", ns / 1e6);
        rows.push(vec![breakpoints.to_string(), cell(alone.install), cell(probed.install)]);
    }
    bench.sheet(
        "the call that installs the handler, after which breakpoints are laid",
        &["breakpoints", "alone, ms", "probed, ms"],
        rows,
    );
}

fn fresh(bench: &mut Bench) {
    let victim = Victim::compile(8, 1000);
    let summary = probe(&victim, 1, "work_*", &["--fresh", "--seconds", bench.choose("20", "3")]);
    let number = |key: &str| summary[key].as_f64().unwrap_or_else(|| panic!("{key}: {summary}"));
    let rate = number("injected") / number("seconds");
    let row =
        vec![format!("{}", number("injected")), format!("{:.1}", number("seconds")), format!("{rate:.0}")];
    bench.sheet(
        "--fresh, a small C program, the counting run included",
        &["points", "seconds", "points a second"],
        vec![row],
    );
}

fn main() {
    let mut bench = Bench::new("probe", true);
    injections(&mut bench);
    slowdown(&mut bench);
    start(&mut bench);
    fresh(&mut bench);
    bench.note(
        "The least: a tracer that makes no request but those without which there is no injection (`bare.rs`). It \
         keeps no books, and looks at no errno, mask, state or restartable sequence.",
    );
    bench.note(
        "The program takes its own times; `alone` is the last of three undisturbed runs of the same command.",
    );
    bench.end();
}
