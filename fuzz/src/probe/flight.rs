//! A delivered signal, from its handler's entry to its return.

use std::collections::BTreeSet;
use std::time::Instant;

use sigstorm_inject::remote::{
    Delivery, Error, Event, Lifetime, ReturnBy, Sent, SignalInfo, Waited, has_signal,
};

use super::evidence;
use super::finding::{Found, Kind};
use super::plan::{Deliver, signal_name};
use super::session::{Session, TICK};
use super::state::{self, Frame};

/// Why a thread got the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It was at the boundary.
    Here,
    /// Another thread was held at the boundary.
    Other,
    /// The signal was sent while it was blocked.
    Pending,
    /// It slept in the system call at the boundary.
    Asleep,
    /// As the second signal, in the handler of the first.
    Second,
}

/// A signal whose handler runs, or is about to.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) signal: i32,
    /// The boundary and the visit, if it was delivered for one.
    pub(super) point: Option<(usize, u32)>,
    pub(super) how: How,
    pub(super) errno: Option<i32>,
    pub(super) frame: Option<Frame>,
    /// When the handler was entered.
    pub(super) entered: Option<Instant>,
    /// The thread's processor time when the handler was first looked at.
    pub(super) run_ns: Option<u64>,
    pub(super) interrupted: u64,
}

impl Flight {
    pub(super) fn new(signal: i32, point: Option<(usize, u32)>, how: How, errno: Option<i32>) -> Flight {
        Flight { signal, point, how, errno, frame: None, entered: None, run_ns: None, interrupted: 0 }
    }
}

/// A signal that does not kill by default is looked at closely so often, since a program may use it.
const MOST_CAUGHT: usize = 32;

