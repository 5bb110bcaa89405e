//! The generator's schedules are not vacuous: what the harness is for does happen in them.
//!
//! Everything is read off the traces, as a person would.

use std::collections::{BTreeMap, BTreeSet};

use sigstorm::generate::Generator;
use sigstorm::outcome::{Counts, Event, Run};
use sigstorm::schedule::{Op, Schedule};
use sigstorm_runtime::profiler::SkipReason;
use sigstorm_runtime::{CodeClass, FuncId, Point};

use crate::common::{harness, in_child, run_clean};

const RUNS: usize = 36_000;

/// The tally of events and scenes: which have happened, and how often.
#[derive(Default)]
struct Seen {
    counts: Counts,
    points: BTreeSet<String>,
    called: BTreeSet<String>,
    stops: BTreeSet<String>,
    times: BTreeMap<&'static str, u64>,
}

const SCENES: &[&str] = &[
    "a walk was held half-way, and another changed the goroutine's state meanwhile",
    "a frame returned into a barrier",
    "a recovery unwound a barrier",
    "a bulk move unwound a barrier",
    "a stack was copied with barriers on it",
    "a stack was copied while a thread was held in the copy",
    "a stack was shrunk",
    "an old stack was made unreadable",
    "a goroutine scanned itself",
    "a collector waited for a goroutine",
    "a walk met a barrier",
    "a panic began within another",
    "a recovery landed",
    "a goroutine was used anew",
    "a thread took over another's goroutine",
    "a handler was held while others went on",
    "a barrier that was installed while one thread had it last was met on another",
    "a parked goroutine was woken",
    "a goroutine was let go in a prologue",
    "a goroutine that was let go in a prologue went on elsewhere",
    "a thread that runs goroutines stopped the world",
    "a thread scanned its own goroutine",
    "a cycle was done with the world stopped",
    "mark termination left barriers, and the sweep removed them",
    "a cycle began on a stack with barriers of another",
    "a scan shrank a stack",
    "a frame replaced its caller's PC on a stack with barriers",
    "a goroutine was scanned while its thread was in the kernel",
    "a walk that began in the kernel met a barrier",
    "an event was traced on a stack with barriers",
    "a handler waited for the profiling rate's lock",
    "a thread changed the rate while a handler was under way",
    "a buffer was full",
    "a signal was coalesced with one that was pending",
    "a sample was written while another was being read",
    "a signal came to a thread from outside that was a machine",
    "a signal came to a thread that was no machine any more",
    "a signal in foreign code was walked",
    "a goroutine in a foreign call was scanned",
    "foreign code called back in",
    "foreign code called back in within a callback",
    "a callback's stack was copied",
    "a callback stopped a panic",
];

impl Seen {
    fn scene(&mut self, scene: &'static str) {
        assert!(SCENES.contains(&scene), "{scene}");
        *self.times.entry(scene).or_default() += 1;
    }

