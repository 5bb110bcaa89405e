//! A handler that does not return: does it wait for what will never come, or run in circles?
//!
//! Time alone proves nothing: a handler may be slow, the machine may be busy. So a look is taken when a handler
//! takes long, and what it shows decides.
//!
//! - *Deadlock, certain*: the handler's thread waits without a time limit for a lock, and the lock's owner is
//!   itself, or waits in turn for what this thread holds (the ring is closed); or every thread of the process
//!   waits without a limit for what only this process can give.
//! - *Deadlock, likely*: the handler's thread has waited for the same word for [`LIKELY`], and nobody can say who
//!   owns it. A fresh process may prove it: see [`Target::watch`](super::session::Target::watch).
//! - *Livelock, certain*: after [`SPIN_NS`] of processor time in the handler, and again after twice and four times
//!   as much, the thread comes back to an instruction with every register as before.
//! - *Livelock, likely*: [`LONG_SPIN_NS`] of processor time, without such a repetition.
//!
//! A handler that waits in another system call (`read`) is not judged: somebody outside may end that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use sigstorm_inject::remote::Error;

use super::finding::{Found, Kind, Lock};
use super::flight::Flight;
use super::look::{self, Look};
use super::session::Session;

/// A handler that takes longer than this is looked at.
const LONG: Duration = Duration::from_millis(40);
/// Between two looks.
const BETWEEN: Duration = Duration::from_millis(20);
/// Looks that must show the same before threads are taken to be standing still.
const SAME: u32 = 3;
/// A wait of this length, the owner unknown, is a likely deadlock.
const LIKELY: Duration = Duration::from_secs(2);
/// The processor time in a handler after which its steps are looked at.
const SPIN_NS: u64 = 300_000_000;
/// Looks that must see it go in circles: a lock's owner that runs has had its time by then.
const CIRCLES: u32 = 3;
/// Other handlers that are tried where the one that was judged does not show its finding again.
const MOST_OTHERS: usize = 4;
/// The processor time in a handler that is a likely livelock.
const LONG_SPIN_NS: u64 = 10_000_000_000;
/// Instructions that are stepped to see a repetition, or a release.
pub(super) const MOST_STEPS: u32 = 20_000;
/// Times that the same registers must come again.
const REPETITIONS: u32 = 4;

/// Observations of handlers that take long.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Option<Instant>,
    looks: Vec<Look>,
    same: u32,
    /// Since when a thread has waited for the same word.
    waiting: HashMap<i32, (u64, u64, Instant)>,
    /// Threads whose steps were looked at: their processor time then, and how often they went in circles.
    stepped: HashMap<i32, (u64, u32)>,
}

impl Watch {
    /// A handler of this thread has returned.
    pub(super) fn forget(&mut self, tid: i32) {
        self.waiting.remove(&tid);
        self.stepped.remove(&tid);
        self.same = 0;
    }
}

/// Why a handler is taken to be stuck.
#[derive(Debug, PartialEq, Eq)]
enum Why {
    Ring(Vec<i32>),
    NobodyMoves,
    Long,
}

