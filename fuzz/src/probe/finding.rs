//! The findings of a probe, and what groups them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A kind of finding, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The program died of a signal that it does not die of undisturbed.
    Crash,
    /// The handler waits for what will never come.
    Deadlock,
    /// The handler runs and runs.
    Livelock,
    /// The exit status, or the output, is another than undisturbed.
    Exit,
    /// The handler did not leave the thread's state as it was.
    State,
    /// The signal was delivered, and its handler did not run.
    LostSignal,
}

impl Kind {
    /// The name in reports, folders and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Crash => "crash",
            Kind::Deadlock => "deadlock",
            Kind::Livelock => "livelock",
            Kind::Exit => "exit",
            Kind::State => "state",
            Kind::LostSignal => "lost-signal",
        }
    }
}

/// The place of an injection, as it means the same in every process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The object's path.
    pub object: String,
    /// The function.
    pub function: String,
    /// The address in the object's file.
    pub address: u64,
    /// Bytes from the function's first.
    pub offset: u64,
    /// The instruction there, as text.
    pub instruction: String,
    /// The source line, where it is known.
    pub source: Option<String>,
    /// Which visit of the boundary, from 1, counted from when injections begin.
    pub visit: u32,
    /// The instruction at which the handler was held (`--deliver held`), by its address in the process.
    #[serde(default)]
    pub held: Option<u64>,
}

impl Site {
    /// `object!function+0x1f`.
    pub fn describe(&self) -> String {
        let object = self.object.rsplit('/').next().unwrap_or(&self.object);
        format!("{object}!{}+{:#x}", self.function, self.offset)
    }
}

/// A lock that a thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The address of its word.
    pub address: u64,
    /// The name for people.
    pub name: String,
    /// The name without what differs from process to process.
    pub key: String,
}

/// One thing that went wrong in one process.
#[derive(Clone, Debug)]
pub struct Found {
    /// The kind.
    pub kind: Kind,
    /// One line.
    pub summary: String,
    /// The evidence, in lines.
    pub evidence: Vec<String>,
    /// The threads' stacks.
    pub stacks: Vec<String>,
    /// The injection that it comes of, if it comes of one.
    pub site: Option<Site>,
    /// Where it happened, for the cause: a crash site, a lock, what was changed.
    pub place: String,
    /// The word of the lock that the handler waits for.
    pub lock: Option<u64>,
    /// The interrupted thread.
    pub thread: i32,
    /// Whether it is proven rather than likely.
    pub certain: bool,
    /// The boundaries at which its process got signals before it, by object and address, each once.
    pub log: Vec<(PathBuf, u64)>,
    /// The boundaries of other handlers that had not returned either: one of them may be what the handler waits for.
    pub others: Vec<Site>,
}

impl Found {
    /// Findings of one cause have the same key: the same kind at the same place, under the same function.
    pub fn cause(&self) -> String {
        match (&self.site, self.kind) {
            // Which instruction was interrupted makes no difference to what the handler changes.
            (_, Kind::State) | (None, _) => format!("{} of {}", self.kind.name(), self.place),
            (Some(site), _) => format!("{} of {} in {}", self.kind.name(), self.place, site.function),
        }
    }
}

/// Findings of one cause.
#[derive(Clone, Debug)]
pub struct Group {
    /// The first one.
    pub first: Found,
    /// Its cause as it was met, before another injection was found to be the one that counts.
    pub met_as: String,
    /// Seconds until it was found.
    pub seconds: f64,
    /// The boundaries at which it was found, each once.
    pub sites: Vec<Site>,
    /// How often it was met, confirmation aside.
    pub met: u64,
    /// Fresh processes that showed it again.
    pub reproduced: u32,
    /// Fresh processes in which it was tried.
    pub tried: u32,
    /// Notes on how it was confirmed.
    pub notes: Vec<String>,
}

impl Group {
    /// Returns whether a fresh process has shown it again.
    pub fn is_confirmed(&self) -> bool {
        self.reproduced > 0
    }
}