    fn look(&mut self, schedule: &Schedule, run: &Run) {
        self.counts.add(&run.counts);
        let unreadable = schedule.steps.iter().any(|s| s.op == Op::Unreadable { every: 1 });
        let mut goroutines: [Goroutine; 5] = Default::default();
        // The place at which each held thread is held, and its goroutine.
        let mut held: BTreeMap<&str, (&str, u8)> = BTreeMap::new();
        let mut handling: BTreeSet<&str> = BTreeSet::new();
        let mut detached = false;
        if run.counts.dropped != 0 {
            self.scene("a buffer was full");
        }
        if run.counts.coalesced != 0 {
            self.scene("a signal was coalesced with one that was pending");
        }
        // The last step of each thread.
        let mut steps: BTreeMap<&str, &str> = BTreeMap::new();
        for event in &run.events {
            let Event { actor, what, lock, barriers, .. } = event;
            let g = &mut goroutines[usize::from(event.goroutine)];
            self.points.extend(Point::from_name(what).map(|point| point.name().to_owned()));
            self.called.extend(what.strip_prefix("call ").map(str::to_owned));
            let by_others = |place: &str| {
                let stop = |(who, at): (&&str, &(&str, u8))| {
                    *who != actor && at.0.starts_with(place) && at.1 == event.goroutine
                };
                event.goroutine != 0 && held.iter().any(stop)
            };
            // The position moves where an entry is unwound, and where a frame returns.
            let (position, entries) = position_of(barriers);
            let hit = g.barriers == entries && position > g.position && what != "unwind.moved";
            let changes = ["status.changed", "install.slot", "remove.slot", "scan.begin"];
            let walks_on = by_others("traceback.frame") && changes.contains(&what.as_str());
            let copies = by_others("copystack.");
            if schedule.steps.get(event.step as usize).is_some_and(|step| step.op.to_string() == *what) {
                steps.insert(actor, what);
            }
            let doing = steps.get(actor.as_str()).copied().unwrap_or("");
            (g.position, g.barriers) = (position, entries);
            let (inside, reads) =
                (handling.contains(actor.as_str()), held.values().any(|at| at.0 == "sample.copied"));
            match what.as_str() {
                "waits for the profiling rate's lock" if inside => {
                    self.scene("a handler waited for the profiling rate's lock");
                }
                "rate.changed" if !handling.is_empty() => {
                    self.scene("a thread changed the rate while a handler was under way");
                }
                "sample.written" if reads => self.scene("a sample was written while another was being read"),
                "sample: alone" if actor == "ext" => {
                    self.scene("a signal came to a thread from outside that was a machine");
                }
                "sample: foreign-thread" if detached => {
                    self.scene("a signal came to a thread that was no machine any more");
                }
                "detach" => detached = true,
                "attach" => detached = false,
                "unwind.moved" if lock.ends_with("recover") => self.scene("a recovery unwound a barrier"),
                "unwind.moved" if lock.ends_with("bulk") => self.scene("a bulk move unwound a barrier"),
                "copystack.begin" if actor == "gc" => {
                    self.scene("a stack was shrunk");
                    if ["scan", "term", "stw"].iter().any(|op| doing.starts_with(op)) {
                        self.scene("a scan shrank a stack");
                    }
                }
                "copystack.barriers" if entries != 0 => self.scene("a stack was copied with barriers on it"),
                "copystack.poisoned" if unreadable => self.scene("an old stack was made unreadable"),
                "traceback.barrier" => {
                    self.scene("a walk met a barrier");
                    if g.in_kernel && handling.contains(actor.as_str()) {
                        self.scene("a walk that began in the kernel met a barrier");
                    }
                }
                "trace.event" if entries != 0 => self.scene("an event was traced on a stack with barriers"),
                "scan.begin" if g.in_kernel && actor == "gc" => {
                    self.scene("a goroutine was scanned while its thread was in the kernel");
                }
                "copystack.begin" if g.callbacks != 0 => self.scene("a callback's stack was copied"),
                "sample: right" if g.in_foreign_code => self.scene("a signal in foreign code was walked"),
                "scan.begin" if g.in_foreign_code => self.scene("a goroutine in a foreign call was scanned"),
                "callback.entered" if g.callbacks != 0 => {
                    self.scene("foreign code called back in within a callback");
                }
                "callback.entered" => self.scene("foreign code called back in"),
                "recover.switched" if event.pc.starts_with("callback+") => {
                    self.scene("a callback stopped a panic");
                }
                "scan.begin" if g.scans_itself.as_deref() == Some(actor) => {
                    self.scene("a goroutine scanned itself");
                }
                "waits for a goroutine to scan itself or stop" => {
                    self.scene("a collector waited for a goroutine");
                }
                "recover.switched" => self.scene("a recovery landed"),
                "goroutine.readied" => self.scene("a parked goroutine was woken"),
                "preempt.yields" => self.scene("a goroutine was let go in a prologue"),
                "world.stopped" if actor != "gc" => {
                    self.scene("a thread that runs goroutines stopped the world");
                }
                "world.start" if doing.ends_with("stw") => {
                    self.scene("a cycle was done with the world stopped");
                }
                "sweep.stack" => self.scene("mark termination left barriers, and the sweep removed them"),
                "remove.begin" if entries != 0 && (doing.ends_with("mark") || doing.ends_with("stw")) => {
                    self.scene("a cycle began on a stack with barriers of another");
                }
                "setpc.done" if entries > position => {
                    self.scene("a frame replaced its caller's PC on a stack with barriers");
                }
                "scan.done" if g.ran_on.as_deref() == Some(actor) && doing.starts_with("scan") => {
                    self.scene("a thread scanned its own goroutine");
                }
                "panic" if g.panics != 0 => self.scene("a panic began within another"),
                "goroutine.taken" if g.ended => self.scene("a goroutine was used anew"),
                "goroutine.taken" if g.ran_on.as_deref().is_some_and(|m| m != actor) => {
                    self.scene("a thread took over another's goroutine");
                }
                _ => {}
            }
            let g = &mut goroutines[usize::from(event.goroutine)];
            match what.as_str() {
                "syscall.entered" => g.in_kernel = true,
                "syscall.returned" => g.in_kernel = false,
                "scan.self" => g.scans_itself = Some(actor.clone()),
                "scan.done" => g.scans_itself = None,
                // It has come there as into a system call.
                "foreign.entered" => (g.in_kernel, g.in_foreign_code) = (false, true),
                "foreign.left" => g.in_foreign_code = false,
                "callback.entered" => g.callbacks += 1,
                "callback.exited" => g.callbacks -= 1,
                "panic" => g.panics += 1,
                "recover.switched" => g.panics = 0,
                "install.slot" => g.installed_on = g.ran_on.clone(),
                "preempt.yields" => g.let_go_on = Some(actor.clone()),
                "exit.begin" => *g = Goroutine { ended: true, ..Goroutine::default() },
                "goroutine.taken" => {
                    (g.ended, g.ran_on) = (false, Some(actor.clone()));
                    if g.let_go_on.take().is_some_and(|m| m != *actor) {
                        self.scene("a goroutine that was let go in a prologue went on elsewhere");
                    }
                }
                "SIGPROF" => {
                    handling.insert(actor);
                }
                "resumed" => {
                    held.remove(actor.as_str());
                }
                other => {
                    if let Some(stop) = other.strip_prefix("held @ ") {
                        held.insert(actor, (stop, event.goroutine));
                        self.stops.insert(stop.split([':', '#']).next().unwrap_or(stop).to_owned());
                    }
                    if other.starts_with("sample: ") {
                        handling.remove(actor.as_str());
                    }
                }
            }
            let met = hit || what == "unwind.moved";
            if met && g.installed_on.is_some() && g.installed_on != g.ran_on {
                self.scene("a barrier that was installed while one thread had it last was met on another");
            }
            if hit {
                self.scene("a frame returned into a barrier");
            }
            if walks_on {
                self.scene(SCENES[0]);
            }
            if copies {
                self.scene("a stack was copied while a thread was held in the copy");
            }
            let others_go_on = |who: &&str| *who != actor && held.contains_key(who);
            if handling.iter().any(others_go_on) {
                self.scene("a handler was held while others went on");
            }
        }
    }
}