impl Session<'_> {
    pub(super) fn handler_entered(&mut self, tid: i32, delivery: &Delivery) -> Result<(), Error> {
        if self.handler.is_none() {
            let name = self.kit.symbols.describe(delivery.handler);
            let name = name.unwrap_or_else(|| format!("{:#x}", delivery.handler));
            self.handler = Some((delivery.handler, name));
        }
        if self.restorers.insert(delivery.restorer) && !self.kit.symbols.is_in_tables(delivery.restorer) {
            // Unwinders know it by its bytes. A debug register costs several stops, but nobody sees it.
            self.tracer.see_returns(ReturnBy::DebugRegister)?;
        }
        let frame = Frame::read(&self.tracer, tid, delivery);
        let mut is_first = false;
        if let Some(flight) = self.flights.get_mut(&tid).and_then(|flights| flights.last_mut()) {
            flight.frame = frame;
            flight.entered = Some(Instant::now());
            flight.interrupted = delivery.pc;
            is_first = !matches!(flight.how, How::Second | How::Pending);
        }
        if is_first {
            self.plan_hold(tid, delivery.handler)?;
            self.send_second(tid)?;
        }
        self.go(tid)
    }

    /// Sends the second signal into a handler that has just been entered, where it can arrive and has a handler.
    fn send_second(&mut self, tid: i32) -> Result<(), Error> {
        if self.plan.deliver != Deliver::Twice {
            return Ok(());
        }
        let second = self.plan.second.unwrap_or(self.plan.signal).number;
        let sets = self.tracer.signal_sets(tid)?;
        if has_signal(sets.blocked, second) {
            self.counts.masked += 1;
        } else if has_signal(sets.caught, second) {
            self.tracer.send(tid, second)?;
        }
        Ok(())
    }

    pub(super) fn handler_returned(&mut self, tid: i32, delivery: &Delivery) -> Result<(), Error> {
        if let Some(flight) = self.pop_flight(tid) {
            self.counts.returned += 1;
            self.judge_state(tid, &flight, delivery);
            self.landed(tid)?;
            self.go(tid)?;
            return self.disturb_sleep(tid, &flight);
        }
        self.landed(tid)?;
        self.go(tid)
    }

    pub(super) fn handler_left(&mut self, tid: i32, _: &Delivery) -> Result<(), Error> {
        self.counts.returned += u64::from(self.pop_flight(tid).is_some());
        self.landed(tid)
    }

    fn pop_flight(&mut self, tid: i32) -> Option<Flight> {
        let flights = self.flights.get_mut(&tid)?;
        let flight = flights.pop();
        if flights.is_empty() {
            self.flights.remove(&tid);
        }
        flight
    }

    /// A handler is through: breakpoints that it lifted are laid again, and who waited for it goes on.
    fn landed(&mut self, tid: i32) -> Result<(), Error> {
        self.watch.forget(tid);
        let pid = self.tracer.process_of(tid).unwrap_or(tid);
        if self.flights.is_empty() && !self.lifted.is_empty() {
            let lifted: BTreeSet<u64> =
                std::mem::take(&mut self.lifted).into_iter().map(|(at, _)| at).collect();
            match self.tracer.lay(pid, lifted, Lifetime::OneShot) {
                Err(Error::Memory { .. }) => {}
                other => other?,
            }
        }
        if !self.flights.contains_key(&tid)
            && let Some(hold) = &mut self.hold
            && hold.others.remove(&tid)
            && hold.others.is_empty()
        {
            self.end_hold()?;
        }
        Ok(())
    }

    pub(super) fn not_handled(&mut self, tid: i32, signal: i32) -> Result<(), Error> {
        let flight = self.pop_flight(tid);
        self.landed(tid)?;
        // Where a frame does not fit on the stack, the fault follows, and tells more. Where the handler was taken
        // away in between, nothing was lost.
        let faults = self.fatal.iter().any(|(of, ..)| *of == tid);
        if let Some(flight) = flight
            && flight.entered.is_none()
            && !faults
            && self.tracer.kernel_state(tid).is_some()
            && self.has_handler(tid)?
        {
            self.lost = Some((tid, signal, flight, Instant::now()));
        }
        Ok(())
    }

    /// A thread is about to receive a signal.
    pub(super) fn signal(&mut self, tid: i32, info: SignalInfo) -> Result<(), Error> {
        // The fault of a frame that did not fit comes at once: then no signal was lost, the stack was too small.
        if info.signal == libc::SIGSEGV {
            self.lost = None;
        }
        const SI_TKILL: i32 = -6;
        let is_ours = info.code == SI_TKILL && info.sender == std::process::id() as i32;
        let second = self.plan.second.unwrap_or(self.plan.signal).number;
        let is_second = self.plan.deliver == Deliver::Twice && info.signal == second;
        if !is_ours {
            self.asleep.remove(&tid);
        }
        if is_ours && (info.signal == self.plan.signal.number || is_second) {
            return self.sent_arrives(tid, info.signal);
        }
        if is_fatal(info.signal) {
            self.note_fatal(tid, info)?;
        }
        self.go(tid)
    }

    /// A signal that was sent to the thread, because it was blocked or another thread is at the boundary.
    fn sent_arrives(&mut self, tid: i32, signal: i32) -> Result<(), Error> {
        let in_handler = self.flights.contains_key(&tid);
        let asleep = self.asleep.remove(&tid);
        let (how, point) = match (in_handler, &self.hold) {
            // It comes of the same boundary as the handler that it interrupts.
            (true, _) => (How::Second, self.flights[&tid].first().and_then(|flight| flight.point)),
            _ if asleep.is_some() => (How::Asleep, asleep),
            (_, Some(hold)) if hold.others.contains(&tid) => (How::Other, self.sent_for),
            _ => (How::Pending, self.log.last().copied()),
        };
        let is_caught = self.has_handler(tid)?;
        if !is_caught && signal == self.plan.signal.number {
            self.arrived_late = Some((tid, self.log.last().copied()));
            return self.go(tid);
        }
        let errno = state::errno(&self.tracer, self.errno.as_ref(), tid);
        match self.tracer.deliver(tid, signal, Some(self.plan.signal.origin))? {
            Sent::Delivered => {
                self.counts.injected += u64::from(matches!(how, How::Other | How::Asleep));
                self.last_injection = Some(Instant::now());
                self.flights.entry(tid).or_default().push(Flight::new(signal, point, how, errno));
                Ok(())
            }
            // The kernel delivers it all the same: the mask is that outside of `ppoll` or its like.
            Sent::Blocked => {
                self.counts.injected += 1;
                self.go(tid)
            }
            Sent::Gone => Ok(()),
        }
    }

    /// Notes a signal that may end the process, with the stack of the thread that gets it.
    fn note_fatal(&mut self, tid: i32, info: SignalInfo) -> Result<(), Error> {
        let caught = match self.tracer.signal_sets(tid) {
            Ok(sets) => has_signal(sets.caught, info.signal),
            Err(_) => false,
        };
        self.caught_fatal += usize::from(caught);
        if !caught {
            self.dying.insert(tid);
        }
        let lines = match caught && self.caught_fatal > MOST_CAUGHT {
            true => Vec::new(),
            false => self.stack_of(tid),
        };
        if self.fatal.len() == 8 {
            self.fatal.pop_front();
        }
        self.fatal.push_back((tid, info, lines));
        Ok(())
    }

    fn judge_state(&mut self, tid: i32, flight: &Flight, delivery: &Delivery) {
        let mut changes = Vec::new();
        let after = state::errno(&self.tracer, self.errno.as_ref(), tid);
        changes.extend(state::errno_change(flight.errno, after));
        if let Some((before, after)) = flight.frame.as_ref().zip(Frame::read(&self.tracer, tid, delivery)) {
            changes.extend(before.changes(&after, self.plan.strict_state));
        }
        if changes.is_empty() {
            return;
        }
        let handler = self.kit.symbols.describe(delivery.handler).unwrap_or_default();
        let handler = evidence::bare(&handler);
        for change in changes {
            // One for each thing that the handler changes: the boundaries are counted.
            let place = format!("{} by {handler}", change.name);
            if !self.changed.insert((change.name, flight.point.map(|(point, _)| point))) {
                continue;
            }
            let site = flight.point.map(|(point, visit)| self.site(point, visit));
            let signal = signal_name(flight.signal);
            self.found.push(Found {
                kind: Kind::State,
                summary: format!("{} is not as before after {handler} has handled {signal}", change.name),
                evidence: vec![
                    format!("before the handler: {} is {}", change.name, change.before),
                    format!("after it:           {} is {}", change.name, change.after),
                ],
                stacks: Vec::new(),
                site,
                place,
                lock: None,
                thread: tid,
                certain: true,
                log: Vec::new(),
                others: Vec::new(),
            });
        }
    }

    /// A signal that was delivered has vanished, and no fault explains it.
    pub(super) fn judge_lost(&mut self) {
        // The fault of a frame that did not fit would have come by now.
        let Some((tid, signal, flight, _)) = self.lost.take_if(|lost| lost.3.elapsed() > 4 * TICK) else {
            return;
        };
        let site = flight.point.map(|(point, visit)| self.site(point, visit));
        self.found.push(Found {
            kind: Kind::LostSignal,
            summary: format!("{} was delivered, and its handler did not run", signal_name(signal)),
            evidence: vec!["the process catches it, and the thread did not block it".into()],
            stacks: Vec::new(),
            site,
            place: signal_name(signal),
            lock: None,
            thread: tid,
            certain: true,
            log: Vec::new(),
            others: Vec::new(),
        });
    }

    pub(super) fn handler_name(&self) -> String {
        self.handler
            .as_ref()
            .map_or_else(|| "the handler".into(), |(_, name)| evidence::bare(name).to_owned())
    }

    /// Stops every thread of a process but one. Returns whether that one is still held.
    pub(super) fn hold_all_but(&mut self, pid: i32, tid: Option<i32>) -> Result<bool, Error> {
        let mut waited: BTreeSet<i32> = BTreeSet::new();
        for other in self.tracer.threads(pid) {
            if Some(other) != tid && !self.tracer.is_held(other) {
                self.tracer.interrupt(other)?;
                waited.insert(other);
            }
        }
        let deadline = Instant::now() + 100 * TICK;
        while !waited.is_empty() && Instant::now() < deadline {
            match self.tracer.next_event(Some(TICK))? {
                // Whatever stops a thread stops it; what that means is looked at later.
                Waited::Event(event) => {
                    let stopped = match event {
                        Event::ThreadExited { tid, .. } => Some(tid),
                        _ => event.held(),
                    };
                    if let Some(stopped) = stopped {
                        waited.remove(&stopped);
                    }
                    if !matches!(event, Event::Interrupted { .. }) {
                        self.postponed.push_back(event);
                    }
                }
                Waited::TimedOut => {}
                Waited::AllHeld | Waited::Ended => break,
            }
        }
        Ok(tid.is_some_and(|tid| self.tracer.is_held(tid)))
    }

    /// Runs one instruction of a thread while the others are held. Returns whether nothing else came of it: a
    /// system call that waits, a signal or a breakpoint is something else.
    pub(super) fn step_alone(&mut self, tid: i32) -> Result<bool, Error> {
        if !self.tracer.is_held(tid) {
            return Ok(false);
        }
        self.tracer.step(tid)?;
        let deadline = Instant::now() + 20 * TICK;
        while Instant::now() < deadline {
            match self.tracer.next_event(Some(TICK))? {
                Waited::Event(Event::Stepped { tid: stepped }) if stepped == tid => return Ok(true),
                Waited::Event(event) => {
                    let is_its_own = event.held() == Some(tid);
                    self.postponed.push_back(event);
                    if is_its_own {
                        return Ok(false);
                    }
                }
                Waited::TimedOut => {}
                Waited::AllHeld | Waited::Ended => return Ok(false),
            }
        }
        Ok(false)
    }
}

/// Signals that a mistake raises, and that kill by default.
fn is_fatal(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGSEGV
            | libc::SIGBUS
            | libc::SIGILL
            | libc::SIGFPE
            | libc::SIGABRT
            | libc::SIGTRAP
            | libc::SIGSYS
    )
}
