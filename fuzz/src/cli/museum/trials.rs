//! The trials: which there are, and running them, several at a time.

use super::super::args::{self, Baseline, Subject};
use super::super::campaign::{self, Campaign, Found, Mark, Marks, Plan};
use super::super::cores::Cores;
use super::super::display::Trials;
use super::super::inconclusive::Reason;
use super::super::output::Out;
use anyhow::Result;
use serde::Serialize;
use sigstorm::outcome::Verdict;
use sigstorm_runtime::instrument::defect::Defect;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// What is to be run.
#[derive(Debug)]
pub struct Show {
    /// What is hunted, in this order.
    pub subjects: Vec<Subject>,
    /// By which means; the first one counts.
    pub baselines: Vec<Baseline>,
    /// Planted in every trial, too.
    pub with: Vec<Defect>,
    /// How many trials of each.
    pub number: u32,
    /// How many seconds each may take.
    pub budget: u64,
    /// How many run at a time.
    pub jobs: usize,
    /// Where all random choices begin.
    pub seed: u64,
}

/// One trial.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// What is hunted.
    pub subject: Subject,
    /// By which means.
    pub baseline: Baseline,
    /// Its number, from 0.
    pub number: u32,
    /// Where its random choices begin.
    pub seed: u64,
}

/// A trial that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Which one.
    pub trial: Trial,
    /// How many schedules it ran.
    pub schedules: u64,
    /// When what had happened. A violation is what is detected, and no error of the harness.
    pub marks: Marks,
    /// What was found.
    pub verdict: Option<String>,
    /// The same, with what shows it.
    pub found: Option<Found>,
    /// Why it says nothing, if it does not.
    pub inconclusive: Option<Reason>,
    /// Its worker's share of a core.
    pub share: Option<f64>,
}

impl Show {
    /// What the command line asks for.
    pub fn new(args: &args::Museum) -> Show {
        let everything = || Defect::ALL.iter().map(|&defect| Subject(Some(defect))).chain([Subject(None)]);
        let mut subjects = args.subjects.clone();
        if subjects.is_empty() {
            subjects = everything().collect();
        }
        let mut with = args.with.clone();
        with.sort();
        with.dedup();
        // The core as it is, or this one alone, is another show.
        if !with.is_empty() && args.subjects.is_empty() {
            subjects.retain(|subject| subject.0.is_some_and(|defect| !with.contains(&defect)));
        }
        let mut seen = Vec::new();
        subjects.retain(|subject| !seen.contains(subject) && (seen.push(*subject), true).1);
        let mut baselines = args.baseline.clone();
        baselines.sort();
        baselines.dedup();
        let cores = || thread::available_parallelism().map_or(1, usize::from).min(args::MOST_JOBS as usize);
        let jobs = args.jobs.map_or_else(cores, usize::from);
        Show {
            subjects,
            baselines,
            with,
            number: args.trials,
            budget: args.budget,
            jobs,
            seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) & 0xffff_ffff),
        }
    }

    /// Every trial: the first of each specimen before the second of any, so that whatever
    /// slows the machine down for a while does so for all.
    pub fn trials(&self) -> Vec<Trial> {
        let mut trials = Vec::new();
        for number in 0..self.number {
            for &subject in &self.subjects {
                for &baseline in &self.baselines {
                    let seed = self.seed_of(subject, baseline, number);
                    trials.push(Trial { subject, baseline, number, seed });
                }
            }
        }
        trials
    }

    /// A trial's seed: it depends on nothing but the show's and which trial it is.
    fn seed_of(&self, subject: Subject, baseline: Baseline, number: u32) -> u64 {
        let subject = subject.0.map_or(0, |defect| u64::from(defect.code()));
        [subject, baseline as u64, u64::from(number)].into_iter().fold(self.seed, |hash, part| {
            let mut hash = hash ^ part.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash ^ hash >> 31
        }) & 0xffff_ffff
    }

    /// How a worker is to be run for a trial.
    pub fn plan(&self, trial: &Trial, core: usize) -> Plan {
        // The first one's canary is looked at.
        let defects = trial.subject.0.into_iter().chain(self.with.iter().copied()).collect();
        Plan {
            seed: trial.seed,
            seconds: Some(self.budget),
            random: trial.baseline == Baseline::Random,
            cores: vec![core],
            defects,
            ..Plan::default()
        }
    }
}

impl Ran {
    fn new(trial: Trial, campaign: Campaign) -> Ran {
        let Campaign { totals, seconds, found, mut marks, inconclusive } = campaign;
        let verdict = found.as_ref().map(|found| found.finding.verdict.clone());
        let broken = verdict.as_deref() == Some(Verdict::HarnessError.name());
        if broken {
            marks.detected = None;
        } else if found.is_some() && marks.detected.is_none() {
            // It died without a word: in the run after those it had counted, in which it may
            // have come to the defect for the first time.
            let death = Some(Mark { schedules: totals.counts.schedules + 1, seconds });
            marks.detected = death;
            marks.reached = marks.reached.or(death);
            marks.triggered = marks.triggered.or(death);
        }
        let share = totals.shares.first().copied().flatten();
        Ran { trial, schedules: totals.counts.schedules, marks, verdict, found, inconclusive, share }
    }

    /// Something was found, and the defect's own canary says that there was nothing.
    pub fn is_false_alarm(&self) -> bool {
        self.marks.detected.is_some() && self.marks.triggered.is_none()
    }

    /// The harness failed.
    pub fn is_broken(&self) -> bool {
        self.verdict.is_some() && self.marks.detected.is_none()
    }
}