/// The state of a goroutine as its trace goes by.
#[derive(Default)]
struct Goroutine {
    position: usize,
    barriers: usize,
    scans_itself: Option<String>,
    in_foreign_code: bool,
    callbacks: u32,
    panics: u32,
    installed_on: Option<String>,
    let_go_on: Option<String>,
    ended: bool,
    ran_on: Option<String>,
    in_kernel: bool,
}

/// An event's barriers: position and number.
fn position_of(barriers: &str) -> (usize, usize) {
    let parse = |text: &str| text.parse().expect("a number");
    barriers.split_once('/').map_or((0, 0), |(position, len)| (parse(position), parse(len)))
}

#[test]
fn random_schedules_reach_every_kind_of_scene() {
    let said = in_child("vacuity::random_schedules_reach_every_kind_of_scene", "", |_| {
        let mut harness = harness(&[]);
        let mut generator = Generator::new(0x5eed, None);
        let mut seen = Seen::default();
        for _ in 0..RUNS {
            let schedule = generator.schedule();
            let run = run_clean(&mut harness, &schedule, true);
            seen.look(&schedule, &run);
        }
        let mut said = format!("{:?}\n", seen.counts);
        for scene in SCENES {
            let times = seen.times.get(scene).copied().unwrap_or(0);
            said += &format!("{times:8}  {scene}\n");
        }
        println!("{said}");
        let missing = |all: &mut dyn Iterator<Item = &'static str>, seen: &BTreeSet<String>| {
            all.filter(|name| !seen.contains(*name)).collect::<Vec<_>>()
        };
        let points = missing(&mut Point::ALL.iter().map(|p| p.name()), &seen.points);
        let stops = missing(&mut Point::ALL.iter().map(|p| p.name()), &seen.stops);
        let named = |of: fn(&&FuncId) -> bool| FuncId::ALL.iter().filter(of).map(|f| f.name());
        let functions = missing(&mut named(|f| f.on_goroutine_stack()), &seen.stops);
        let protocol = missing(&mut named(|f| !f.on_goroutine_stack()), &seen.stops);
        said += &format!("never come to: {points:?}; never held at: {stops:?}, {functions:?}");
        println!("{said}");
        assert!(points.is_empty(), "never come to: {points:?}");
        assert!(functions.is_empty(), "no thread was held in: {functions:?}");
        // A walk that starts in the trampoline and is held there is a rare thing.
        assert!(protocol.len() <= 3, "no thread was held in: {protocol:?}");
        for scene in SCENES {
            assert!(seen.times.contains_key(scene), "in {RUNS} runs it never happened that {scene}");
        }
        for (skip, times) in SkipReason::ALL.iter().zip(seen.counts.skips) {
            assert!(times > 0, "no sample was skipped for {skip}");
        }
        for (class, times) in CodeClass::ALL.iter().zip(seen.counts.interrupted) {
            assert!(times > 0, "no signal interrupted code of class {class}");
        }
        let Counts { interrupted_calls, events, .. } = seen.counts;
        assert!(interrupted_calls > 1_000, "only {interrupted_calls} system calls were interrupted");
        assert!(events > 1_000, "only {events} events were traced");
        let skipped: u64 = seen.counts.skips.iter().sum();
        assert!(seen.counts.tracebacks > skipped, "{} right, {skipped} skipped", seen.counts.tracebacks);
        said
    });
    println!("{said}");
}

#[test]
fn random_schedules_mostly_have_an_effect() {
    in_child("vacuity::random_schedules_mostly_have_an_effect", "", |_| {
        let mut harness = harness(&[]);
        let mut generator = Generator::new(0x40, Some(40));
        let mut counts = Counts::default();
        for _ in 0..500 {
            counts.add(&run_clean(&mut harness, &generator.schedule(), false).counts);
        }
        let per_schedule = |n: u64| n as f64 / counts.schedules as f64;
        let (steps, handovers) = (per_schedule(counts.steps), per_schedule(counts.handovers));
        let signals = per_schedule(counts.signals);
        println!("{steps} steps, {handovers} hand-overs, {signals} signals");
        assert_eq!(counts.schedules, 500);
        assert!(steps >= 20.0, "{steps} steps with an effect");
        assert!(handovers >= 8.0 && signals >= 3.0, "{handovers} hand-overs, {signals} signals");
        format!("{steps} {handovers} {signals}")
    });
}
