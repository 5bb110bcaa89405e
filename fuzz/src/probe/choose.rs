//! The start of the program, and which functions of it are attacked.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, Instant};

use sigstorm_inject::remote::symbols::{FunctionId, Pattern, Symbols, Unmatched};
use sigstorm_inject::remote::{Error, Event, Launch, Lifetime, Stream, Tracer, Waited};

use super::defaults;
use super::kit::Kit;
use super::plan::ProbePlan;
use super::points::Points;
use super::session::{Round, Session, TICK, Task, UNRETURNED};

/// The functions by which programs change a signal's handler.
const SENTINELS: &str = "{__libc_sigaction,__sigaction,sigaction,runtime.rt_sigaction}";

/// Starts the program.
///
/// # Errors
///
/// If it cannot be started, or the kernel refuses to trace it.
pub(super) fn launch(plan: &ProbePlan) -> Result<(Tracer, File), Error> {
    let start = |source| Error::Start { program: plan.program.to_string_lossy().into_owned(), source };
    let output = tempfile::tempfile().map_err(start)?;
    let stream = || -> Result<Stream, Error> { Ok(Stream::File(output.try_clone().map_err(start)?.into())) };
    let launch = Launch::new(&plan.program)
        .args(&plan.args)
        .stdin(Stream::Null)
        .stdout(stream()?)
        .stderr(stream()?)
        .follow(plan.follow);
    Ok((Tracer::spawn(&launch)?, output))
}

/// Starts the program, and reads its objects once the loader has mapped them.
///
/// # Errors
///
/// If it cannot be started or traced.
pub fn map(plan: &ProbePlan, kit: &mut Kit) -> Result<(), Error> {
    let (mut tracer, _) = launch(plan)?;
    let pid = tracer.pid();
    // At the program's own entry its libraries are mapped.
    let refresh = |kit: &mut Kit| kit.symbols.refresh(pid).unwrap_or(false);
    refresh(kit);
    let entry = kit.symbols.objects().iter().find(|mapped| mapped.is_program).and_then(|mapped| {
        let entry = mapped.object.entry();
        (entry != 0).then(|| entry.wrapping_add(mapped.bias))
    });
    let Some(entry) = entry else { return Ok(()) };
    tracer.lay(pid, [entry], Lifetime::OneShot)?;
    tracer.resume(pid)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        match tracer.next_event(Some(TICK))? {
            Waited::Event(Event::Breakpoint { .. }) => break,
            Waited::Event(event) => match event.held() {
                Some(tid) => tracer.resume(tid)?,
                None => continue,
            },
            Waited::TimedOut => {}
            Waited::AllHeld | Waited::Ended => break,
        }
    }
    refresh(kit);
    Ok(())
}

impl Session<'_> {
    /// Lays breakpoints at the entries of functions that change what the process does with a signal.
    pub(super) fn lay_sentinels(&mut self) -> Result<(), Error> {
        let functions = self.kit.named(SENTINELS);
        let symbols = &self.kit.symbols;
        self.sentinels = functions.into_iter().filter_map(|id| symbols.address(id)).collect();
        // One that is a boundary, too, is met there as often as it is served.
        let alone: Vec<u64> =
            self.sentinels.iter().copied().filter(|entry| !self.at.contains_key(entry)).collect();
        if alone.len() < self.sentinels.len() {
            // A boundary's breakpoint goes when it has served, so this one does not tell for ever.
            self.unsure_until = self.deadline + UNRETURNED;
        }
        self.sentinels_laid = alone.len();
        match self.tracer.lay(self.tracer.pid(), alone, Lifetime::Stays) {
            Err(Error::Memory { .. } | Error::OutOfLine { .. }) => {
                self.sentinels.clear();
                self.sentinels_laid = 0;
                Ok(())
            }
            other => other,
        }
    }

    /// The addresses of all points that this round serves and that are not laid yet.
    pub(super) fn choose(&mut self) -> Result<Vec<u64>, Error> {
        let chosen = self.kit.chosen(&self.plan.at);
        if !self.plan.at.is_empty() {
            self.unmatched = chosen.unmatched;
        }
        let Task::InPlace(round) = &self.task else { return Ok(Vec::new()) };
        let Kit { symbols, points, .. } = &mut *self.kit;
        let mut addresses = Vec::new();
        for (id, reason) in chosen.functions {
            let mapped = &symbols.objects()[id.object];
            let Some(number) = points.add(mapped, id.function, reason) else { continue };
            let function = &points.functions()[number];
            for point in function.points.clone() {
                let address = points.address(point).wrapping_add(mapped.bias);
                let is_wanted = !round.excluded.contains(&point)
                    && (round.count_only || self.served.get(point) < round.visits)
                    && is_among(round, points, point);
                if self.at.insert(address, point).is_none() && is_wanted {
                    addresses.push(address);
                }
            }
        }
        Ok(addresses)
    }
}

fn is_among(round: &Round, points: &Points, point: usize) -> bool {
    round
        .only
        .as_ref()
        .is_none_or(|only| only.contains(&(points.function(point).object.clone(), points.address(point))))
}

/// Functions, each with the reason for which it was chosen where nobody named it.
#[derive(Clone, Debug)]
pub(super) struct ChosenFunctions {
    pub(super) functions: Vec<(FunctionId, Option<&'static str>)>,
    pub(super) unmatched: Vec<Unmatched>,
}

/// The functions that are attacked: those that the patterns name, or else the usual victims and, where there
/// are none, the program's own.
pub(super) fn choose(at: &[Pattern], symbols: &Symbols) -> ChosenFunctions {
    if !at.is_empty() {
        let selection = symbols.select(at);
        let functions = selection.functions.into_iter().map(|id| (id, None)).collect();
        return ChosenFunctions { functions, unmatched: selection.unmatched };
    }
    let mut victims = defaults::victims(symbols);
    if victims.is_empty() {
        victims.push(defaults::own(symbols));
    }
    let mut seen = BTreeSet::new();
    let mut functions = Vec::new();
    for chosen in victims {
        let fresh = chosen.functions.into_iter().filter(|id| seen.insert(*id));
        functions.extend(fresh.map(|id| (id, Some(chosen.reason))));
    }
    ChosenFunctions { functions, unmatched: Vec::new() }
}
