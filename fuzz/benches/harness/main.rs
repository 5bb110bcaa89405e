//! The harness: schedules against `shuttle` on a model of the same protocol, what a stop and
//! a hand-over cost, and how a schedule's cost grows.
//!
//! A schedule's figure is the processor's time, not the clock's: its threads share one core,
//! and so does `shuttle`, whose threads are coroutines of one.

mod model;
mod ring;
mod schedules;
mod stops;

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::ClockId;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use sigstorm::executor::{Harness, ScheduleSource};
use sigstorm::outcome::Counts;
use sigstorm::schedule::{Schedule, Stop};
use sigstorm_compare::{Bench, Case, Line, lines};

/// Steps of the generated schedules.
const STEPS: usize = 40;

type Shared = Rc<RefCell<Harness>>;

fn processor_time() -> Duration {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map(Duration::from).expect("this process's clock")
}

/// How much of the processor's time `body` takes.
fn spent(body: impl FnOnce()) -> Duration {
    let before = processor_time();
    body();
    processor_time() - before
}

/// Some schedules round and round, so many in all.
struct Round<'a> {
    schedules: &'a [Schedule],
    next: &'a mut usize,
    left: u64,
}

impl ScheduleSource for Round<'_> {
    fn next(&mut self) -> Option<&Schedule> {
        self.left = self.left.checked_sub(1)?;
        *self.next += 1;
        Some(&self.schedules[*self.next % self.schedules.len()])
    }

    fn ended(&mut self, _: &Counts) {}
}

/// Runs schedules, one after the other, as a hunt does.
fn runs(harness: &Shared, name: &str, schedules: Vec<Schedule>) -> Case {
    let (harness, mut next) = (Rc::clone(harness), 0);
    Case::timed(name, move |times| {
        spent(|| {
            let mut round = Round { schedules: &schedules, next: &mut next, left: times };
            let run = harness.borrow_mut().run_all(&mut round);
            assert!(run.is_none(), "the core is healthy: {run:?}");
        })
    })
}

/// Executions of the model.
fn shuttle_runs<S: Scheduler + 'static>(name: &str, scheduler: fn(usize) -> S) -> Case {
    Case::timed(name, move |times| {
        spent(|| {
            let times = usize::try_from(times).expect("few enough");
            shuttle::Runner::new(scheduler(times), shuttle::Config::new()).run(model::execution);
        })
    })
}

fn random() -> Case {
    shuttle_runs("shuttle, random", RandomScheduler::new)
}

fn pct() -> Case {
    shuttle_runs("shuttle, PCT", |times| PctScheduler::new(3, times))
}

fn at_points(stop: &Stop) -> bool {
    matches!(stop, Stop::Point { .. })
}

fn at_instructions(stop: &Stop) -> bool {
    matches!(stop, Stop::Instr { .. })
}

/// The average cost and counts of one kind of schedule.
struct Average {
    name: String,
    ns: f64,
    steps: f64,
    hand_overs: f64,
    signals: f64,
    tracebacks: f64,
}

/// Runs `hunt` itself for some seconds (its engine chooses by feedback): a schedule's cost on one core.
fn hunt(seconds: u64) -> Average {
    let children = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("what the children have used");
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    };
    let before = children();
    let reports = std::env::temp_dir().join(format!("sigstorm-bench-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_sigstorm"))
        .args(["hunt", "--jobs", "1", "--json", "--seed", "1"])
        .args(["--steps", &STEPS.to_string(), "--seconds", &seconds.to_string()])
        .arg("--reports")
        .arg(&reports)
        .output()
        .expect("the command line");
    assert!(output.status.success(), "hunt: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let summary: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("a summary")).expect("JSON");
    let count = |key: &str| summary[key].as_f64().expect("a count");
    let schedules = count("schedules");
    Average {
        name: format!("of {STEPS} steps, with feedback"),
        ns: (children() - before) * 1e9 / schedules,
        steps: count("steps") / schedules,
        hand_overs: count("handovers") / schedules,
        signals: count("signals") / schedules,
        tracebacks: count("tracebacks") / schedules,
    }
}

