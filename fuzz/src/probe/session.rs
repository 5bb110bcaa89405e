//! One traced process of a probe: from its start, to where the signal has a handler, through its injections, to
//! its end.
//!
//! | file | |
//! |---|---|
//! | here | the process, its stages, the loop over events |
//! | `choose.rs` | its start, and which functions are attacked |
//! | `serve.rs` | a boundary is reached: deliver, or not |
//! | `flight.rs` | a delivered signal's handler, from entry to return |
//! | `stuck.rs` | a handler that does not return |
//! | `evidence.rs` | stacks, locks and words for findings |
//!
//! # Stages
//!
//! *Starting*: every system call stops, so that the one that installs the handler is seen. It would be dear for
//! a program that never installs one, so after [`PATIENCE`] the kernel is asked now and then instead. *Waiting*
//! for the first call of `--from`. *Armed*: breakpoints are laid.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sigstorm_inject::remote::symbols::Unmatched;
use sigstorm_inject::remote::{Error, Event, Lifetime, ReturnBy, SignalInfo, Tracer, Waited, has_signal};

use super::choose::launch;
use super::finding::{Found, Site};
use super::flight::Flight;
use super::kit::Kit;
use super::plan::{Deliver, ProbePlan};
use super::points::Tally;
use super::state::ErrnoLocation;
use super::stuck::Watch;

/// The time for which system calls are traced to see the handler being installed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a session looks up from its events.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// How often it looks for objects that were loaded since.
const OBJECTS: Duration = Duration::from_millis(250);
/// The bytes of output that are compared.
const MOST_OUTPUT: u64 = 16 << 20;
/// A handler that has run for so long as time is up is worth a note.
pub(super) const UNRETURNED: Duration = Duration::from_secs(2);
/// How long a program whose boundaries have all been served goes on.
const LINGER: Duration = Duration::from_secs(1);

/// The purpose of a session.
#[derive(Debug)]
pub enum Task {
    /// No signal: the program as it is.
    Undisturbed,
    /// The signal at each boundary as it is reached.
    InPlace(Round),
    /// The signal at one boundary.
    Point(Target),
}

/// A run through a program that serves boundaries as they are reached.
#[derive(Debug, Default)]
pub struct Round {
    /// The visits that each point passes before it is served.
    pub skips: Tally,
    /// The points that are not served.
    pub excluded: BTreeSet<usize>,
    /// The injections that each point gets.
    pub visits: u32,
    /// The only points that are served, by object and address; all where there are none.
    pub only: Option<BTreeSet<(PathBuf, u64)>>,
    /// Boundaries are counted, and no signal is sent.
    pub count_only: bool,
}

/// The boundary of a fresh process.
#[derive(Clone, Debug)]
pub struct Target {
    /// The object's path.
    pub object: PathBuf,
    /// The address in the object's file.
    pub address: u64,
    /// Which visit, from 1.
    pub visit: u32,
    /// The word of a lock. The signal is not delivered then, but what the thread does next is watched: whether it
    /// releases the lock.
    pub watch: Option<u64>,
    /// The instruction at which the handler is held, for [`Deliver::Held`].
    pub held: Option<u64>,
    /// The process is let go on to its end.
    pub to_end: bool,
}

