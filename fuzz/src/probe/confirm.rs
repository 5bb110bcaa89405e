//! A finding is tried again in fresh processes, and what was likely is proven, where it can be.
//!
//! 1. Ten processes, each with the one injection that the finding is blamed on.
//! 2. If none shows it again, ten more for each other handler that had not returned: the one that was judged may have
//!    waited for that. Else the injections before it may have done it: the log of its process is replayed, and
//!    halved as long as a half shows it.
//! 3. A likely deadlock is proven where, without the signal, the interrupted thread itself releases the lock.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use sigstorm_inject::remote::Error;

use super::Expected;
use super::campaign::Campaign;
use super::finding::{Found, Kind, Site};
use super::session::{Outcome, Round, Target, Task};

/// Fresh processes that try a finding.
pub const TRIALS: u32 = 10;
/// Processes that try to prove the owner of a lock.
const PROOFS: usize = 3;
/// Halvings of a log.
const MOST_HALVINGS: u32 = 12;

/// Tries a group's first finding again.
///
/// # Errors
///
/// If no process can be started any more.
pub(super) fn confirm(campaign: &mut Campaign<'_>, number: usize) -> Result<(), Error> {
    let found = campaign.probed.groups[number].first.clone();
    let Some(site) = &found.site else { return Ok(()) };
    let to_end = goes_to_its_end(found.kind, &campaign.probed.expected);
    let target = Target::of(site, to_end);
    // A finding is worth more than the time: confirmations may take as long as a fifth of it beyond.
    let deadline = campaign.deadline;
    campaign.deadline = deadline + Duration::from_secs(campaign.plan.seconds / 5 + 5);
    let result = tried(campaign, number, &found, &target);
    campaign.deadline = deadline;
    result
}

fn tried(campaign: &mut Campaign<'_>, number: usize, found: &Found, target: &Target) -> Result<(), Error> {
    let mut target = target.clone();
    let (mut reproduced, tried) = try_alone(campaign, found, &target)?;
    let group = &mut campaign.probed.groups[number];
    (group.reproduced, group.tried) = (reproduced, tried);
    if tried > 0 {
        // The handler that was judged may have waited for another one that had not returned either.
        for other in &found.others {
            if reproduced > 0 {
                break;
            }
            let others = Target::of(other, target.to_end);
            let (shown, of) = try_alone(campaign, found, &others)?;
            if shown > 0 {
                let group = &mut campaign.probed.groups[number];
                (group.reproduced, group.tried) = (shown, of);
                group.notes.push(
                    "another handler had not returned either, and the signal at its boundary alone shows it"
                        .into(),
                );
                group.sites.insert(0, other.clone());
                group.first.site = Some(other.clone());
                (reproduced, target) = (shown, others);
            }
        }
    }
    if reproduced == 0 && tried > 0 && found.log.len() > 1 && found.kind != Kind::State {
        halve(campaign, number, found)?;
    }
    if found.kind == Kind::Deadlock && !found.certain {
        prove(campaign, number, found, &target)?;
    }
    Ok(())
}

/// Tries one injection in fresh processes. Returns how many showed the finding again, and of how many.
fn try_alone(campaign: &mut Campaign<'_>, found: &Found, target: &Target) -> Result<(u32, u32), Error> {
    let targets: VecDeque<Target> = std::iter::repeat_n(target.clone(), TRIALS as usize).collect();
    let outcomes = campaign.each_in_a_process(targets)?;
    campaign.probed.totals.confirming += outcomes.len() as u64;
    let shown = |outcome: &&Outcome| outcome.found.iter().any(|again| is_same(again, found));
    Ok((outcomes.iter().filter(shown).count() as u32, outcomes.len() as u32))
}

/// Returns whether a process shows a finding again: where it crashes or waits may differ, but not the state that a
/// handler changes.
fn is_same(again: &Found, found: &Found) -> bool {
    again.kind == found.kind && (found.kind != Kind::State || again.place == found.place)
}