/// Median time of a schedule over some passes, in nanoseconds.
fn median(case: &mut dyn FnMut() -> Duration, runs: usize, passes: usize) -> f64 {
    let mut figures: Vec<f64> = (0..passes).map(|_| case().as_secs_f64() * 1e9 / runs as f64).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A figure for each of some schedules.
fn figure(bench: &Bench, harness: &Shared, schedules: &[Schedule]) -> f64 {
    let passes = bench.choose(7, 3);
    let mut harness = harness.borrow_mut();
    let mut pass = || {
        spent(|| {
            for schedule in schedules {
                assert!(harness.run(schedule, false).finding.is_none(), "the core is healthy");
            }
        })
    };
    pass();
    median(&mut pass, schedules.len(), passes)
}

/// The average counts of one kind of schedule; its cost is not known yet.
fn what_they_do(harness: &Shared, name: &str, schedules: &[Schedule]) -> Average {
    let (mut all, mut harness) = (Counts::default(), harness.borrow_mut());
    schedules.iter().for_each(|schedule| all.add(&harness.run(schedule, false).counts));
    let average = |count: u64| count as f64 / schedules.len() as f64;
    Average {
        name: name.trim_start_matches("a schedule ").to_owned(),
        ns: f64::NAN,
        steps: average(all.steps),
        hand_overs: average(all.handovers),
        signals: average(all.signals),
        tracebacks: average(all.tracebacks),
    }
}

/// Prints the counts of schedules, and the kernel's part of their cost: the cost of as many hand-overs
/// and signals with nothing else done.
fn tell(bench: &mut Bench, done: &[Average]) {
    let one = |count: f64| format!("{count:.1}");
    let rows = done.iter().map(|d| {
        let counts = [d.steps, d.hand_overs, d.signals, d.tracebacks];
        [d.name.clone()].into_iter().chain(counts.map(one)).collect()
    });
    bench.sheet(
        "What a schedule does, on average",
        &["schedules", "steps with an effect", "hand-overs", "signals", "right tracebacks"],
        rows.collect(),
    );
    let hand_over = bench.rows().iter().find(|row| row.name == "a hand-over, threads 4");
    let (Some(hand_over), true) = (hand_over.map(|row| row.theirs_ns), bench.measures()) else { return };
    let signal = ring::signal();
    let whole = |ns: f64| format!("{ns:.0}");
    let rows = done.iter().map(|d| {
        let (hand_overs, signals) = (d.hand_overs * hand_over, d.signals * signal);
        let rest = d.ns - hand_overs - signals;
        let share = format!("{:.0} %", 100.0 * (hand_overs + signals) / d.ns);
        [d.name.clone(), whole(d.ns), whole(hand_overs), whole(signals), share, whole(rest)].to_vec()
    });
    bench.sheet(
        "Where its time goes, ns of the processor: as many bare futex hand-overs among four threads, as many \
         signals to oneself with an empty handler, and the rest",
        &["schedules", "all", "hand-overs", "signals", "both, of all", "the rest"],
        rows.collect(),
    );
}

/// The cost that a stop adds to a step: with the stop, less without it.
fn stops_by_kind(bench: &mut Bench, harness: &Shared) {
    const TIMES: usize = 32;
    let repeat = |body: &str| {
        vec![schedules::parse(&format!("m1 g1 call small\n{}", format!("{body}\n").repeat(TIMES)))]
    };
    // The step that is held is gone on with by the next one of the same thread.
    let kinds = [
        ("held at a point", "m1 signal", "m1 signal @ traceback.frame; m1 resume"),
        ("held at an instruction", "m1 call tiny; m1 ret", "m1 call tiny @ tiny#3; m1 resume; m1 ret"),
    ];
    let mut rows = Vec::new();
    for (kind, without, with) in kinds {
        let [without, with] = [without, with].map(|body| {
            let schedules = vec![repeat(body); 16].concat();
            figure(bench, harness, &schedules) / TIMES as f64
        });
        rows.push(vec![
            kind.to_owned(),
            format!("{without:.0}"),
            format!("{with:.0}"),
            format!("{:.0}", with - without),
        ]);
    }
    bench.sheet(
        "What holding a step and going on costs, ns of the processor",
        &["kind of stop", "the step", "held and resumed", "difference"],
        rows,
    );
}

fn growth(bench: &mut Bench, harness: &Shared) {
    let (mut rows, mut points) = (Vec::new(), Vec::new());
    let mut add = |bench: &Bench, what: String, steps: usize, schedules: &[Schedule]| {
        let ns = figure(bench, harness, schedules);
        rows.push(vec![
            what,
            steps.to_string(),
            format!("{ns:.0}"),
            format!("{:.0}", ns / steps as f64),
            format!("{:.0}", 1e9 / ns),
        ]);
        ns
    };
    for steps in [5, 10, 20, 40, 80, 160, 320] {
        let schedules = schedules::generated(steps, at_points);
        let ns = add(bench, format!("{steps} steps, from the generator"), steps, &schedules[..128]);
        points.push((steps as f64, ns));
    }
    for goroutines in 1..=4 {
        // As many calls for each number: only who makes them changes.
        let text: String =
            (0..24).map(|n| format!("m1 g{} call tiny; yield\n", n % goroutines + 1)).collect();
        add(
            bench,
            format!("{goroutines} goroutines by turns on one thread"),
            72,
            &vec![schedules::parse(&text); 64],
        );
    }
    for threads in 1..=4 {
        let actors = ["m1 call tiny", "m2 call tiny", "gc signal", "ext signal"];
        let text: String = (0..48).map(|n| format!("{}\n", actors[n % threads])).collect();
        let schedule = schedules::parse(&format!("m1 g1\nm2 g2\n{text}"));
        add(bench, format!("{threads} threads by turns"), 50, &vec![schedule; 64]);
    }
    bench.sheet(
        "How a schedule's cost grows, ns of the processor",
        &["schedules", "steps", "ns", "ns a step", "schedules/s"],
        rows,
    );
    bench.plot(
        "schedules",
        "A schedule by its length",
        ["steps", "ns of the processor"],
        vec![Line { name: "sigstorm".to_owned(), points }],
    );
}

fn main() {
    // The core has its points here: it is the harness that is measured.
    let mut bench = Bench::new("harness", true);
    stops::measure(&mut bench);
    let harness = Harness::new(sigstorm_inject::nearest(), &[]).expect("a harness");
    let harness: Shared = Rc::new(RefCell::new(harness));
    // From here on this thread and those it starts share one core.
    for threads in 2..=5 {
        bench.compare(
            &format!("a hand-over, threads {threads}"),
            ring::baton(threads),
            vec![ring::bare(threads)],
        );
    }
    let kinds = [
        ("a schedule like the model, the same thread goes on 7 times in 10", schedules::like_the_model(7)),
        ("a schedule like the model, each step's thread drawn anew", schedules::like_the_model(0)),
        ("a schedule of 40 steps, controlled", schedules::generated(STEPS, at_points)),
        ("a schedule of 40 steps, with instruction stops", schedules::generated(STEPS, at_instructions)),
    ];
    let mut done = Vec::new();
    for (name, schedules) in kinds {
        let mut average = what_they_do(&harness, name, &schedules);
        let mut theirs = vec![(random(), Some(0.5))];
        if done.is_empty() {
            theirs.push((pct(), None));
        }
        bench.compare_goals(name, runs(&harness, "sigstorm", schedules), theirs);
        average.ns = bench.rows().last().map_or(f64::NAN, |row| row.ours_ns);
        done.push(average);
    }
    if bench.measures() {
        // By turns with the model, too.
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..bench.choose(5, 1) {
            ours.push(hunt(bench.choose(3, 1)));
            let runs = bench.choose(2_000, 200);
            theirs.push(
                spent(|| {
                    shuttle::Runner::new(RandomScheduler::new(runs), shuttle::Config::new())
                        .run(model::execution);
                })
                .as_secs_f64()
                    * 1e9
                    / runs as f64,
            );
        }
        let taken: Vec<f64> = ours.iter().map(|hunt| hunt.ns).collect();
        bench.row(
            &format!("a schedule of {STEPS} steps, with feedback (`hunt --jobs 1`)"),
            "shuttle, random",
            &taken,
            &theirs,
            None,
        );
        ours.sort_by(|one, other| one.ns.total_cmp(&other.ns));
        done.push(ours.swap_remove(ours.len() / 2));
        tell(&mut bench, &done);
        stops_by_kind(&mut bench, &harness);
        growth(&mut bench, &harness);
        let hand_overs = lines(bench.rows(), "a hand-over, threads ", "baton");
        bench.plot(
            "handover",
            "A hand-over round a ring of threads on one core",
            ["threads", "ns"],
            hand_overs,
        );
    }
    bench.note(
        "The model for `shuttle` (`fuzz/benches/harness/model.rs`): a stack of 64 words, 8 frames, up to 16 \
         barriers, two rounds of calls and returns with a signal at one in four of them, three collector cycles; \
         its handler is a call on the mutator's thread, since `shuttle` has no signals. \
         A schedule like the model does the same with real threads, stacks and signals, one step in four held \
         half-way. Where each step's thread is drawn anew, half of the time goes into the kernel's switches \
         between threads: `shuttle` switches between coroutines, at some 100 ns.",
    );
    bench.note(
        "Hand-overs are by the clock, schedules by the processor's time, kernel included. With feedback is the \
         whole of `hunt` with one worker, engine and parent included.",
    );
    bench.end();
}