impl Target {
    /// The boundary of a finding.
    pub fn of(site: &Site, to_end: bool) -> Target {
        Target {
            object: site.object.clone().into(),
            address: site.address,
            visit: site.visit,
            watch: None,
            held: site.held,
            to_end,
        }
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed because there was a finding.
    Found,
    /// It was killed because there was nothing left to do, or no time.
    Killed,
}

/// The numbers of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Signals delivered at a boundary.
    pub injected: u64,
    /// Handlers that returned, or were left by a long jump.
    pub returned: u64,
    /// Signals that the thread blocked at the boundary: they arrived later, elsewhere.
    pub masked: u64,
    /// Visits in restartable sequences.
    pub restartable: u64,
    /// The greatest number of threads at a time.
    pub threads: usize,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The findings, the one that ended it last.
    pub found: Vec<Found>,
    /// The counts.
    pub counts: SessionCounts,
    /// Whether the signal ever had a handler.
    pub armed: bool,
    /// The handler's name, once it has run.
    pub handler: Option<String>,
    /// The program's output, where outputs are compared or nothing could be injected, as far as
    /// [`MOST_OUTPUT`].
    pub output: Vec<u8>,
    /// The obstacles that were met, in words.
    pub remarks: BTreeSet<String>,
    /// Whether time was up while a handler had not returned for long.
    pub unreturned: bool,
    /// The patterns without a match.
    pub unmatched: Vec<Unmatched>,
    /// The points that were reached.
    pub reached: BTreeSet<usize>,
    /// Of a watch: whether the interrupted thread itself released the word.
    pub released: bool,
    /// The time from when injections began to the last one.
    pub armed_for: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The signal has no handler yet.
    Starting,
    /// The breakpoint of `--from` has this address.
    Waiting(u64),
    Armed,
}

/// Threads that are kept from going on while others get the signal, or while others go on.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) tid: i32,
    pub(super) until: Instant,
    /// The threads whose handlers are waited for; empty for a hold that only lasts.
    pub(super) others: BTreeSet<i32>,
}

pub(super) struct Session<'a> {
    pub(super) plan: &'a ProbePlan,
    pub(super) kit: &'a mut Kit,
    pub(super) task: Task,
    pub(super) tracer: Tracer,
    stop: &'a AtomicBool,
    pub(super) deadline: Instant,
    stage: Stage,
    started: Instant,
    /// Threads that are in the call that installs the handler.
    installing: BTreeSet<i32>,
    /// System calls are traced.
    tracing: bool,
    /// The points by their addresses in the process.
    pub(super) at: HashMap<u64, usize>,
    /// The injections of each point.
    pub(super) served: Tally,
    pub(super) visited: Tally,
    pub(super) flights: BTreeMap<i32, Vec<Flight>>,
    /// Breakpoints that a handler ran into, to be laid again when none runs.
    pub(super) lifted: Vec<(u64, Lifetime)>,
    pub(super) hold: Option<Hold>,
    pub(super) errno: Option<ErrnoLocation>,
    pub(super) counts: SessionCounts,
    pub(super) found: Vec<Found>,
    pub(super) is_over: bool,
    /// Signals that may kill, and the stack of the thread that got one.
    pub(super) fatal: VecDeque<(i32, SignalInfo, Vec<String>)>,
    /// How many of them were caught.
    pub(super) caught_fatal: usize,
    /// Threads that got one which is not caught.
    pub(super) dying: BTreeSet<i32>,
    pub(super) watch: Watch,
    /// State that a handler changed, by point: each is a finding once.
    pub(super) changed: HashSet<(&'static str, Option<usize>)>,
    /// How often the signal was blocked at a point.
    pub(super) masked: HashMap<usize, u32>,
    /// The point and the visit at which a thread is held for the others.
    pub(super) sent_for: Option<(usize, u32)>,
    /// A signal whose handler has not run, unless a fault explains it.
    pub(super) lost: Option<(i32, i32, Flight, Instant)>,
    /// A signal that arrived after its handler was taken away, and where it was sent.
    pub(super) arrived_late: Option<(i32, Option<(usize, u32)>)>,
    pub(super) log: Vec<(usize, u32)>,
    /// The obstacles so far, in words.
    pub(super) remarks: BTreeSet<String>,
    pub(super) handler: Option<(u64, String)>,
    /// The restorers of handlers that have been entered.
    pub(super) restorers: BTreeSet<u64>,
    /// The boundaries at which a handler is held, and which is next.
    pub(super) handler_points: (Vec<u64>, usize),
    pub(super) last_held: Option<u64>,
    /// Events that came while all threads were stopped.
    pub(super) postponed: VecDeque<Event>,
    /// The entries of functions that change what the process does with a signal.
    pub(super) sentinels: BTreeSet<u64>,
    /// The number of sentinels that are no boundaries, and have a breakpoint of their own.
    pub(super) sentinels_laid: usize,
    /// Until then the kernel is asked at each injection.
    pub(super) unsure_until: Instant,
    /// Threads that were sent the signal while they slept in a system call, with its point and visit.
    pub(super) asleep: HashMap<i32, (usize, u32)>,
    /// How often a system call was served whose thread did not sleep in it, and at which visit first.
    pub(super) awake: HashMap<usize, (u32, u32)>,
    pub(super) last_injection: Option<Instant>,
    /// `/proc` said at this time that the signal has a handler.
    pub(super) handler_seen: Instant,
    pub(super) expected: &'a super::Expected,
    pub(super) unmatched: Vec<Unmatched>,
    last_objects: Instant,
    armed_at: Option<Instant>,
    /// All boundaries have been served since.
    idle_since: Option<Instant>,
    pub(super) target_served: bool,
    pub(super) released: bool,
    output: File,
    status: Option<ExitStatus>,
}

