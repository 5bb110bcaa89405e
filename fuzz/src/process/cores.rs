//! Which cores workers run on.
//!
//! A controlled worker keeps its core busy, and two on one core starve each other: each schedule
//! waits at every hand-over for the other's turn. So a command takes for its workers the idlest of
//! the cores that it may use, by what `/proc/stat` counts in a moment, and no core that another
//! command has taken while there are others.
//!
//! That a core is taken is said by a socket bound to a name in Linux's abstract namespace,
//! `sigstorm-core/N/LEVEL`. Two commands that start at the same moment cannot bind the same name,
//! whatever they measured; the kernel takes the name away however its owner ends; there is no file
//! that stays behind, or that another user could not open. Levels count the workers that share a
//! core: no core has its second before all have their first. It is advice among friends: where
//! a socket is refused, cores are chosen by how busy they are.
//!
//! Cores are counted among those of the affinity mask that the process inherited, as
//! [`sigstorm_inject::pin`] counts them: workers inherit the same.

use crate::report::words::counted;
use anyhow::{Context, Result};
use sigstorm_inject::allowed_cores;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

/// Sets commands apart that shall know nothing of others, as tests do.
pub const VARIABLE: &str = "SIGSTORM_CORES";
/// How long cores are looked at. The kernel counts in hundredths of a second.
const LOOK: Duration = Duration::from_millis(150);
/// Beyond so many workers on a core they are not told apart.
const MOST_LEVELS: usize = 64;
/// A core that is this busy with other work is worth a word.
const BUSY: f64 = 0.25;

/// A core for one worker.
#[derive(Debug)]
pub struct Taken {
    /// Which of the allowed cores.
    pub nth: usize,
    /// Its number.
    pub core: usize,
    /// How busy it was.
    busy: f64,
    /// How many workers were there first.
    level: usize,
    /// The name is held as long as this lives.
    _lease: Option<UnixDatagram>,
}

/// The cores of a command's workers. They are taken as long as this lives.
#[derive(Debug, Default)]
pub struct Cores {
    taken: Vec<Taken>,
    /// How many there are to choose from.
    allowed: usize,
}

impl Cores {
    /// Takes a core for each of so many workers.
    ///
    /// # Errors
    ///
    /// Where the affinity mask cannot be read.
    pub fn take(jobs: usize) -> Result<Cores> {
        let allowed = allowed_cores().context("cannot read the affinity mask")?;
        let before = ticks();
        thread::sleep(LOOK);
        let after = ticks();
        let busy: Vec<f64> = allowed.iter().map(|core| share_of_work(&before, &after, *core)).collect();
        let realm = std::env::var(VARIABLE).unwrap_or_default();
        Ok(Cores::choose(&realm, jobs, &allowed, &busy))
    }

    /// Takes the idlest cores that no command has, then those that fewest have.
    fn choose(realm: &str, jobs: usize, allowed: &[usize], busy: &[f64]) -> Cores {
        let mut order: Vec<usize> = (0..allowed.len()).collect();
        order.sort_by(|&a, &b| busy[a].total_cmp(&busy[b]));
        let mut taken = Vec::new();
        for level in 0.. {
            for &nth in &order {
                if taken.len() == jobs {
                    return Cores { taken, allowed: allowed.len() };
                }
                let core = allowed[nth];
                let lease = match bind(realm, core, level) {
                    Ok(lease) => Some(lease),
                    // Taken. Beyond some level they are not counted any more.
                    Err(ErrorKind::AddrInUse) if level < MOST_LEVELS => continue,
                    Err(_) => None,
                };
                taken.push(Taken { nth, core, busy: busy[nth], level, _lease: lease });
            }
        }
        unreachable!("levels have no end")
    }

    /// Each worker's core, counted among the allowed ones.
    pub fn nths(&self) -> Vec<usize> {
        self.taken.iter().map(|taken| taken.nth).collect()
    }

    /// Each worker's core, by its number.
    pub fn numbers(&self) -> Vec<usize> {
        self.taken.iter().map(|taken| taken.core).collect()
    }

    /// Warnings about them, to be said before anything is run.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let jobs = self.taken.len();
        if jobs > self.allowed {
            let cores = counted(self.allowed, "core");
            warnings.push(format!(
                "{jobs} workers on {cores} starve each other: each has at most {} % of one, and waits at every hand-over",
                100 * self.allowed / jobs
            ));
        }
        let mut others = BTreeMap::new();
        for taken in &self.taken {
            let here = self.taken.iter().filter(|other| other.core == taken.core).count();
            let busy = format!("{:.0} % busy", 100.0 * taken.busy);
            // With workers of ours there, levels count those, too.
            if taken.level >= here {
                others.insert(
                    taken.core,
                    format!("core {} has another sigstorm worker, and was {busy}", taken.core),
                );
            } else if taken.busy >= BUSY {
                others.insert(taken.core, format!("core {} was {busy} with other work", taken.core));
            }
        }
        warnings.extend(others.into_values());
        warnings
    }
}

