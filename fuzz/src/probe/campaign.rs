//! Many processes: undisturbed runs, rounds in place, fresh processes, and what they found, by cause.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sigstorm_inject::remote::Error;
use sigstorm_inject::remote::symbols::{Pattern, Unmatched};

use super::Expected;
use super::choose;
use super::confirm;
use super::finding::{Found, Group, Kind, Site};
use super::kit::Kit;
use super::obstacles::missing_symbols;
use super::plan::ProbePlan;
use super::points::{Points, Tally};
use super::session::{self, End, Outcome, Round, SessionCounts, Target, Task};

/// Undisturbed runs.
const UNDISTURBED: usize = 3;
/// Rounds without any injection after which there is nothing left to do.
const IDLE_ROUNDS: u32 = 2;
/// Visits that a boundary passes at most before it is served, from the second round on.
const MOST_SKIPS: u32 = 8;

/// A batch of fresh processes takes about so long.
const BATCH: Duration = Duration::from_millis(500);

/// The place of a finding about output.
const OTHER_OUTPUT: &str = "other output";

/// How far a probe is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The present activity, in a word.
    pub phase: &'static str,
    /// Seconds since it began.
    pub seconds: f64,
    /// Seconds until it ends.
    pub budget: u64,
    /// The counts so far, of processes that have ended.
    pub totals: Totals,
    /// Boundaries.
    pub boundaries: usize,
    /// Findings by cause.
    pub findings: usize,
}

/// The numbers of all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Added up.
    pub counts: SessionCounts,
    /// Processes that were started, the undisturbed ones and those that confirm aside.
    pub processes: u64,
    /// Processes that confirmed.
    pub confirming: u64,
}

impl Totals {
    fn add(&mut self, counts: &SessionCounts) {
        let to = &mut self.counts;
        to.injected += counts.injected;
        to.returned += counts.returned;
        to.masked += counts.masked;
        to.restartable += counts.restartable;
        to.threads = to.threads.max(counts.threads);
        self.processes += 1;
    }
}

/// All that a probe learnt.
#[derive(Debug, Default)]
pub struct Probed {
    /// The program as it is.
    pub expected: Expected,
    /// The findings by cause, in the order in which they came.
    pub groups: Vec<Group>,
    /// The numbers.
    pub totals: Totals,
    /// The boundaries.
    pub points: Points,
    /// The boundaries that were reached.
    pub reached: BTreeSet<usize>,
    /// Seconds that it took.
    pub seconds: f64,
    /// Seconds in which injections were made.
    pub injecting: f64,
    /// The handler's name.
    pub handler: Option<String>,
    /// Whether the signal ever had a handler.
    pub armed: bool,
    /// Patterns without a match, in words.
    pub unmatched: Vec<String>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// How to get the symbols of objects that have none.
    pub missing_symbols: Vec<String>,
    /// The first error of a process, where others went well.
    pub error: Option<String>,
}

/// A probe under way.
pub(super) struct Campaign<'a> {
    pub(super) plan: &'a ProbePlan,
    pub(super) stop: &'a AtomicBool,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    pub(super) kit: Kit,
    /// One for each job: what it has read of objects is kept.
    pub(super) kits: Vec<Kit>,
    pub(super) probed: Probed,
    show: &'a mut dyn FnMut(&Progress),
}

/// Probes a program.
///
/// # Errors
///
/// If it cannot be started, or the kernel refuses to trace it.
pub fn probe(plan: &ProbePlan, stop: &AtomicBool, show: &mut dyn FnMut(&Progress)) -> Result<Probed, Error> {
    let began = Instant::now();
    let mut campaign = Campaign {
        plan,
        stop,
        began,
        deadline: began + Duration::from_secs(plan.seconds),
        kit: Kit::default(),
        kits: (0..plan.jobs.max(1)).map(|_| Kit::default()).collect(),
        probed: Probed::default(),
        show,
    };
    campaign.undisturbed()?;
    let worked = if plan.fresh { campaign.fresh() } else { campaign.in_place() };
    let Campaign { kit, mut probed, .. } = campaign;
    if let Err(error) = worked {
        if probed.groups.is_empty() {
            return Err(error);
        }
        // The findings are not lost for it.
        probed.error = Some(error.to_string());
    }
    let is_attacked = |path: &Path| kit.points.functions().iter().any(|function| function.object == path);
    probed.missing_symbols = missing_symbols(&kit.symbols, is_attacked);
    probed.points = kit.points;
    probed.seconds = began.elapsed().as_secs_f64();
    Ok(probed)
}

