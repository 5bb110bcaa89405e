//! The event trace of a run.
//!
//! Events are small records in a buffer made beforehand, since they are noted in signal
//! handlers. Nothing in them depends on where memory happens to lie: PCs are function and
//! offset, SPs distances from the top of the stack. So the same schedule gives the same
//! trace, and its hash says so.

use sigstorm_runtime::Point;
use sigstorm_runtime::instrument::marked_code::find_func;
use sigstorm_runtime::stack::lock::Owner;
use sigstorm_runtime::unwind::func_id::FuncId;

use crate::outcome;
use crate::schedule::{Actor, Op, Stop};

/// The most events that are kept. The hash covers all of them.
const CAPACITY: usize = 1 << 16;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A thread reached a scheduling point.
    Point(Point),
    /// A thread begins an operation.
    Op(Op),
    /// A signal was delivered.
    Signal,
    /// A thread was held.
    Stop(Stop),
    /// A held thread resumes.
    Resume,
    /// A thread waits for another one.
    Wait(&'static str),
    /// The outcome of a sample.
    Sample(&'static str),
    /// The schedule is at its end; threads finish what they do.
    Drain,
}

impl What {
    /// Whether the place of the event is the one that the thread's handler has interrupted.
    pub(super) fn is_of_interrupted(self) -> bool {
        matches!(self, What::Sample(_) | What::Signal)
            || matches!(
                self,
                What::Point(
                    Point::HandlerTried | Point::SampleTaken | Point::HandlerEnd | Point::TracebackBegin
                )
            )
    }
}

/// A place in the marked code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    function: FuncId,
    offset: u16,
}

impl Place {
    /// The place of a PC, if it lies in the marked code.
    pub(crate) fn of(pc: usize) -> Option<Place> {
        let info = find_func(pc)?;
        Some(Place { function: info.function, offset: (pc - info.start) as u16 })
    }
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) step: u32,
    pub(crate) actor: Actor,
    pub(crate) what: What,
    pub(crate) goroutine: u8,
    pub(crate) place: Option<Place>,
    /// Distance of SP below the top of the stack.
    pub(crate) below: Option<u32>,
    pub(crate) lock: Option<Owner>,
    pub(crate) position: u16,
    pub(crate) barriers: u16,
}

/// The trace of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    records: Vec<Record>,
    hash: u64,
    /// Whether events are noted at all.
    pub(crate) on: bool,
    /// Events beyond the capacity.
    dropped: usize,
}

impl Trace {
    pub(crate) const fn new() -> Self {
        Trace { records: Vec::new(), hash: 0, on: false, dropped: 0 }
    }

    /// Starts over. Makes room for all events that are kept, since they are noted in signal handlers.
    pub(crate) fn begin(&mut self, on: bool) {
        self.records.clear();
        if on {
            self.records.reserve(CAPACITY);
        }
        self.hash = 0xcbf2_9ce4_8422_2325;
        self.on = on;
        self.dropped = 0;
    }

    /// Notes an event. Does not allocate.
    pub(crate) fn push(&mut self, record: Record) {
        let what = match record.what {
            What::Point(point) => u64::from(point.code()),
            What::Op(op) => 0x100 | op_hash(op),
            What::Signal => 0x200,
            What::Stop(stop) => 0x300 | stop_hash(stop) << 16,
            What::Resume => 0x400,
            What::Wait(on) => 0x500 | text_hash(on) << 16,
            What::Sample(what) => 0x600 | text_hash(what) << 16,
            What::Drain => 0x700,
        };
        let place =
            record.place.map_or(0, |p| u64::from(p.function.code()) << 16 | u64::from(p.offset) | 1 << 32);
        let lock =
            record.lock.map_or(0, |o| u64::from(o.machine) << 8 | u64::from(o.operation.code()) | 1 << 16);
        for word in [
            u64::from(record.step) << 8 | u64::from(record.actor.code()),
            what,
            place,
            record.below.map_or(u64::MAX, u64::from),
            lock << 8 | u64::from(record.goroutine),
            u64::from(record.position) << 16 | u64::from(record.barriers),
        ] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
            self.hash ^= self.hash >> 29;
        }
        if self.records.len() < CAPACITY {
            self.records.push(record);
        } else {
            self.dropped += 1;
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn dropped(&self) -> usize {
        self.dropped
    }

    /// The events in words.
    pub(crate) fn events(&self) -> Vec<outcome::Event> {
        self.records.iter().map(Record::in_words).collect()
    }
}

fn text_hash(text: &str) -> u64 {
    text.bytes().fold(7, |hash, byte| (hash * 31 + u64::from(byte)) & 0xffff_ffff)
}

fn op_hash(op: Op) -> u64 {
    u64::from(op.arg().unwrap_or(0)) << 16 | text_hash(op.name()) << 24
}

fn stop_hash(stop: Stop) -> u64 {
    match stop {
        Stop::Point { point, hit } => u64::from(point.code()) | u64::from(hit) << 8,
        Stop::Instr { function, index, hit, .. } => {
            1 << 40 | u64::from(function.code()) | u64::from(hit) << 8 | u64::from(index) << 16
        }
    }
}

impl Record {
    fn in_words(&self) -> outcome::Event {
        outcome::Event {
            step: self.step,
            actor: self.actor.name().to_owned(),
            what: match self.what {
                What::Point(point) => point.name().to_owned(),
                What::Op(op) => format!("{op}"),
                What::Signal => "SIGPROF".to_owned(),
                What::Stop(stop) => format!("held {stop}"),
                What::Resume => "resumed".to_owned(),
                What::Wait(on) => format!("waits for {on}"),
                What::Sample(what) => format!("sample: {what}"),
                What::Drain => "finishes".to_owned(),
            },
            goroutine: self.goroutine,
            pc: self.place.map_or(String::new(), |p| format!("{}+{:#x}", p.function, p.offset)),
            sp: self.below.map_or(String::new(), |below| format!("top-{below}")),
            lock: self
                .lock
                .map_or(String::new(), |o| format!("{}: {}", machine_name(o.machine), o.operation)),
            barriers: if self.barriers == 0 {
                String::new()
            } else {
                format!("{}/{}", self.position, self.barriers)
            },
        }
    }
}

/// A machine by its actor's name.
pub(crate) fn machine_name(machine: u8) -> &'static str {
    ["m1", "m2", "gc", "ext"].get(usize::from(machine)).copied().unwrap_or("?")
}