impl Session<'_> {
    /// Looks at handlers that take long.
    pub(super) fn watch_handlers(&mut self, now: Instant) -> Result<(), Error> {
        self.judge_lost();
        let is_long = |flight: &Flight| flight.entered.is_some_and(|entered| now - entered > LONG);
        let long: Vec<i32> = self
            .flights
            .iter()
            .filter(|(_, flights)| flights.iter().any(is_long))
            .map(|(tid, _)| *tid)
            .collect();
        // A wait for a thread that is held here is no evidence.
        if long.is_empty() || self.hold.is_some() || self.watch.last.is_some_and(|last| now - last < BETWEEN)
        {
            return Ok(());
        }
        self.watch.last = Some(now);
        let pid = self.tracer.process_of(long[0]).unwrap_or_else(|| self.tracer.pid());
        let looks = look::threads(pid);
        self.watch.same = if looks == self.watch.looks { self.watch.same + 1 } else { 0 };
        self.watch.looks.clone_from(&looks);
        let waits = untimed_waits(&looks);
        let owners: BTreeMap<i32, i32> = waits
            .iter()
            .filter_map(|(tid, address)| Some((*tid, self.owner(pid, *address, &looks)?)))
            .collect();
        for tid in long {
            let Some(look) = looks.iter().find(|look| look.tid == tid) else { continue };
            match waits.get(&tid) {
                Some(address) => {
                    let since = self.watch.waiting.entry(tid).or_insert((*address, look.slices, now));
                    if (since.0, since.1) != (*address, look.slices) {
                        *since = (*address, look.slices, now);
                    }
                    let since = since.2;
                    let why = if now - since < BETWEEN * SAME {
                        None
                    } else if let Some(ring) = ring(tid, &owners) {
                        Some(Why::Ring(ring))
                    } else if self.watch.same >= SAME && nobody_moves(&looks) {
                        Some(Why::NobodyMoves)
                    } else if now - since >= LIKELY && !ends_in_a_mover(tid, &owners, &waits) {
                        Some(Why::Long)
                    } else {
                        None
                    };
                    if let Some(why) = why {
                        return self.deadlocked(pid, tid, *address, &looks, &owners, &why);
                    }
                }
                None => {
                    if self.is_spinning(pid, tid, look)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The thread that holds a pthread mutex with this word: glibc keeps its number two words on.
    fn owner(&self, pid: i32, address: u64, looks: &[Look]) -> Option<i32> {
        let mut bytes = [0; 12];
        self.tracer.read(pid, address, &mut bytes).ok()?;
        let word = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let owner = word(8);
        (word(0) != 0 && looks.iter().any(|look| look.tid == owner)).then_some(owner)
    }

    fn deadlocked(
        &mut self,
        pid: i32,
        tid: i32,
        address: u64,
        looks: &[Look],
        owners: &BTreeMap<i32, i32>,
        why: &Why,
    ) -> Result<(), Error> {
        let stacks = self.stacks(pid)?;
        let waiter = stacks.of.get(&tid).cloned().unwrap_or_default();
        let lock = self.lock_at(pid, address, &waiter);
        let handler = self.handler_name();
        let mut evidence = Vec::new();
        let name = |tid: i32| {
            let name = looks.iter().find(|look| look.tid == tid).map_or("", |look| &look.name);
            format!("thread {tid} ({name})")
        };
        evidence.push(format!("{} is in {handler} and waits for {}", name(tid), lock.name));
        match why {
            Why::Ring(ring) if ring.len() == 1 => {
                evidence.push(format!(
                    "which the same thread holds: it was interrupted at {}",
                    self.interrupted(tid)
                ));
            }
            Why::Ring(ring) => {
                for (number, &holder) in ring[1..].iter().enumerate() {
                    let waited = untimed_waits(looks).get(&holder).copied();
                    let lock =
                        waited.map_or_else(String::new, |address| self.lock_at(pid, address, &[]).name);
                    let back = if number + 2 == ring.len() { ": the ring is closed" } else { "" };
                    evidence.push(format!(
                        "which {} holds, who waits for {lock}, which {} holds{back}",
                        name(holder),
                        name(owners.get(&holder).copied().unwrap_or(0)),
                    ));
                }
            }
            Why::NobodyMoves => evidence.push(format!(
                "no thread can move: all {} wait without a time limit for what only this process can give",
                looks.len()
            )),
            Why::Long => {
                evidence.push(format!(
                    "it has waited for {} s, and who holds the lock is not known",
                    LIKELY.as_secs()
                ));
            }
        }
        let blamed = self.point_of(tid);
        if let Some((point, _)) = blamed
            && !matches!(why, Why::Ring(ring) if ring.len() == 1)
        {
            evidence.push(format!("the signal came at {}", self.kit.points.describe(point)));
        }
        let ring = matches!(why, Why::Ring(ring) if ring.len() > 1);
        self.end_with(Found {
            kind: Kind::Deadlock,
            summary: format!("{handler} waits for {}{}", lock.name, if ring { ", in a ring" } else { "" }),
            evidence,
            stacks: stacks.lines,
            site: blamed.map(|(point, visit)| self.site(point, visit)),
            place: lock.key,
            lock: Some(address),
            thread: tid,
            certain: *why != Why::Long,
            log: Vec::new(),
            others: Vec::new(),
        });
        Ok(())
    }

    /// Judges a handler that runs. Returns whether it was found to run in circles.
    fn is_spinning(&mut self, pid: i32, tid: i32, look: &Look) -> Result<bool, Error> {
        let Some(flight) = self.flights.get_mut(&tid).and_then(|flights| flights.last_mut()) else {
            return Ok(false);
        };
        let run = look.run_ns.saturating_sub(*flight.run_ns.get_or_insert(look.run_ns));

        let (before, circles) = self.watch.stepped.get(&tid).copied().unwrap_or_default();
        if look.state != 'R' || run < SPIN_NS || run < 2 * before {
            return Ok(false);
        }
        let stacks = self.stacks(pid)?;
        let circle = self.repeats(tid)?;
        // A look in vain, such as one that a signal cut short, takes nothing back.
        let circles = circles + u32::from(circle.is_some());
        self.watch.stepped.insert(tid, (run, circles));
        if circles < CIRCLES && run < LONG_SPIN_NS {
            // A thread whose event is still to be looked at goes on then.
            let busy: BTreeSet<i32> = self.postponed.iter().filter_map(|event| event.held()).collect();
            let threads = self.tracer.threads(pid).into_iter().filter(|tid| !busy.contains(tid));
            threads.collect::<Vec<_>>().into_iter().try_for_each(|tid| self.go(tid))?;
            return Ok(false);
        }
        let handler = self.handler_name();
        let stack = stacks.of.get(&tid).cloned().unwrap_or_default();
        let place = stack
            .first()
            .map_or_else(|| "unknown code".to_owned(), |frame| super::evidence::bare(frame).into());
        let mut evidence =
            vec![format!("thread {tid} ({}) has run for {:.1} s in {handler}", look.name, run as f64 / 1e9)];
        evidence.push(match circle {
            Some(length) => format!(
                "it comes back to the same instruction with every register as before, every {length} instructions"
            ),
            None => "it may be slow rather than stuck: no repetition was seen".into(),
        });
        evidence.push(format!("it was interrupted at {}", self.interrupted(tid)));
        self.end_with(Found {
            kind: Kind::Livelock,
            summary: format!("{handler} does not return: it goes round in {place}"),
            evidence,
            stacks: stacks.lines,
            site: self.point_of(tid).map(|(point, visit)| self.site(point, visit)),
            place,
            lock: None,
            thread: tid,
            certain: circle.is_some(),
            log: Vec::new(),
            others: Vec::new(),
        });
        Ok(true)
    }

    /// The length of the circle in which a held thread runs while the others are held.
    fn repeats(&mut self, tid: i32) -> Result<Option<u32>, Error> {
        let mut seen: HashMap<Vec<u64>, (u32, u32)> = HashMap::new();
        for step in 0..MOST_STEPS {
            let Ok(regs) = self.tracer.registers(tid) else { return Ok(None) };
            let r = regs.0;
            let key = vec![
                r.rip, r.rsp, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11,
                r.r12, r.r13, r.r14, r.r15,
            ];
            let entry = seen.entry(key).or_insert((0, step));
            entry.0 += 1;
            if entry.0 > REPETITIONS {
                return Ok(Some(step.saturating_sub(entry.1).max(1)));
            }
            entry.1 = step;
            if !self.step_alone(tid)? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The boundary and the visit that a thread's handlers come of.
    fn point_of(&self, tid: i32) -> Option<(usize, u32)> {
        let flights = self.flights.get(&tid).into_iter().flatten();
        flights.rev().find_map(|flight| flight.point).or_else(|| self.log.last().copied())
    }

    /// Ends the process with a finding.
    pub(super) fn end_with(&mut self, found: Found) {
        self.is_over = true;
        let others = self.flights.iter().filter(|(tid, _)| **tid != found.thread);
        let points = others.filter_map(|(_, flights)| flights.iter().find_map(|flight| flight.point));
        let others = points.take(MOST_OTHERS).map(|(point, visit)| self.site(point, visit)).collect();
        self.found.push(Found { log: self.served_before(), others, ..found });
    }
}

/// The words for which threads wait without a time limit.
fn untimed_waits(looks: &[Look]) -> BTreeMap<i32, u64> {
    let wait = |look: &Look| {
        let futex = look.call?.futex()?;
        (look.state != 'R' && !futex.timed).then_some((look.tid, futex.address))
    };
    looks.iter().filter_map(wait).collect()
}

/// The ring of owners that begins and ends with a thread.
fn ring(tid: i32, owners: &BTreeMap<i32, i32>) -> Option<Vec<i32>> {
    let mut ring = vec![tid];
    let mut seen = BTreeSet::from([tid]);
    let mut at = tid;
    loop {
        at = *owners.get(&at)?;
        if at == tid {
            return Some(ring);
        }
        if !seen.insert(at) {
            // A ring of others, which this one waits for.
            return None;
        }
        ring.push(at);
    }
}

/// Returns whether the lock's owner, or the owner of what that one waits for, is known and can move.
fn ends_in_a_mover(tid: i32, owners: &BTreeMap<i32, i32>, waits: &BTreeMap<i32, u64>) -> bool {
    let mut at = tid;
    for _ in 0..owners.len() {
        match owners.get(&at) {
            Some(owner) if !waits.contains_key(owner) => return true,
            Some(owner) => at = *owner,
            None => return false,
        }
    }
    false
}

/// Returns whether every thread waits without a time limit for what only this process can give.
fn nobody_moves(looks: &[Look]) -> bool {
    let stands = |look: &&Look| look.state != 'Z' && look.state != 'X';
    let mut living = looks.iter().filter(stands).peekable();
    living.peek().is_some()
        && living.all(|look| {
            let futex = look.call.and_then(|call| call.futex());
            look.state == 'S' && futex.is_some_and(|futex| !futex.timed && futex.private)
        })
}

/// Names a lock by what is known of it.
pub(super) fn lock(address: u64, symbol: Option<String>, is_arena: bool, place: Option<String>) -> Lock {
    let (name, key) = match (symbol, is_arena, place) {
        (Some(symbol), ..) => (format!("the lock in `{symbol}`"), symbol),
        (None, true, _) => {
            (format!("the lock of a thread's malloc arena (at {address:#x})"), "a malloc arena".into())
        }
        (None, false, Some(place)) => (format!("the lock at {address:#x} in {place}"), place),
        (None, false, None) => (format!("the lock at {address:#x}"), "a lock".into()),
    };
    Lock { address, name, key }
}

#[cfg(test)]
mod tests {
    use super::super::look::Call;
    use super::*;

    fn waiting(tid: i32, address: u64, timeout: u64, op: u64) -> Look {
        let call = Some(Call { number: libc::SYS_futex, args: [address, op, 2, timeout, 0, 0] });
        Look { tid, name: "x".into(), state: 'S', run_ns: 1, slices: 1, call }
    }

    #[test]
    fn rings_of_owners_are_found_and_chains_are_none() {
        let owners = |pairs: &[(i32, i32)]| pairs.iter().copied().collect::<BTreeMap<i32, i32>>();
        assert_eq!(ring(1, &owners(&[(1, 1)])), Some(vec![1]));
        assert_eq!(ring(1, &owners(&[(1, 2), (2, 1)])), Some(vec![1, 2]));
        assert_eq!(ring(1, &owners(&[(1, 2), (2, 3)])), None);
        assert_eq!(ring(1, &owners(&[(1, 2), (2, 3), (3, 2)])), None, "a ring of others");
        assert_eq!(ring(1, &owners(&[])), None);
        let waits = |tids: &[i32]| tids.iter().map(|tid| (*tid, 8)).collect::<BTreeMap<i32, u64>>();
        assert!(ends_in_a_mover(1, &owners(&[(1, 2)]), &waits(&[1])), "the owner sleeps, or runs");
        assert!(ends_in_a_mover(1, &owners(&[(1, 2), (2, 3)]), &waits(&[1, 2])));
        assert!(!ends_in_a_mover(1, &owners(&[(1, 2), (2, 3)]), &waits(&[1, 2, 3])));
        assert!(!ends_in_a_mover(1, &owners(&[]), &waits(&[1])), "nobody knows");
    }

    #[test]
    fn threads_that_can_move_make_no_deadlock() {
        let stuck = [waiting(1, 8, 0, 128), waiting(2, 16, 0, 128)];
        assert!(nobody_moves(&stuck));
        let with = |look: Look| nobody_moves(&[stuck[0].clone(), look]);
        assert!(!with(waiting(2, 16, 0x7f00, 128)), "a time limit");
        assert!(!with(waiting(2, 16, 0, 0)), "another process may wake it");
        assert!(!with(Look { call: None, state: 'R', ..stuck[1].clone() }), "it runs");
        let read = Some(Call { number: libc::SYS_read, args: [0; 6] });
        assert!(!with(Look { call: read, ..stuck[1].clone() }), "it reads");
        assert!(with(Look { call: None, state: 'Z', ..stuck[1].clone() }), "it has ended");
        assert!(!nobody_moves(&[]));
        assert_eq!(untimed_waits(&stuck), BTreeMap::from([(1, 8), (2, 16)]));
    }
}