/// Returns whether a process that tries a finding of this kind must be let go on: its end tells.
pub(super) fn goes_to_its_end(kind: Kind, expected: &Expected) -> bool {
    matches!(kind, Kind::Exit | Kind::Crash) && expected.code().is_some()
}

/// Replays the injections of a finding's process, and halves them as long as a half shows it.
fn halve(campaign: &mut Campaign<'_>, number: usize, found: &Found) -> Result<(), Error> {
    let mut sites = found.log.clone();
    if shows(campaign, found, &sites, 2)?.reproduced == 0 {
        return Ok(());
    }
    for _ in 0..MOST_HALVINGS {
        if sites.len() < 2 {
            break;
        }
        let (first, second) = sites.split_at(sites.len() / 2);
        let (first, second) = (first.to_vec(), second.to_vec());
        if shows(campaign, found, &second, 2)?.reproduced > 0 {
            sites = second;
        } else if shows(campaign, found, &first, 2)?.reproduced > 0 {
            sites = first;
        } else {
            break;
        }
    }
    let shown = shows(campaign, found, &sites, TRIALS as usize)?;
    if shown.tried == 0 {
        // Time is up; that a half showed it once is all that is known.
        return Ok(());
    }
    let group = &mut campaign.probed.groups[number];
    (group.reproduced, group.tried) = (shown.reproduced, shown.tried);
    let before = found.log.len();
    if let (1, Some(site)) = (sites.len(), shown.site) {
        group.notes.push(format!("signals came at {before} boundaries before; this one alone shows it"));
        group.sites.insert(0, site.clone());
        group.first.site = Some(site);
    } else {
        group.notes.push(format!(
            "the last boundary alone does not show it: {} of the {before} before it do, together",
            sites.len()
        ));
    }
    Ok(())
}

/// The processes that served some boundaries alone.
#[derive(Debug)]
struct Shown {
    /// The processes that showed the finding.
    reproduced: u32,
    /// All.
    tried: u32,
    /// The boundary that one of them blamed.
    site: Option<Site>,
}

/// Serves these boundaries alone, in so many processes.
fn shows(
    campaign: &mut Campaign<'_>,
    found: &Found,
    sites: &[(PathBuf, u64)],
    times: usize,
) -> Result<Shown, Error> {
    let only: BTreeSet<(PathBuf, u64)> = sites.iter().cloned().collect();
    let task = move || Task::InPlace(Round { only: Some(only.clone()), visits: 1, ..Round::default() });
    let tasks: VecDeque<_> = std::iter::repeat_n(task, times).collect();
    let outcomes = campaign.each_task_in_a_process(tasks, Duration::from_secs(20))?;
    campaign.probed.totals.confirming += outcomes.len() as u64;
    let again = |outcome: &Outcome| outcome.found.iter().find(|again| is_same(again, found)).cloned();
    let shown: Vec<Found> = outcomes.iter().filter_map(again).collect();
    Ok(Shown {
        reproduced: shown.len() as u32,
        tried: outcomes.len() as u32,
        site: shown.into_iter().find_map(|again| again.site),
    })
}

/// Without the signal, does the interrupted thread itself release the lock?
fn prove(campaign: &mut Campaign<'_>, number: usize, found: &Found, target: &Target) -> Result<(), Error> {
    let Some(word) = found.lock else { return Ok(()) };
    let watching = Target { watch: Some(word), ..target.clone() };
    let outcomes = campaign.each_in_a_process(std::iter::repeat_n(watching, PROOFS).collect())?;
    campaign.probed.totals.confirming += outcomes.len() as u64;
    if outcomes.iter().any(|outcome| outcome.released) {
        let group = &mut campaign.probed.groups[number];
        group.first.certain = true;
        group.first.evidence.push(
            "in a fresh process without the signal the interrupted thread itself releases this lock: it was the owner"
                .into(),
        );
    }
    Ok(())
}
