//! A boundary is reached: the signal is delivered there, or not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sigstorm_inject::remote::{Error, Lifetime, Sent};

use super::flight::{Flight, How};
use super::plan::Deliver;
use super::session::{Hold, Session, Target, Task};
use super::state;

/// How long the thread at the boundary is held for the others' handlers to return. What waits for it then is
/// judged after it has gone on.
const OTHERS: Duration = Duration::from_millis(20);
/// How long a handler is held at one of its own instructions.
const HELD: Duration = Duration::from_millis(5);
/// A boundary at which the signal was blocked so often is given up.
const MOST_MASKED: u32 = 16;
/// How long the kernel is asked at each injection whether the signal has a handler, after the program began to
/// change that.
const UNSURE: Duration = Duration::from_millis(50);
/// How long the kernel's word that it has one is believed otherwise.
const BELIEF: Duration = Duration::from_millis(2);

/// Visits of a system call that are served in the hope that the thread sleeps in it.
const MOST_AWAKE: u32 = 64;
/// Between looks whether a thread sleeps in a system call, and how often.
const LOOK: Duration = Duration::from_micros(50);
const LOOKS: u32 = 10;

impl Session<'_> {
    pub(super) fn at_breakpoint(&mut self, tid: i32, address: u64) -> Result<(), Error> {
        self.asleep.remove(&tid);
        if self.at_from(tid, address)? {
            return Ok(());
        }
        if self.sentinels.contains(&address) {
            let changes = self.tracer.registers(tid)?.0.rdi as i32 == self.plan.signal.number;
            if changes {
                self.unsure_until = self.unsure_until.max(Instant::now() + UNSURE);
            }
            if !self.at.contains_key(&address) {
                return self.go(tid);
            }
        }
        if self.handler_points.0.contains(&address) && !self.tracer.deliveries(tid).is_empty() {
            return self.hold_handler(tid, address);
        }
        let Some(&point) = self.at.get(&address) else { return self.go(tid) };
        if !self.tracer.deliveries(tid).is_empty() {
            return self.handler_came_by(tid, address, point);
        }
        let visit = self.visited.at(point);
        *visit += 1;
        let visit = *visit;
        match &mut self.task {
            Task::Undisturbed => return self.go(tid),
            Task::Point(target) => {
                if self.target_served || visit < target.visit {
                    return self.go(tid);
                }
                if let Some(word) = target.watch {
                    return self.watch_release(tid, word);
                }
            }
            Task::InPlace(round) => {
                if self.served.get(point) >= round.visits {
                    return self.go(tid);
                }
                let skips = round.skips.at(point);
                if *skips > 0 {
                    *skips -= 1;
                    return self.pass(tid, address);
                }
                if self.hold.is_some() {
                    return self.pass(tid, address);
                }
            }
        }
        if self.tracer.in_restartable_sequence(tid)? {
            self.counts.restartable += 1;
            return self.go(tid);
        }
        let now = Instant::now();
        if now < self.unsure_until || now - self.handler_seen > BELIEF {
            if !self.has_handler(tid)? {
                // It would kill, or be ignored: neither says anything.
                return self.pass(tid, address);
            }
            self.handler_seen = now;
        }
        self.last_injection = Some(now);
        if self.is_for_others() {
            self.interrupt_others(tid, address, point, visit)
        } else {
            self.interrupt(tid, address, point, visit)
        }
    }

    /// Lets a thread go on past a boundary that is still to be served.
    fn pass(&mut self, tid: i32, address: u64) -> Result<(), Error> {
        self.keep_laid(tid, address)?;
        self.go(tid)
    }

    /// Lays the breakpoint of a boundary that is still to be served, unless it is there.
    fn keep_laid(&mut self, tid: i32, address: u64) -> Result<(), Error> {
        let pid = self.tracer.process_of(tid).unwrap_or(tid);
        if self.tracer.is_laid(pid, address) {
            return Ok(());
        }
        self.tracer.lay(pid, [address], Lifetime::OneShot)
    }

    fn interrupt(&mut self, tid: i32, address: u64, point: usize, visit: u32) -> Result<(), Error> {
        let signal = self.plan.signal;
        let errno = state::errno(&self.tracer, self.errno.as_ref(), tid);
        self.settle(tid, address, point)?;
        match self.tracer.deliver(tid, signal.number, Some(signal.origin))? {
            Sent::Delivered => {
                self.counts.injected += 1;
                self.log.push((point, visit));
                let flight = Flight::new(signal.number, Some((point, visit)), How::Here, errno);
                self.flights.entry(tid).or_default().push(flight);
                self.serve(point);
                Ok(())
            }
            Sent::Blocked => {
                self.counts.masked += 1;
                // It becomes pending, and arrives when the thread unblocks it: as a timer's would.
                if !self.is_pending(tid)? {
                    self.tracer.send(tid, signal.number)?;
                    self.log.push((point, visit));
                }
                if matches!(self.task, Task::InPlace(_)) && self.counts_masked(point) < MOST_MASKED {
                    self.pass(tid, address)
                } else {
                    self.serve(point);
                    self.go(tid)
                }
            }
            Sent::Gone => Ok(()),
        }
    }

    /// Holds the thread at the boundary, and interrupts every other one.
    fn interrupt_others(&mut self, tid: i32, address: u64, point: usize, visit: u32) -> Result<(), Error> {
        let pid = self.tracer.process_of(tid).unwrap_or(tid);
        let mut others = BTreeSet::new();
        for other in self.tracer.threads(pid) {
            if other == tid || self.flights.contains_key(&other) || self.tracer.is_held(other) {
                continue;
            }
            self.tracer.send(other, self.plan.signal.number)?;
            others.insert(other);
        }
        if others.is_empty() {
            // It is alone as yet.
            return self.pass(tid, address);
        }
        self.log.push((point, visit));
        self.sent_for = Some((point, visit));
        self.settle(tid, address, point)?;
        self.serve(point);
        self.hold = Some(Hold { tid, until: Instant::now() + OTHERS, others });
        Ok(())
    }

    /// Notes that a boundary was served.
    fn serve(&mut self, point: usize) {
        *self.served.at(point) += 1;
        self.target_served |= matches!(self.task, Task::Point(_));
    }

    /// The breakpoint of a boundary that is about to be served: it is there as long as visits are left. That is so
    /// before the signal comes, so that the handler's return to this instruction is no visit.
    fn settle(&mut self, tid: i32, address: u64, point: usize) -> Result<(), Error> {
        let pid = self.tracer.process_of(tid).unwrap_or(tid);
        match &self.task {
            Task::InPlace(round) if self.served.get(point) + 1 < round.visits => self.keep_laid(tid, address),
            _ if self.tracer.is_laid(pid, address) => self.tracer.lift(pid, [address]),
            _ => Ok(()),
        }
    }

    /// A thread whose handler has returned to a system call may sleep in it next: then it gets the signal there.
    pub(super) fn disturb_sleep(&mut self, tid: i32, flight: &Flight) -> Result<(), Error> {
        let Some((point, visit)) = flight.point.filter(|_| flight.how == How::Here) else { return Ok(()) };
        if !self.kit.points.is_syscall(point) {
            return Ok(());
        }
        // A fresh process begins to try where this one did.
        let visit = self.awake.entry(point).or_insert((0, visit)).1;
        for _ in 0..LOOKS {
            // The thread shares the core with the tracer.
            std::thread::sleep(LOOK);
            match self.tracer.kernel_state(tid) {
                Some('R') => {}
                Some('S') if self.has_handler(tid)? => {
                    self.asleep.insert(tid, (point, visit));
                    self.log.push((point, visit));
                    return self.tracer.send(tid, self.plan.signal.number);
                }
                // It has come to the next boundary, or ended.
                _ => break,
            }
        }
        self.try_again(tid, (point, visit), flight.interrupted)
    }

    /// A system call in which no thread has slept yet is served once more at its next visit.
    fn try_again(&mut self, tid: i32, (point, visit): (usize, u32), address: u64) -> Result<(), Error> {
        let tries = self.awake.entry(point).or_insert((0, visit));
        tries.0 += 1;
        if tries.0 > MOST_AWAKE {
            return Ok(());
        }
        let served = self.served.at(point);
        *served = served.saturating_sub(1);
        self.target_served = false;
        let Some(pid) = self.tracer.process_of(tid) else { return Ok(()) };
        match self.tracer.lay(pid, [address], Lifetime::OneShot) {
            Err(Error::Memory { .. } | Error::NoProcess { .. }) => Ok(()),
            other => other,
        }
    }

    fn counts_masked(&mut self, point: usize) -> u32 {
        let masked = self.masked.entry(point).or_default();
        *masked += 1;
        *masked
    }

    fn is_pending(&self, tid: i32) -> Result<bool, Error> {
        let sets = self.tracer.signal_sets(tid)?;
        let signal = self.plan.signal.number;
        Ok(sigstorm_inject::remote::has_signal(sets.pending, signal))
    }

    /// A handler has come to a boundary itself. Its function's breakpoints are lifted until no handler runs:
    /// each would stop it.
    fn handler_came_by(&mut self, tid: i32, address: u64, point: usize) -> Result<(), Error> {
        let pid = self.tracer.process_of(tid).unwrap_or(tid);
        if let Task::InPlace(_) = self.task {
            let function = self.kit.points.function(point);
            let start = address - u64::from(self.kit.points.get(point).offset);
            let range = start..start + function.size;
            let lifted = self.tracer.lift_within(pid, range)?;
            self.lifted.extend(lifted);
            // This one is no longer laid, and is still to be served.
            self.lifted.push((address, Lifetime::OneShot));
        }
        self.go(tid)
    }

    /// A handler is held at an instruction of its own while the other threads go on.
    fn hold_handler(&mut self, tid: i32, address: u64) -> Result<(), Error> {
        let pid = self.tracer.process_of(tid).unwrap_or(tid);
        self.tracer.lift(pid, [address])?;
        if self.hold.is_some() {
            return self.go(tid);
        }
        self.hold = Some(Hold { tid, until: Instant::now() + HELD, others: BTreeSet::new() });
        Ok(())
    }

    /// Chooses the next instruction at which this handler is held, and lays its breakpoint.
    pub(super) fn plan_hold(&mut self, tid: i32, handler: u64) -> Result<(), Error> {
        if self.plan.deliver != Deliver::Held {
            return Ok(());
        }
        if self.handler_points.0.is_empty() {
            self.handler_points.0 = self.points_of_handler(handler);
        }
        let (points, next) = &mut self.handler_points;
        if points.is_empty() {
            return Ok(());
        }
        let address = match &self.task {
            Task::Point(Target { held: Some(held), .. }) => *held,
            _ => points[*next % points.len()],
        };
        *next += 1;
        self.last_held = Some(address);
        let pid = self.tracer.process_of(tid).unwrap_or(tid);
        if self.tracer.is_laid(pid, address) {
            return Ok(());
        }
        match self.tracer.lay(pid, [address], Lifetime::OneShot) {
            Err(Error::Memory { .. }) => Ok(()),
            other => other,
        }
    }

    /// The boundaries of the functions in which a handler is held: those that were named, or the handler's own and
    /// those that it calls.
    fn points_of_handler(&self, handler: u64) -> Vec<u64> {
        let symbols = &self.kit.symbols;
        let mut functions = Vec::new();
        if !self.plan.handler.is_empty() {
            functions = symbols.find_functions(&self.plan.handler);
        } else if let Some(id) = symbols.function_at(handler) {
            functions.push(id);
            let mapped = &symbols.objects()[id.object];
            if let Ok(code) = mapped.object.decode(id.function) {
                let called = |target: u64| symbols.function_at(target.wrapping_add(mapped.bias));
                functions.extend(code.callees().filter_map(called));
            }
        }
        let mut addresses = BTreeSet::new();
        for id in functions {
            let mapped = &symbols.objects()[id.object];
            if let Ok(code) = mapped.object.decode(id.function) {
                let base = code.address.wrapping_add(mapped.bias);
                let usable = code.boundaries.iter().filter(|boundary| !boundary.in_rseq);
                addresses.extend(usable.map(|boundary| base + u64::from(boundary.offset)));
            }
        }
        // A boundary that is served belongs to who is interrupted.
        addresses.into_iter().filter(|address| !self.at.contains_key(address)).collect()
    }

    /// Runs the thread alone, one instruction at a time, and sees whether it releases the lock's word: whether it
    /// was its owner when the signal came here.
    fn watch_release(&mut self, tid: i32, word: u64) -> Result<(), Error> {
        self.target_served = true;
        self.is_over = true;
        let pid = self.tracer.process_of(tid).unwrap_or(tid);
        if !self.hold_all_but(pid, Some(tid))? {
            return Ok(());
        }
        let read = |session: &Self| {
            let mut bytes = [0; 4];
            session.tracer.read(pid, word, &mut bytes).ok().map(|()| u32::from_le_bytes(bytes))
        };
        if read(self).is_none_or(|value| value == 0) {
            // Nobody holds it here.
            return Ok(());
        }
        for _ in 0..super::stuck::MOST_STEPS {
            if !self.step_alone(tid)? {
                return Ok(());
            }
            if read(self) == Some(0) {
                self.released = true;
                return Ok(());
            }
        }
        Ok(())
    }
}