/// Runs the program once.
///
/// # Errors
///
/// If it cannot be started or traced.
pub fn run(
    plan: &ProbePlan,
    task: Task,
    kit: &mut Kit,
    expected: &super::Expected,
    deadline: Instant,
    stop: &AtomicBool,
) -> Result<Outcome, Error> {
    let (mut tracer, output) = launch(plan)?;
    tracer.see_returns(ReturnBy::Breakpoint)?;
    let now = Instant::now();
    let session = Session {
        plan,
        kit,
        tracing: !matches!(task, Task::Undisturbed),
        task,
        tracer,
        stop,
        deadline,
        stage: Stage::Starting,
        started: now,
        installing: BTreeSet::new(),
        at: HashMap::new(),
        served: Tally::default(),
        visited: Tally::default(),
        flights: BTreeMap::new(),
        lifted: Vec::new(),
        hold: None,
        errno: None,
        counts: SessionCounts::default(),
        found: Vec::new(),
        is_over: false,
        fatal: VecDeque::new(),
        caught_fatal: 0,
        dying: BTreeSet::new(),
        watch: Watch::default(),
        changed: HashSet::new(),
        masked: HashMap::new(),
        sent_for: None,
        lost: None,
        arrived_late: None,
        log: Vec::new(),
        remarks: BTreeSet::new(),
        handler: None,
        restorers: BTreeSet::new(),
        handler_points: (Vec::new(), 0),
        last_held: None,
        postponed: VecDeque::new(),
        sentinels: BTreeSet::new(),
        sentinels_laid: 0,
        unsure_until: now,
        asleep: HashMap::new(),
        awake: HashMap::new(),
        last_injection: None,
        handler_seen: now,
        expected,
        unmatched: Vec::new(),
        last_objects: now,
        armed_at: None,
        idle_since: None,
        target_served: false,
        released: false,
        output,
        status: None,
    };
    session.run()
}

