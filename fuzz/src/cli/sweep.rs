//! `sigstorm sweep`: a schedule, disturbed once at every instruction that it comes to.
//!
//! Each file is watched once, which says what its runs are ([`Plan`]); then they are run, many
//! to a request, in children, one on a core, that are replaced when a run breaks them. What they
//! answer is judged in the order of the runs.

use super::cores::{self, Cores};
use super::display::Sweeping;
use super::inconclusive::Reason;
use super::output::{Out, complain};
use super::runner::{Answer, Runner};
use super::summary::Machine;
use super::{Exit, Outcome, args, files, input, origin};
use anyhow::{Context, Result};
use console::style;
use indicatif::HumanCount;
use serde::Serialize;
use sigstorm::executor;
use sigstorm::outcome::{Injected, Verdict};
use sigstorm::schedule::Schedule;
use sigstorm::sweep::{Coverage, Disturbance, Injection, Plan, Why, html, plain, text};
use sigstorm_runtime::profiler::SkipReason;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

mod grow;

/// A request of so many bytes is less than a pipe holds, and so are its answers.
const REQUEST: usize = 24 << 10;
/// Answers are longer than requests: so many fit.
const MOST_AT_ONCE: usize = 96;
/// What one child is given at a time.
const SHARE: usize = 8 * MOST_AT_ONCE;
/// After so many violations a file's sweep has made its point.
const ENOUGH: u64 = 32;

/// What all runs of a sweep came to.
#[derive(Debug, Default)]
struct Totals {
    files: u64,
    unreadable: u64,
    runs: u64,
    injected: Injected,
    violations: u64,
    verdicts: BTreeMap<String, u64>,
    verdict: Option<String>,
    /// Visits that no stop can name.
    beyond: u64,
    /// Files whose sweep was ended by its violations.
    cut: u64,
    /// Of the schedules as they are: steps without an effect, stops that were not reached, and stops that
    /// this build cannot take as they were meant.
    inert: usize,
    unreached: usize,
    doubtful: usize,
    notes: Vec<String>,
}

impl Totals {
    /// The verdicts, with their numbers.
    fn found(&self) -> String {
        let verdicts: Vec<String> = self.verdicts.iter().map(|(name, n)| format!("{n} {name}")).collect();
        verdicts.join(", ")
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    r#type: &'a str,
    command: &'a str,
    boundaries: usize,
    injected: usize,
    unreached: usize,
    violations: u64,
    verdict: Option<&'a str>,
    files: u64,
    runs: u64,
    samples: u64,
    tracebacks: u64,
    alone: u64,
    skips: BTreeMap<&'static str, u64>,
    handovers: u64,
    verdicts: &'a BTreeMap<String, u64>,
    beyond: u64,
    cut: u64,
    unreadable: u64,
    seconds: f64,
    listing: Option<&'a Path>,
    inconclusive: Option<&'static str>,
    cores: &'a [usize],
    core_share: &'a [Option<f64>],
    inert_steps: usize,
    unreached_stops: usize,
    doubtful_stops: usize,
    notes: &'a [String],
}

/// One violation.
#[derive(Serialize)]
struct Violation<'a> {
    r#type: &'a str,
    file: &'a str,
    verdict: &'a str,
    summary: &'a str,
    place: String,
    schedule: String,
}

#[derive(Serialize)]
struct Unreached {
    r#type: &'static str,
    place: String,
    instruction: String,
    why: &'static str,
}