impl Campaign<'_> {
    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || Instant::now() >= self.deadline
    }

    pub(super) fn show(&mut self, phase: &'static str) {
        (self.show)(&Progress {
            phase,
            seconds: self.began.elapsed().as_secs_f64(),
            budget: self.plan.seconds,
            totals: self.probed.totals,
            boundaries: self.kit.points.len(),
            findings: self.probed.groups.len(),
        });
    }

    fn undisturbed(&mut self) -> Result<(), Error> {
        let limit = Duration::from_secs_f64((self.plan.seconds as f64 / 10.0).clamp(0.5, 5.0));
        for _ in 0..UNDISTURBED {
            self.show("undisturbed");
            let deadline = self.deadline.min(Instant::now() + limit);
            let nothing = Expected::default();
            let outcome =
                session::run(self.plan, Task::Undisturbed, &mut self.kit, &nothing, deadline, self.stop)?;
            let End::Exited(status) = outcome.end else { break };
            self.probed.expected.statuses.push(status);
            self.probed.expected.outputs.push(outcome.output);
        }
        let expected = &self.probed.expected;
        if expected.runs() < UNDISTURBED {
            let limit = limit.as_secs_f64();
            self.probed.notes.push(format!(
                "the program did not end in each of {UNDISTURBED} undisturbed runs of at most {limit} s, so its exit \
                 status is not judged"
            ));
            // An end that comes now and then is not judged by its status.
            self.probed.expected = Expected {
                statuses: expected
                    .statuses
                    .iter()
                    .copied()
                    .filter(|status| status.code().is_none())
                    .collect(),
                outputs: Vec::new(),
            };
        } else if expected.code().is_none() {
            self.probed
                .notes
                .push("undisturbed runs end differently, so exit statuses are not judged".into());
        } else if self.plan.same_output && expected.output().is_none() {
            self.probed.notes.push("undisturbed runs print differently, so output is not compared".into());
        }
        Ok(())
    }

    fn in_place(&mut self) -> Result<(), Error> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.plan.seed);
        let (mut round, mut idle) = (0, 0);
        let mut excluded = BTreeSet::new();
        while !self.is_over() && idle < IDLE_ROUNDS {
            self.show("in place");
            let mut skips = Tally::default();
            if round > 0 {
                for point in 0..self.kit.points.len() {
                    // Each further visit is half as likely.
                    *skips.at(point) = rng.next_u32().trailing_zeros().min(MOST_SKIPS);
                }
            }
            let task = Task::InPlace(Round {
                skips,
                excluded: excluded.clone(),
                visits: self.plan.visits,
                ..Round::default()
            });
            let outcome = session::run(
                self.plan,
                task,
                &mut self.kit,
                &self.probed.expected,
                self.deadline,
                self.stop,
            )?;
            round += 1;
            let is_idle = outcome.counts.injected == 0 && outcome.counts.masked == 0;
            idle = if is_idle { idle + 1 } else { 0 };
            if !outcome.armed && !self.probed.armed {
                self.note_end(&outcome);
            }
            let ended =
                outcome.end == End::Found || outcome.found.iter().any(|found| found.kind != Kind::State);
            self.merge(&outcome, 1);
            self.probed.reached.extend(&outcome.reached);
            self.probed.unmatched = in_words(&outcome.unmatched);
            for found in outcome.found {
                if let (true, Some(site)) = (ended && found.kind != Kind::State, &found.site) {
                    // A boundary with a finding is left out of later rounds, so that others can be found.
                    excluded.extend(self.kit.points.find(site.object.as_ref(), site.address));
                }
                self.add(found)?;
            }
            if self.plan.same_output && !ended {
                self.compare_output(&outcome.output, &outcome.end);
            }
            if !outcome.armed {
                break;
            }
        }
        Ok(())
    }

    fn compare_output(&mut self, output: &[u8], end: &End) {
        if !matches!(end, End::Exited(_)) {
            return;
        }
        let Some(expected) = self.probed.expected.output() else { return };
        let differs = expected != output;
        // Each later process tries it again.
        if let Some(group) = self.probed.groups.iter_mut().find(|group| group.first.place == OTHER_OUTPUT) {
            group.tried += 1;
            group.reproduced += u32::from(differs);
            group.met += u64::from(differs);
            return;
        }
        if !differs {
            return;
        }
        let (expected, found) = (self.probed.expected.output().unwrap_or_default(), output);
        let line = |bytes: &[u8], other: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let other = String::from_utf8_lossy(other).into_owned();
            let differs = text.lines().zip(other.lines().chain(std::iter::repeat(""))).find(|(a, b)| a != b);
            differs.map_or_else(String::new, |(line, _)| line.to_owned())
        };
        let evidence = vec![
            format!("undisturbed: {}", line(expected, found)),
            format!("disturbed:   {}", line(found, expected)),
        ];
        let found = Found {
            kind: Kind::Exit,
            summary: "the program prints something else than undisturbed".into(),
            evidence,
            stacks: Vec::new(),
            site: None,
            place: OTHER_OUTPUT.into(),
            lock: None,
            thread: 0,
            certain: true,
            log: Vec::new(),
            others: Vec::new(),
        };
        self.group(found);
    }

    /// Adds what a process counted, one of so many at a time.
    fn merge(&mut self, outcome: &Outcome, at_a_time: usize) {
        let probed = &mut self.probed;
        probed.totals.add(&outcome.counts);
        probed.armed |= outcome.armed;
        probed.injecting += outcome.armed_for.as_secs_f64() / at_a_time as f64;
        if probed.handler.is_none() {
            probed.handler.clone_from(&outcome.handler);
        }
        for remark in &outcome.remarks {
            if !probed.notes.contains(remark) {
                probed.notes.push(remark.clone());
            }
        }
        let note = "a handler had not returned for seconds when its process was ended, and nothing shows why";
        if outcome.unreturned && !probed.notes.iter().any(|known| known == note) {
            probed.notes.push(note.into());
        }
    }

    /// Adds a finding to those of its cause, and confirms a new one.
    fn add(&mut self, found: Found) -> Result<(), Error> {
        let Some(new) = self.group(found) else { return Ok(()) };
        self.show("confirming");
        confirm::confirm(self, new)
    }

    /// Adds a finding to those of its cause. Returns the number of a new cause.
    fn group(&mut self, found: Found) -> Option<usize> {
        let cause = found.cause();
        let seconds = self.began.elapsed().as_secs_f64();
        let groups = &mut self.probed.groups;
        if let Some(group) =
            groups.iter_mut().find(|group| group.met_as == cause || group.first.cause() == cause)
        {
            group.met += 1;
            if let Some(site) = found.site
                && !group
                    .sites
                    .iter()
                    .any(|known| known.object == site.object && known.address == site.address)
            {
                group.sites.push(site);
            }
            return None;
        }
        groups.push(Group {
            sites: found.site.iter().cloned().collect(),
            met_as: cause,
            first: found,
            seconds,
            met: 1,
            reproduced: 0,
            tried: 0,
            notes: Vec::new(),
        });
        Some(groups.len() - 1)
    }

    /// A process for each boundary that a first process reaches.
    fn fresh(&mut self) -> Result<(), Error> {
        self.show("counting");
        let quarter = Duration::from_secs_f64(self.plan.seconds as f64 / 4.0);
        let task = Task::InPlace(Round { count_only: true, ..Round::default() });
        let deadline = self.deadline.min(Instant::now() + quarter);
        let counted =
            session::run(self.plan, task, &mut self.kit, &self.probed.expected, deadline, self.stop)?;
        self.probed.armed = counted.armed;
        self.probed.notes.extend(counted.remarks.iter().cloned());
        self.probed.unmatched = in_words(&counted.unmatched);
        self.probed.reached.extend(&counted.reached);
        let points = &self.kit.points;
        let target = |visit: u32| {
            move |point: &usize| Target {
                object: points.function(*point).object.clone(),
                address: points.address(*point),
                visit,
                watch: None,
                held: None,
                to_end: false,
            }
        };
        // In a random order, so that no function waits for all of another's; first visits first.
        let mut rng = ChaCha8Rng::seed_from_u64(self.plan.seed);
        let mut targets = VecDeque::new();
        for visit in 1..=self.plan.visits {
            let mut of_visit: Vec<Target> = counted.reached.iter().map(target(visit)).collect();
            of_visit.sort_by_cached_key(|_| rng.next_u64());
            targets.extend(of_visit);
        }
        let all = targets.len();
        let (mut done, mut size) = (0, self.kits.len());
        while !targets.is_empty() && !self.is_over() {
            // A batch at a time, so that findings are confirmed and progress is shown.
            let batch: VecDeque<Target> = targets.drain(..targets.len().min(size)).collect();
            let began = Instant::now();
            let outcomes = self.each_in_a_process(batch)?;
            size = if began.elapsed() < BATCH { 2 * size } else { (size / 2).max(self.kits.len()) };
            done += outcomes.len();
            for outcome in outcomes {
                self.merge(&outcome, self.kits.len());
                let only_state = outcome.found.iter().all(|found| found.kind == Kind::State);
                if self.plan.same_output && only_state {
                    self.compare_output(&outcome.output, &outcome.end);
                }
                for found in outcome.found {
                    self.add(found)?;
                }
            }
            self.show("fresh");
        }
        if !counted.armed {
            self.note_end(&counted);
        }
        if done < all {
            self.probed.notes.push(format!("{done} of {all} fresh processes were run"));
        }
        Ok(())
    }

    /// Runs each target in a process of its own, several at a time.
    pub(super) fn each_in_a_process(&mut self, targets: VecDeque<Target>) -> Result<Vec<Outcome>, Error> {
        let tasks = targets.into_iter().map(|target| move || Task::Point(target.clone())).collect();
        self.each_task_in_a_process(tasks, Duration::from_secs(20))
    }

    /// Runs each task in a process of its own, several at a time, none longer than `limit`.
    pub(super) fn each_task_in_a_process<T: Fn() -> Task + Send>(
        &mut self,
        tasks: VecDeque<T>,
        limit: Duration,
    ) -> Result<Vec<Outcome>, Error> {
        let queue = Mutex::new(tasks);
        let results = Mutex::new((Vec::new(), None::<Error>));
        let (plan, stop, deadline, expected) = (self.plan, self.stop, self.deadline, &self.probed.expected);
        // A process that ends a little late is better than one that was begun in vain.
        let late = deadline + Duration::from_secs(5);
        thread::scope(|scope| {
            for kit in &mut self.kits {
                let (queue, results) = (&queue, &results);
                scope.spawn(move || {
                    // The tracer waits for the children of its own thread alone.
                    loop {
                        let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
                        let Some(task) = next else { return };
                        if stop.load(Ordering::SeqCst) || Instant::now() >= deadline {
                            return;
                        }
                        let until = late.min(Instant::now() + limit);
                        let outcome = session::run(plan, task(), kit, expected, until, stop);
                        let Ok(mut results) = results.lock() else { return };
                        match outcome {
                            Ok(outcome) => results.0.push(outcome),
                            Err(error) => {
                                results.1.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        let (outcomes, error) = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        match error {
            Some(error) if outcomes.is_empty() => Err(error),
            error => {
                // The others' outcomes are not lost for it, and it is told at the end.
                let told = &mut self.probed.error;
                *told = told.take().or(error.map(|error| error.to_string()));
                Ok(outcomes)
            }
        }
    }
}

/// The functions that patterns name.
#[derive(Debug, Default)]
pub struct Listed {
    /// Their boundaries.
    pub points: Points,
    /// The patterns without a match, in words.
    pub unmatched: Vec<String>,
}

/// Starts the program, and lists the functions that patterns name as soon as its libraries are mapped.
///
/// # Errors
///
/// If it cannot be started or traced.
pub fn list(plan: &ProbePlan, patterns: &[Pattern]) -> Result<Listed, Error> {
    let mut kit = Kit::default();
    choose::map(plan, &mut kit)?;
    let selection = kit.symbols.select(patterns);
    for id in &selection.functions {
        kit.points.add(&kit.symbols.objects()[id.object], id.function, None);
    }
    Ok(Listed { points: kit.points, unmatched: in_words(&selection.unmatched) })
}

/// An injection that was done again.
#[derive(Debug, Default)]
pub struct Again {
    /// Fresh processes.
    pub tried: u32,
    /// The processes in which the signal came.
    pub reached: u32,
    /// The processes that showed the finding again.
    pub reproduced: u32,
    /// Their findings.
    pub found: Vec<Found>,
}

/// Does one injection again, in several fresh processes.
///
/// # Errors
///
/// If the program cannot be started or traced.
pub fn again(plan: &ProbePlan, site: &Site, kind: Kind, stop: &AtomicBool) -> Result<Again, Error> {
    let mut nobody = |_: &Progress| {};
    let began = Instant::now();
    let mut campaign = Campaign {
        plan,
        stop,
        began,
        deadline: began + Duration::from_secs(plan.seconds),
        kit: Kit::default(),
        kits: vec![Kit::default()],
        probed: Probed::default(),
        show: &mut nobody,
    };
    campaign.undisturbed()?;
    let to_end = confirm::goes_to_its_end(kind, &campaign.probed.expected);
    let target = Target::of(site, to_end);
    let outcomes =
        campaign.each_in_a_process(std::iter::repeat_n(target, confirm::TRIALS as usize).collect())?;
    Ok(Again {
        tried: outcomes.len() as u32,
        reached: outcomes.iter().filter(|outcome| did_something(outcome)).count() as u32,
        reproduced: outcomes
            .iter()
            .filter(|outcome| outcome.found.iter().any(|found| found.kind == kind))
            .count() as u32,
        found: outcomes.into_iter().flat_map(|outcome| outcome.found).collect(),
    })
}

/// Returns whether a signal came in a process.
fn did_something(outcome: &Outcome) -> bool {
    outcome.counts.injected + outcome.counts.returned > 0 || !outcome.found.is_empty()
}

/// Patterns without a match, in words.
fn in_words(unmatched: &[Unmatched]) -> Vec<String> {
    unmatched.iter().map(ToString::to_string).collect()
}

/// Findings by kind.
pub fn by_kind(groups: &[Group]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for group in groups {
        *kinds.entry(group.first.kind.name()).or_default() += 1;
    }
    kinds
}