impl Session<'_> {
    fn run(mut self) -> Result<Outcome, Error> {
        self.note_set_uid();
        let root = self.tracer.pid();
        self.go(root)?;
        let mut last = Instant::now();
        let end = loop {
            if self.is_over {
                break End::Found;
            }
            let now = Instant::now();
            if self.stop.load(Ordering::SeqCst) || now >= self.deadline || self.has_nothing_to_do(now) {
                break End::Killed;
            }
            let waited = match self.postponed.pop_front() {
                Some(event) => Waited::Event(event),
                None => self.tracer.next_event(Some(TICK))?,
            };
            match waited {
                Waited::Event(event) => self.on_event(event)?,
                Waited::TimedOut => {}
                Waited::AllHeld => self.end_hold()?,
                Waited::Ended => match self.status {
                    Some(status) => break End::Exited(status),
                    None => break End::Killed,
                },
            }
            if let Some(status) = self.status {
                break End::Exited(status);
            }
            if last.elapsed() >= TICK {
                last = Instant::now();
                self.tick(last)?;
            }
        };
        if let End::Exited(status) = end {
            self.judge_end(status);
        }
        self.tracer.kill();
        let is_stuck = |flight: &Flight| flight.entered.is_some_and(|entered| entered.elapsed() > UNRETURNED);
        let unreturned = end == End::Killed && self.flights.values().flatten().any(is_stuck);
        let mut output = Vec::new();
        if (self.plan.same_output || self.armed_at.is_none()) && self.output.rewind().is_ok() {
            // Output that cannot be read is not compared.
            let _ = self.output.take(MOST_OUTPUT).read_to_end(&mut output);
        }
        Ok(Outcome {
            end,
            found: self.found,
            counts: self.counts,
            armed: self.armed_at.is_some(),
            handler: self.handler.map(|(_, name)| name),
            output,
            remarks: self.remarks,
            unreturned,
            unmatched: self.unmatched,
            reached: self.visited.counted().collect(),
            released: self.released,
            armed_for: self.armed_at.zip(self.last_injection).map_or(Duration::ZERO, |(from, to)| to - from),
        })
    }

    /// Returns whether everything was served, and the program has had time to show what came of it.
    fn has_nothing_to_do(&mut self, now: Instant) -> bool {
        let is_done = match &self.task {
            Task::Undisturbed => false,
            Task::Point(target) => {
                !target.to_end
                    && self.target_served
                    && self.flights.is_empty()
                    && self.hold.is_none()
                    && self.asleep.is_empty()
            }
            Task::InPlace(round) => {
                // A program that ends by itself is judged by its end, unless it is only counted.
                (round.count_only || self.expected.code().is_none())
                    && self.stage == Stage::Armed
                    && self.flights.is_empty()
                    && self.lifted.is_empty()
                    && self.asleep.is_empty()
                    && self.tracer.laid(self.tracer.pid()) <= self.sentinels_laid
            }
        };
        if !is_done {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        now - since >= LINGER
    }

    fn on_event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Breakpoint { tid, address, .. } => self.at_breakpoint(tid, address),
            Event::HandlerEntered { tid, delivery } => self.handler_entered(tid, &delivery),
            Event::HandlerReturned { tid, delivery } => self.handler_returned(tid, &delivery),
            Event::HandlerLeft { tid, delivery } => self.handler_left(tid, &delivery),
            Event::NotHandled { tid, signal } => self.not_handled(tid, signal),
            Event::Signal { tid, info } => self.signal(tid, info),
            Event::SyscallEntered { tid, number, args } => {
                self.note_call(tid, number, args);
                let is_install = number as i64 == libc::SYS_rt_sigaction
                    && args[0] as i32 == self.plan.signal.number
                    && args[1] != 0;
                if is_install {
                    self.installing.insert(tid);
                }
                self.go(tid)
            }
            Event::SyscallReturned { tid, result } => {
                let is_ours = self.tracer.process_of(tid) == Some(self.tracer.pid());
                if self.installing.remove(&tid) && is_ours && result == 0 && self.has_handler(tid)? {
                    self.begin()?;
                }
                self.go(tid)
            }
            Event::ThreadStarted { tid, .. } => {
                self.counts.threads = self.counts.threads.max(self.tracer.threads(self.tracer.pid()).len());
                self.go(tid)
            }
            Event::Executed { tid, .. } => {
                if tid == self.tracer.pid() {
                    self.stage = Stage::Starting;
                    self.at.clear();
                    self.flights.clear();
                    self.lifted.clear();
                    self.errno = None;
                    self.handler_points = (Vec::new(), 0);
                    self.restorers.clear();
                    self.tracer.see_returns(ReturnBy::Breakpoint)?;
                    self.sentinels.clear();
                    self.sentinels_laid = 0;
                    self.tracing = !matches!(self.task, Task::Undisturbed);
                    self.started = Instant::now();
                }
                self.go(tid)
            }
            Event::Interrupted { tid } | Event::Stepped { tid } | Event::Forked { tid, .. } => self.go(tid),
            Event::ProcessExited { pid, status } => {
                if pid == self.tracer.pid() {
                    // Whose handler ran is still to be said.
                    self.status = Some(status);
                    return Ok(());
                }
                let Session { tracer, flights, asleep, .. } = self;
                flights.retain(|tid, _| tracer.process_of(*tid).is_some());
                asleep.retain(|tid, _| tracer.process_of(*tid).is_some());
                Ok(())
            }
            Event::ThreadExited { tid, .. } => {
                // One that dies of a signal takes the process along, and its handler is still to be named.
                if !self.dying.contains(&tid) {
                    self.flights.remove(&tid);
                }
                self.asleep.remove(&tid);
                if let Some(hold) = &mut self.hold {
                    hold.others.remove(&tid);
                }
                Ok(())
            }
            _ => match event.held() {
                Some(tid) => self.go(tid),
                None => Ok(()),
            },
        }
    }

    /// Lets a held thread go on.
    pub(super) fn go(&mut self, tid: i32) -> Result<(), Error> {
        if !self.tracer.is_held(tid) {
            return Ok(());
        }
        let tracing = self.tracing && self.stage == Stage::Starting;
        self.tracer.trace_syscalls(tid, tracing)?;
        self.tracer.resume(tid)
    }

    /// Returns whether the signal has a handler.
    pub(super) fn has_handler(&self, tid: i32) -> Result<bool, Error> {
        match self.tracer.signal_sets(tid) {
            Ok(sets) => Ok(has_signal(sets.caught, self.plan.signal.number)),
            // It has just ended.
            Err(_) if self.tracer.kernel_state(tid).is_none() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The signal has a handler: injections begin, or the wait for `--from`.
    fn begin(&mut self) -> Result<(), Error> {
        if self.stage != Stage::Starting || matches!(self.task, Task::Undisturbed) {
            return Ok(());
        }
        self.refresh();
        if let Some(from) = self.plan.from.clone() {
            let selection = self.kit.symbols.select(&[from]);
            self.unmatched = selection.unmatched;
            let addresses: Vec<u64> =
                selection.functions.iter().filter_map(|id| self.kit.symbols.address(*id)).collect();
            let Some(&first) = addresses.first() else { return Ok(()) };
            self.tracer.lay(self.tracer.pid(), [first], Lifetime::OneShot)?;
            self.stage = Stage::Waiting(first);
            return Ok(());
        }
        self.arm()
    }

    fn arm(&mut self) -> Result<(), Error> {
        self.stage = Stage::Armed;
        let now = Instant::now();
        (self.armed_at, self.handler_seen, self.last_objects) = (Some(now), now, now);
        self.counts.threads = self.counts.threads.max(self.tracer.threads(self.tracer.pid()).len());
        let functions = self.kit.named(ErrnoLocation::FUNCTION);
        self.errno = ErrnoLocation::find(&self.tracer, &self.kit.symbols, self.tracer.pid(), &functions);
        // Stops are five times as cheap where tracer and program share a core.
        self.tracer.pin()?;
        self.lay_points()?;
        self.lay_sentinels()
    }

    /// Reads the process's objects. Returns whether they are others than before.
    fn refresh(&mut self) -> bool {
        // Of a process that is gone, what is known stays: its end comes next.
        self.kit.symbols.refresh(self.tracer.pid()).unwrap_or(false)
    }

    /// Lays the breakpoints of all points that are still to be served.
    fn lay_points(&mut self) -> Result<(), Error> {
        let addresses = match &self.task {
            Task::Undisturbed => return Ok(()),
            Task::Point(target) => {
                let Kit { symbols, points, .. } = &mut *self.kit;
                let found = symbols.objects().iter().find(|mapped| mapped.path == target.object);
                let Some(mapped) = found else { return Ok(()) };
                let address = target.address.wrapping_add(mapped.bias);
                let functions = mapped.object.functions();
                let Some(function) = functions.at(target.address) else { return Ok(()) };
                points.add(mapped, function, None);
                let Some(point) = points.find(&mapped.path, target.address) else { return Ok(()) };
                self.at.insert(address, point);
                vec![address]
            }
            Task::InPlace(_) => self.choose()?,
        };
        let pid = self.tracer.pid();
        let lifetime = match &self.task {
            Task::Point(target) if target.visit > 1 => Lifetime::Stays,
            Task::InPlace(round) if round.visits > 1 => Lifetime::Stays,
            _ => Lifetime::OneShot,
        };
        match self.tracer.lay(pid, addresses.iter().copied(), lifetime) {
            // Unmapped since, a kernel that refuses one page, or an instruction that runs in its own place alone: what
            // can be laid is laid.
            Err(Error::Memory { .. } | Error::OutOfLine { .. }) => {
                for address in addresses {
                    let laid = match self.tracer.lay(pid, [address], lifetime) {
                        Err(Error::OutOfLine { .. }) => self.tracer.lay(pid, [address], Lifetime::OneShot),
                        other => other,
                    };
                    match laid {
                        Err(Error::Memory { .. }) => {
                            *self.kit.points.boundaries_left_out.entry("unwritable").or_default() += 1;
                        }
                        other => other?,
                    }
                }
                Ok(())
            }
            other => other,
        }
    }

    fn tick(&mut self, now: Instant) -> Result<(), Error> {
        if self.hold.as_ref().is_some_and(|hold| now >= hold.until) {
            self.end_hold()?;
        }
        match self.stage {
            Stage::Starting if !matches!(self.task, Task::Undisturbed) => {
                if self.tracing && now - self.started > PATIENCE {
                    self.tracing = false;
                }
                if !self.tracing && self.has_handler(self.tracer.pid())? {
                    self.begin()?;
                }
            }
            Stage::Armed => {
                let looks = match self.task {
                    Task::InPlace(_) => now - self.last_objects > OBJECTS,
                    // The object of its boundary is not there yet.
                    _ => self.at.is_empty() && !self.target_served && now - self.last_objects > 4 * TICK,
                };
                if looks {
                    self.last_objects = now;
                    if self.refresh() {
                        self.objects_changed()?;
                    }
                }
                self.watch_handlers(now)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Objects were loaded or unloaded: new boundaries are laid, and those of what is gone forgotten.
    fn objects_changed(&mut self) -> Result<(), Error> {
        let symbols = &self.kit.symbols;
        let gone: Vec<u64> =
            self.at.keys().copied().filter(|address| symbols.find(*address).is_none()).collect();
        let pid = self.tracer.pid();
        for address in gone {
            self.at.remove(&address);
            self.tracer.forget(pid, address..address + 1)?;
        }
        self.lay_points()
    }

    /// The hit of a breakpoint that is no boundary's: `--from`.
    pub(super) fn at_from(&mut self, tid: i32, address: u64) -> Result<bool, Error> {
        if self.stage != Stage::Waiting(address) {
            return Ok(false);
        }
        self.arm()?;
        self.go(tid)?;
        Ok(true)
    }

    /// Lets the thread go on that was held for the others' sake.
    pub(super) fn end_hold(&mut self) -> Result<(), Error> {
        match self.hold.take() {
            Some(hold) => self.go(hold.tid),
            // Held by nobody: threads whose events were lost would wait for ever.
            None => {
                let held: Vec<i32> = self.tracer.threads(self.tracer.pid());
                held.into_iter().try_for_each(|tid| self.go(tid))
            }
        }
    }

    /// Returns whether this delivery interrupts threads other than the one at the boundary.
    pub(super) fn is_for_others(&self) -> bool {
        self.plan.deliver == Deliver::Others
    }
}