/// `sigstorm sweep`.
pub fn run(args: &args::Sweep, out: &Out) -> Outcome {
    let region = executor::region().map_err(anyhow::Error::from)?;
    let jobs = args.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let cores = match args.core {
        // Whoever says so has taken it.
        Some(_) => Cores::default(),
        None => Cores::take(jobs)?.with_warnings(out),
    };
    let begun = Instant::now();
    let nths = args.core.map_or_else(|| cores.nths(), |first| (first..first + jobs).collect());
    let runner = |&nth: &usize| Runner::new(&args.planted.defects).on_core(nth);
    let mut sweep = Sweep {
        args,
        out,
        runners: nths.iter().map(runner).collect(),
        coverage: Coverage::new(&region),
        totals: Totals::default(),
        exit: Exit::Clean,
    };
    let bar = Sweeping::new(out);
    let mut given = Vec::new();
    for file in &args.files {
        if args.first && sweep.exit != Exit::Clean {
            break;
        }
        match input::load(file) {
            Ok(input) if args.grow.is_some() => given.push(input.schedule),
            Ok(mut input) => {
                let said = input.warn(&args.planted.defects);
                sweep.totals.notes.extend(said);
                sweep.totals.doubtful += input.doubts.len();
                if args.plain {
                    input.schedule = plain(&input.schedule);
                }
                sweep.file(&input.name, input.schedule, &bar)?;
            }
            Err(message) => {
                complain(&format!("error: {message}"));
                sweep.totals.unreadable += 1;
                sweep.exit = sweep.exit.worse(Exit::Usage);
            }
        }
    }
    if let Some(seconds) = args.grow {
        let grown = sweep.grow(&given, seconds, &bar)?;
        return Ok(sweep.exit.worse(grown));
    }
    bar.end();
    let seconds = begun.elapsed();
    let share = |runner: &Runner| Some(runner.used().as_secs_f64() / seconds.as_secs_f64().max(1e-3));
    let machine = Machine {
        cores: cores.numbers(),
        inconclusive: sweep.inconclusive(),
        notes: cores.warnings().into_iter().chain(std::mem::take(&mut sweep.totals.notes)).collect(),
    };
    let shares: Vec<Option<f64>> = sweep.runners.iter().map(share).collect();
    if machine.inconclusive.is_some() {
        sweep.exit = sweep.exit.worse(Exit::Inconclusive);
    }
    // A listing of nothing would take the place of one of something.
    let listing = if sweep.coverage.injected() == 0 { None } else { sweep.write_listing(&region)? };
    sweep.report(&region, listing.as_deref(), seconds.as_secs_f64(), &machine, &shares)?;
    if sweep.totals.verdict.is_none() && !sweep.reached() {
        let what = match sweep.totals.files {
            0 => "no schedule could be read",
            _ => "no step of these schedules comes to an instruction of the protocol",
        };
        complain(&format!("error: there is nothing to sweep: {what}"));
        sweep.exit = sweep.exit.worse(Exit::Usage);
    }
    Ok(sweep.exit)
}

struct Sweep<'a> {
    args: &'a args::Sweep,
    out: &'a Out,
    /// One for each core, and at least one.
    runners: Vec<Runner>,
    coverage: Coverage,
    totals: Totals,
    exit: Exit,
}

