//! The sweep: its default schedules cross the marked code, and the schedule of a planted
//! defect finds it without the stop that somebody knew of.

use std::fs;
use std::path::{Path, PathBuf};

use sigstorm::executor;
use sigstorm::schedule::Schedule;
use sigstorm::sweep::{Coverage, Perturbation, SweepPlan, plain};
use sigstorm_runtime::{Defect, FuncId};

use crate::common::{describe, harness, in_child};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name)
}

fn load(path: &Path) -> Schedule {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Schedule::parse(&text).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

/// The default set, in the order of its names.
fn default_set() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder("sweep")).expect("the default set");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn the_default_set_crosses_the_marked_code() {
    let said = in_child("sweep::the_default_set_crosses_the_marked_code", "", |_| {
        let mut harness = harness(&[]);
        let region = executor::region().expect("the marked code");
        let mut coverage = Coverage::new(&region);
        for path in default_set() {
            let schedule = load(&path);
            let (run, visits) = harness.record(&schedule);
            assert!(run.finding.is_none(), "{}: {}", path.display(), describe(&run.finding.unwrap()));
            coverage.watched(&visits, schedule.steps.len());
            // The same again, to the last visit.
            let (again, same) = harness.record(&schedule);
            assert_eq!((again.trace_hash, same), (run.trace_hash, visits), "{}", path.display());
        }
        let mut missed = Vec::new();
        for &function in FuncId::ALL {
            let places: Vec<_> = coverage.of(function).collect();
            assert!(places.iter().any(|p| p.crossed != 0), "{function} is never come to within a step");
            // Nothing that is said to be out of reach is reached.
            for place in places.iter().filter(|p| p.crossed + p.afterwards != 0) {
                assert_eq!(place.never, None, "{function}#{}", place.index);
            }
            missed.extend(places.iter().filter(|p| p.crossed == 0 && p.never.is_none()).map(|p| {
                format!(
                    "{function}#{} {}",
                    p.index,
                    region.disassemble(
                        FuncId::ALL.iter().position(|f| *f == function).expect("a function"),
                        usize::from(p.index),
                    )
                )
            }));
        }
        let all = coverage.boundaries();
        format!("{} of {all} crossed; not:\n{}", all - missed.len(), missed.join("\n"))
    });
    println!("{said}");
    let mut numbers = said.split(' ').filter_map(|word| word.parse::<usize>().ok());
    let (crossed, all) = (numbers.next().expect("a number"), numbers.next().expect("a number"));
    assert!(crossed * 100 >= all * 80, "{said}");
}

/// Every run of a plan until one finds something: how many there were, and the verdict.
fn sweep(harness: &mut executor::Harness, schedule: &Schedule) -> (usize, Option<String>) {
    let (run, visits) = harness.record(schedule);
    if let Some(finding) = run.finding {
        return (0, Some(finding.verdict));
    }
    let plan = SweepPlan::new(schedule.clone(), visits);
    harness.wait_in_kernel(false);
    for (index, injection) in plan.injections().iter().enumerate() {
        let run = harness.run(&plan.schedule(injection), false);
        if let Some(finding) = run.finding {
            return (index + 1, Some(finding.verdict));
        }
    }
    (plan.injections().len(), None)
}

#[test]
fn every_counted_visit_fires_and_the_healthy_core_is_silent() {
    let said = in_child("sweep::every_counted_visit_fires_and_the_healthy_core_is_silent", "", |_| {
        let mut harness = harness(&[]);
        let schedule = load(&folder("sweep/exit.txt"));
        let (_, visits) = harness.record(&schedule);
        let plan = SweepPlan::new(schedule, visits);
        harness.wait_in_kernel(false);
        let (mut signals, mut others) = (0, 0);
        for injection in plan.injections() {
            let schedule = plan.schedule(&injection);
            let run = harness.run(&schedule, false);
            assert!(run.finding.is_none(), "{}\n{schedule}", describe(&run.finding.unwrap()));
            if !injection.counted {
                continue;
            }
            assert_eq!(run.injected.held, 1, "{injection:?}\n{schedule}");
            match injection.what {
                // It comes exactly there, and its sample is judged.
                Perturbation::Signal => {
                    assert_eq!(run.injected.samples(), 1, "{injection:?}\n{schedule}");
                    signals += 1;
                }
                _ => others += run.injected.handed,
            }
        }
        assert!(signals > 1_000 && others > 1_000, "{signals} signals, {others} hand-overs");
        format!("{signals} signals, {others} hand-overs")
    });
    println!("{said}");
}

#[test]
fn defects_are_found_without_anybody_knowing_where() {
    const NAME: &str = "sweep::defects_are_found_without_anybody_knowing_where";
    let (mut found, mut not) = (Vec::new(), Vec::new());
    for defect in Defect::ALL {
        let path = folder("schedule").join(format!("{}.txt", defect.name()));
        if !path.is_file() {
            continue;
        }
        let said = in_child(NAME, defect.name(), |name| {
            let mut harness = harness(&[Defect::from_name(name).expect("a defect")]);
            let schedule = plain(&load(&folder("schedule").join(format!("{name}.txt"))));
            match sweep(&mut harness, &schedule) {
                (runs, Some(verdict)) => format!("{verdict} after {runs} runs"),
                (runs, None) => format!("nothing in {runs} runs"),
            }
        });
        println!("{defect}: {said}");
        if said.starts_with("nothing") { not.push(defect.name()) } else { found.push(defect.name()) }
    }
    for name in [
        "install-unlocked",
        "sigprof-spins",
        "remove-unlocked",
        "recover-unwind-unlocked",
        "bulk-unwind-unlocked",
        "trampoline-not-simulated",
        "copystack-unlocked",
    ] {
        assert!(found.contains(&name), "{name} is not found; found {found:?}, not {not:?}");
    }
}