/// Binds the name of a core's level.
fn bind(realm: &str, core: usize, level: usize) -> std::result::Result<UnixDatagram, ErrorKind> {
    let name = format!("sigstorm-core{realm}/{core}/{level}");
    SocketAddr::from_abstract_name(name)
        .and_then(|address| UnixDatagram::bind_addr(&address))
        .map_err(|error| error.kind())
}

/// For each core, ticks at work and all of them.
fn ticks() -> BTreeMap<usize, (u64, u64)> {
    fs::read_to_string("/proc/stat").map_or_else(|_| BTreeMap::new(), |stat| parse(&stat))
}

fn parse(stat: &str) -> BTreeMap<usize, (u64, u64)> {
    let line = |line: &str| {
        let mut words = line.strip_prefix("cpu")?.split_whitespace();
        let core = words.next()?.parse().ok()?;
        // user nice system idle iowait irq softirq steal; what follows is in user already.
        let ticks: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
        let all: u64 = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Some((core, (all - idle, all)))
    };
    // The first line is the sum of all; it has no number.
    stat.lines().filter(|line| !line.starts_with("cpu ")).filter_map(line).collect()
}

/// The share of the time between two looks that a core was at work; zero where nothing is known.
fn share_of_work(
    before: &BTreeMap<usize, (u64, u64)>,
    after: &BTreeMap<usize, (u64, u64)>,
    core: usize,
) -> f64 {
    let (Some(before), Some(after)) = (before.get(&core), after.get(&core)) else { return 0.0 };
    let (work, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    if all == 0 { 0.0 } else { (work as f64 / all as f64).min(1.0) }
}

/// Shares of a core in words: "98, 34 % of a core".
pub fn in_words(shares: &[Option<f64>]) -> String {
    let each: Vec<String> = shares
        .iter()
        .map(|share| share.map_or("?".into(), |share| format!("{:.0}", 100.0 * share)))
        .collect();
    format!("{} % of a core", each.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(test: &str) -> String {
        format!("-{test}-{}", std::process::id())
    }

    #[test]
    fn the_idlest_cores_are_taken_first() {
        let realm = realm("idlest");
        let cores = Cores::choose(&realm, 2, &[4, 5, 7], &[0.9, 0.1, 0.0]);
        assert_eq!((cores.numbers(), cores.nths()), (vec![7, 5], vec![2, 1]));
        assert_eq!(cores.warnings(), [""; 0]);
    }

    #[test]
    fn commands_at_the_same_moment_take_different_cores() {
        let realm = realm("moment");
        let choose = || Cores::choose(&realm, 1, &[0, 1], &[0.0, 0.0]);
        let (first, second, third) = (choose(), choose(), choose());
        assert_eq!((first.numbers(), second.numbers()), (vec![0], vec![1]));
        // There is no third, so one is shared, and that is said.
        assert_eq!(third.numbers(), [0]);
        assert!(first.warnings().is_empty() && second.warnings().is_empty());
        assert!(third.warnings()[0].contains("another sigstorm worker"), "{:?}", third.warnings());
        // A busy core is still better than one that is taken.
        drop(second);
        assert_eq!(Cores::choose(&realm, 1, &[0, 1], &[0.0, 1.0]).numbers(), [1]);
    }

    #[test]
    fn a_core_is_free_again_when_its_command_ends() {
        let realm = realm("end");
        drop(Cores::choose(&realm, 3, &[0], &[0.0]));
        let again = Cores::choose(&realm, 1, &[0], &[0.5]);
        assert_eq!((again.numbers(), again.taken[0].level), (vec![0], 0));
        assert!(again.warnings()[0].contains("50 % busy with other work"), "{:?}", again.warnings());
    }

    #[test]
    fn more_workers_than_cores_are_spread_and_warned_of() {
        let realm = realm("spread");
        let cores = Cores::choose(&realm, 5, &[0, 1], &[0.2, 0.1]);
        assert_eq!(cores.numbers(), [1, 0, 1, 0, 1]);
        let warnings = cores.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("5 workers on 2 cores"), "{warnings:?}");
        assert!(warnings[0].contains("at most 40 %"), "{warnings:?}");
    }

    #[test]
    fn ticks_of_the_kernel_are_parsed() {
        let before = parse("cpu  1 2 3 4\ncpu0 10 0 10 70 10 0 0 0 0 0\ncpu11 0 0 0 0 0 0 0 0\nintr 5\n");
        assert_eq!(before.get(&0), Some(&(20, 100)));
        let after = parse("cpu0 40 0 10 120 20 5 5 0 9 9\ncpu11 0 0 0 0 0 0 0 0\n");
        assert_eq!(share_of_work(&before, &after, 0), 0.4);
        assert_eq!((share_of_work(&before, &after, 11), share_of_work(&before, &after, 3)), (0.0, 0.0));
        assert!(!ticks().is_empty(), "this machine's");
    }

    #[test]
    fn shares_of_a_core_are_put_in_words() {
        assert_eq!(in_words(&[Some(0.984), None, Some(0.034)]), "98, ?, 3 % of a core");
    }
}