/// A line of `--json` for each.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    name: &'static str,
    baseline: &'static str,
    number: u32,
    seed: u64,
    schedules: u64,
    verdict: Option<&'a str>,
    reached: [Option<f64>; 2],
    triggered: [Option<f64>; 2],
    detected: [Option<f64>; 2],
    core_share: Option<f64>,
    inconclusive: Option<&'static str>,
}

/// Schedules and seconds.
fn pair(mark: Option<Mark>) -> [Option<f64>; 2] {
    [mark.map(|mark| mark.schedules as f64), mark.map(|mark| mark.seconds)]
}

enum Told {
    Began(usize, Trial),
    Ended(usize, Box<Result<Option<Ran>>>),
}

/// Runs all of them, or as many as there is time for until `stop` is set. One that was broken
/// off says nothing and is left out.
pub fn run(show: &Show, cores: &Cores, stop: &AtomicBool, out: &Out) -> Result<Vec<Ran>> {
    let trials = show.trials();
    let nths = cores.nths();
    let mut display = Trials::new(trials.len() as u64, show.jobs, out);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut all = Vec::new();
    let mut failure = None;
    thread::scope(|scope| {
        for job in 0..show.jobs.min(trials.len()) {
            let (sender, next, trials, core) =
                (sender.clone(), &next, &trials, nths[job % nths.len().max(1)]);
            // A worker is killed when the thread that started it ends: this one waits for it.
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst)
                    && let Some(&trial) = trials.get(next.fetch_add(1, Ordering::SeqCst))
                {
                    // Nobody listens any more only where the other side has panicked.
                    let _ = sender.send(Told::Began(job, trial));
                    let campaign = campaign::run(&show.plan(&trial, core), stop, |_, _| {});
                    let ran = campaign.map(|campaign| {
                        let whole = campaign.found.is_some() || !stop.load(Ordering::SeqCst);
                        whole.then(|| Ran::new(trial, campaign))
                    });
                    let _ = sender.send(Told::Ended(job, Box::new(ran)));
                }
            });
        }
        drop(sender);
        for told in receiver {
            match told {
                Told::Began(job, trial) => {
                    let Trial { subject, baseline, number, .. } = trial;
                    display.began(job, format!("{} {} #{}", subject.name(), baseline.name(), number + 1));
                }
                Told::Ended(job, ran) => match *ran {
                    Ok(Some(ran)) => {
                        display.ended(job, ran.found.is_some());
                        tell(&ran, out);
                        all.push(ran);
                    }
                    Ok(None) => display.ended(job, false),
                    Err(error) => {
                        stop.store(true, Ordering::SeqCst);
                        failure = Some(error);
                    }
                },
            }
        }
    });
    display.end();
    match failure {
        Some(error) => Err(error),
        None => Ok(all),
    }
}

fn tell(ran: &Ran, out: &Out) {
    let Trial { subject, baseline, number, seed } = ran.trial;
    // If nobody listens any more, there are still the files and the exit status.
    let _ = out.object(&Line {
        r#type: "trial",
        name: subject.name(),
        baseline: baseline.name(),
        number,
        seed,
        schedules: ran.schedules,
        verdict: ran.verdict.as_deref(),
        reached: pair(ran.marks.reached),
        triggered: pair(ran.marks.triggered),
        detected: pair(ran.marks.detected),
        core_share: ran.share,
        inconclusive: ran.inconclusive.map(Reason::name),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    pub fn show(arguments: &[&str]) -> Show {
        let cli = args::Cli::parse_from([&["sigstorm", "museum"], arguments].concat());
        let Some(args::Command::Museum(museum)) = cli.command else { panic!("not museum") };
        Show::new(&museum)
    }

    #[test]
    fn every_specimen_has_its_trials_and_every_trial_its_seed() {
        let show = show(&["--trials", "3", "--seed", "7", "--baseline", "random", "--baseline", "hunt"]);
        let trials = show.trials();
        assert_eq!(show.baselines, [Baseline::Hunt, Baseline::Random]);
        assert_eq!(trials.len(), (Defect::ALL.len() + 1) * 2 * 3);
        let mut seeds: Vec<_> = trials.iter().map(|trial| trial.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), trials.len());
        // A part of the museum has the same trials as all of it.
        let part = super::tests::show(&["--trials", "2", "--seed", "7", "--defect", "sigprof-spins"]);
        let same = |trial: &Trial| {
            trials.iter().any(|other| other.seed == trial.seed && other.subject == trial.subject)
        };
        assert!(part.trials().iter().all(same) && part.trials().len() == 2);
    }

    #[test]
    fn what_is_planted_everywhere_is_not_hunted() {
        let show = show(&["--with", "sigprof-spins"]);
        assert_eq!(show.subjects.len(), Defect::ALL.len() - 1);
        let plan = show.plan(&show.trials()[0], 1);
        assert_eq!((plan.defects[1], &plan.cores[..], plan.jobs), (Defect::SigprofSpins, &[1][..], 1));
        assert_ne!(plan.defects[0], Defect::SigprofSpins);
    }

    #[test]
    fn a_death_counts_as_found_and_an_error_of_the_harness_does_not() {
        let show = show(&["--trials", "1"]);
        let ran = |verdict: Verdict| {
            let finding = super::super::super::death::finding(verdict, String::new(), Vec::new());
            let found = Some(Found { finding, bytes: Vec::new() });
            let (totals, marks) = (Default::default(), Marks::default());
            Ran::new(show.trials()[0], Campaign { totals, seconds: 2.0, found, marks, inconclusive: None })
        };
        let death = ran(Verdict::Fault);
        assert_eq!(death.marks.detected, Some(Mark { schedules: 1, seconds: 2.0 }));
        assert!(!death.is_false_alarm() && !death.is_broken());
        let broken = ran(Verdict::HarnessError);
        assert!(broken.is_broken() && broken.marks.detected.is_none());
    }
}