impl Sweep<'_> {
    /// Whether anything could be disturbed.
    fn reached(&self) -> bool {
        self.coverage.places().iter().any(|place| place.crossed != 0)
    }

    /// Why there is no answer, if there is none.
    fn inconclusive(&self) -> Option<Reason> {
        let nothing = self.totals.verdict.is_none() && self.coverage.injected() == 0;
        nothing.then_some(Reason::Injections)
    }

    /// Watches a schedule, then disturbs it everywhere.
    fn file(&mut self, name: &str, schedule: Schedule, bar: &Sweeping) -> Result<(), super::Trouble> {
        self.totals.files += 1;
        let steps = schedule.steps.len();
        // A run of its own: one that is watched is not traced.
        let traced = self.runners[0].run(&schedule.encode(), false)?;
        self.totals.inert += traced.inert.len();
        self.totals.unreached += traced.unreached.len();
        let answer = self.runners[0].record(&schedule.encode())?;
        self.totals.runs += 1;
        if answer.finding.is_some() {
            // It shows something as it is: there is nothing to be disturbed.
            return self.violation(name, None, &schedule, &answer);
        }
        self.coverage.watched(&answer.crossings, steps);
        let plan = Plan::new(schedule, answer.crossings);
        self.totals.beyond += plan.beyond();
        let mut injections = plan.injections();
        if self.args.pairs {
            injections.extend(plan.pairs());
        }
        bar.begin(name, injections.len());
        let before = self.totals.violations;
        let enough = AtomicBool::new(false);
        let next_share = AtomicUsize::new(0);
        let mut runners = std::mem::take(&mut self.runners);
        let (sender, results) = mpsc::channel();
        let judged = thread::scope(|scope| {
            for runner in &mut runners {
                let (sender, plan, injections) = (sender.clone(), &plan, &injections);
                let (next_share, enough) = (&next_share, &enough);
                scope.spawn(move || {
                    while !enough.load(Ordering::Relaxed) {
                        let number = next_share.fetch_add(1, Ordering::Relaxed);
                        let Some(share) = injections.chunks(SHARE).nth(number) else { break };
                        if sender.send((number, run_share(runner, plan, share))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            // Shares come as they are done, and are looked at in their order.
            let mut waiting = BTreeMap::new();
            let mut next = 0;
            for (number, answers) in results {
                waiting.insert(number, answers);
                while let Some(answers) = waiting.remove(&next) {
                    let share = injections[next * SHARE..].iter();
                    for (injection, answer) in share.zip(&answers?) {
                        self.judge(name, &plan, injection, answer)?;
                        let found = self.totals.violations - before;
                        if found >= ENOUGH || (found != 0 && self.args.first) {
                            enough.store(true, Ordering::Relaxed);
                            self.totals.cut += 1;
                            return Ok(());
                        }
                    }
                    next += 1;
                    bar.show((next * SHARE).min(injections.len()), self.totals.found());
                }
            }
            Ok(())
        });
        self.runners = runners;
        judged
    }

    /// What one run says.
    fn judge(
        &mut self,
        name: &str,
        plan: &Plan,
        injection: &Injection,
        answer: &Answer,
    ) -> Result<(), super::Trouble> {
        self.totals.runs += 1;
        let injected = &answer.injected;
        self.coverage.ran(injection, injected);
        let total = &mut self.totals.injected;
        total.held += injected.held;
        total.handed += injected.handed;
        total.right += injected.right;
        total.alone += injected.alone;
        for (mine, theirs) in total.skips.iter_mut().zip(injected.skips) {
            *mine += theirs;
        }
        if answer.finding.is_some() {
            return self.violation(name, Some(injection), &plan.schedule(injection), answer);
        }
        let both = matches!(injection.what, Disturbance::Both { .. });
        // What notes whether a planted defect was reached runs once a process.
        let checked = injection.counted && self.args.planted.defects.is_empty();
        if checked && injected.held == 0 && !both {
            let mut missed = answer.clone();
            let what = "a visit was counted, and a stop at it does not fire".to_owned();
            missed.finding = Some(super::death::finding(Verdict::HarnessError, what, Vec::new()));
            return self.violation(name, Some(injection), &plan.schedule(injection), &missed);
        }
        Ok(())
    }

    fn violation(
        &mut self,
        file: &str,
        injection: Option<&Injection>,
        schedule: &Schedule,
        answer: &Answer,
    ) -> Result<(), super::Trouble> {
        let Some(finding) = &answer.finding else { return Ok(()) };
        let verdict = finding.verdict.as_str();
        let exit = Exit::of_verdict(Some(verdict));
        self.exit = self.exit.worse(exit);
        self.totals.violations += u64::from(exit == Exit::Violation);
        let first = !self.totals.verdicts.contains_key(verdict);
        *self.totals.verdicts.entry(verdict.to_owned()).or_default() += 1;
        self.totals.verdict.get_or_insert_with(|| verdict.to_owned());
        let place = injection.map_or("as it is".to_owned(), place);
        let schedule = &origin::checked(schedule);
        if self.out.json {
            let summary = finding.summary.as_str();
            let schedule = schedule.to_text();
            self.out.object(&Violation { r#type: "violation", file, verdict, summary, place, schedule })?;
        } else if first {
            // One of each kind is shown in full.
            let head = format!("{verdict}: {}", finding.summary);
            self.out.say(&format!("{file}, {place}: {}", style(head).red().bold()))?;
            for line in finding.evidence.iter().chain(&finding.dump) {
                self.out.say(&format!("    {line}"))?;
            }
            for line in schedule.to_text().lines() {
                self.out.say(&format!("  | {line}"))?;
            }
        }
        Ok(())
    }

    /// Writes the listing, as text and as a page.
    fn write_listing(&self, region: &sigstorm_inject::Region) -> Result<Option<PathBuf>> {
        let folder = self.args.reports.join("sweep");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        files::write(&folder.join("coverage.txt"), text(&self.coverage, region).as_bytes())?;
        let page = folder.join("coverage.html");
        files::write(&page, html(&self.coverage, region).as_bytes())?;
        Ok(Some(page))
    }

    fn report(
        &self,
        region: &sigstorm_inject::Region,
        listing: Option<&Path>,
        seconds: f64,
        machine: &Machine,
        shares: &[Option<f64>],
    ) -> Result<(), super::Trouble> {
        let (totals, coverage) = (&self.totals, &self.coverage);
        let (boundaries, injected) = (coverage.boundaries(), coverage.injected());
        let listed = |place: &sigstorm::sweep::Place| {
            let f = sigstorm_runtime::FuncId::ALL.iter().position(|f| *f == place.function);
            region.disassemble(f.unwrap_or(usize::MAX), usize::from(place.index))
        };
        let mut by_why: Vec<(Why, u64)> = Vec::new();
        for (place, why) in coverage.unreached() {
            match by_why.iter_mut().find(|(known, _)| *known == why) {
                Some((_, count)) => *count += 1,
                None => by_why.push((why, 1)),
            }
            let name = format!("{}#{}", place.function, place.index);
            let instruction = listed(place);
            let line = format!("  unreached: {name:<22} {instruction:<44} {}", why.name());
            // Few are worth reading one by one; the listing has all.
            if boundaries - injected <= 40 {
                self.out.say(line.trim_end())?;
            }
            self.out.object(&Unreached { r#type: "unreached", place: name, instruction, why: why.name() })?;
        }
        let skips = || SkipReason::ALL.iter().map(|skip| skip.name()).zip(totals.injected.skips);
        let samples = totals.injected.samples();
        self.out.object(&Summary {
            r#type: "summary",
            command: "sweep",
            boundaries,
            injected,
            unreached: boundaries - injected,
            violations: totals.violations,
            verdict: totals.verdict.as_deref(),
            files: totals.files,
            runs: totals.runs,
            samples,
            tracebacks: totals.injected.right,
            alone: totals.injected.alone,
            skips: skips().collect(),
            handovers: totals.injected.handed,
            verdicts: &totals.verdicts,
            beyond: totals.beyond,
            cut: totals.cut,
            unreadable: totals.unreadable,
            seconds,
            listing,
            inconclusive: machine.inconclusive.map(Reason::name),
            cores: &machine.cores,
            core_share: shares,
            inert_steps: totals.inert,
            unreached_stops: totals.unreached,
            doubtful_stops: totals.doubtful,
            notes: &machine.notes,
        })?;
        if let Some(reason) = machine.inconclusive {
            let sentence = format!("inconclusive: {}", reason.sentence());
            return self.out.say(&style(sentence).yellow().bold().to_string());
        }
        let say = |line: String| self.out.say(&line);
        let percent = 100.0 * injected as f64 / boundaries.max(1) as f64;
        say(format!("{injected} of {boundaries} reachable instructions disturbed ({percent:.1} %)"))?;
        for (why, count) in by_why {
            say(format!("  {count} not: {}", why.name()))?;
        }
        let skipped: Vec<String> =
            skips().filter(|(_, n)| *n != 0).map(|(name, n)| format!("{} {name}", HumanCount(n))).collect();
        say(format!(
            "{} signals exactly at an instruction: {} right tracebacks, {} without a goroutine, skipped for a \
             true reason: {}",
            HumanCount(samples),
            HumanCount(totals.injected.right),
            HumanCount(totals.injected.alone),
            if skipped.is_empty() { "none".to_owned() } else { skipped.join(", ") },
        ))?;
        say(format!(
            "{} hand-overs there; {} runs of {} in {seconds:.1} s",
            HumanCount(totals.injected.handed),
            HumanCount(totals.runs),
            input::counted(totals.files as usize, "schedule"),
        ))?;
        if totals.beyond != 0 {
            say(format!("{} visits are a step's ninth or later, which no stop can name", totals.beyond))?;
        }
        let jobs = input::counted(shares.len(), "job");
        say(format!("{jobs} had {}", cores::in_words(shares)))?;
        if totals.inert + totals.unreached != 0 {
            say(format!(
                "of the schedules as they are, {} had no effect and {} not reached",
                input::counted(totals.inert, "step"),
                match totals.unreached {
                    1 => "1 stop was".to_owned(),
                    many => format!("{many} stops were"),
                },
            ))?;
        }
        let found = match totals.verdicts.is_empty() {
            true if !machine.notes.is_empty() && totals.doubtful != 0 => {
                style("no violation, but see the notes".to_owned()).yellow()
            }
            true => style("no violation".to_owned()).green(),
            false => style(totals.found()).red().bold(),
        };
        say(format!("{found}"))?;
        if totals.cut != 0 {
            let enough = if self.args.first { 1 } else { ENOUGH };
            let enough = input::counted(enough as usize, "violation");
            say(format!("{} ended after {enough}", input::counted(totals.cut as usize, "file")))?;
        }
        if let Some(page) = listing {
            say(format!("listing: {}", page.display()))?;
        }
        Ok(())
    }
}

/// Runs some of a plan's injections: an answer for each.
fn run_share(runner: &mut Runner, plan: &Plan, share: &[Injection]) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(share.len());
    while answers.len() < share.len() {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(injection) = share.get(answers.len() + batch.len()) {
            let encoded = plan.schedule(injection).encode();
            bytes += encoded.len() + 5;
            if !batch.is_empty() && (bytes > REQUEST || batch.len() == MOST_AT_ONCE) {
                break;
            }
            batch.push(encoded);
        }
        runner.run_all(&batch, &mut |_, answer| {
            answers.push(answer);
            true
        })?;
    }
    Ok(answers)
}

/// Where and what, as a person reads it.
fn place(injection: &Injection) -> String {
    let Injection { step, function, index, hit, what, .. } = injection;
    let what = match what {
        Disturbance::Signal => "a signal".to_owned(),
        Disturbance::Other(actor, op) => format!("{} {op}", actor.name()),
        Disturbance::Both { other: (actor, op), at: (f, i), .. } => {
            format!("{} {op} @ {f}#{i}", actor.name())
        }
    };
    let visit = if *hit == 1 { String::new() } else { format!(":{hit}") };
    format!("step {}, {function}#{index}{visit}, {what}", step + 1)
}
