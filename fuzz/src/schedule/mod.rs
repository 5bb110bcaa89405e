//! Schedules: what the fuzzer's inputs mean.
//!
//! A schedule is a list of steps. A step names an actor, what it does, and the
//! place at which it is held meanwhile, if it is. The same schedule has two forms.
//! The *byte form* is for engines: **every byte string is a schedule**, and each
//! step is [`STEP_BYTES`] wide, so mutations and splices act on whole steps. The
//! *text form* is for people: reports, regression tests, an editor. Either converts
//! to the other and back without loss, for every [canonical](Step::canonical)
//! schedule of at most [`MAX_STEPS`].
//!
//! # The byte form
//!
//! | byte | bits | |
//! |---|---|---|
//! | 0 | 0-2 | actor: 0, 1, 2 the one of the step before that is no option (at first `m1`); else [`Actor`]'s code |
//! | 1 | 0-5 | operation: its code for that [class](Class) of actor, in the table in `ops.rs` |
//! | 2 | | argument: the operation's operands, lowest bits first |
//! | 3 | 0-1 | stop: 2 at a point, 3 at an instruction, else none |
//! | | 2-4 | the hit that counts, less one |
//! | 4 | 0-5 | the place: a [`Point`]'s code, or a [`FuncId`]'s |
//! | 5, 6 | | the instruction's index in the function, low byte first |
//! | 5 | 0 | at a point instead: bit 6 of its code |
//! | 7 | 0-6 | a check value for that instruction, if bit 7 is set |
//!
//! A step whose operation is unassigned, a partial last step and whatever follows
//! [`MAX_STEPS`] steps are as if absent; a stop whose place is unassigned likewise,
//! and its step stays. Options have no stops. Every bit not named, or of no use to
//! the step, is ignored. The canonical bytes, which [`Schedule::encode`] gives, have
//! zeros there and say "the same actor" wherever they can.
//!
//! # The text form
//!
//! ```
//! # use sigstorm::schedule::Schedule;
//! # let text = "\
//! ## sigstorm schedule 1
//! every_frame
//! m1 g1 call small; call large; syscall     # G1 enters a system call on M1
//! m1 signal @ traceback.begin               # the walk is held as it begins
//! gc mark; scan g1                          # barriers are installed meanwhile
//! m1 resume
//! # ";
//! # assert_eq!(Schedule::parse(text).unwrap().steps.len(), 9);
//! ```
//!
//! ```text
//! text      = "# sigstorm schedule 1" newline { [ statement ] [ "#" comment ] ( ";" | newline ) }
//! statement = option | [ actor ] [ goroutine ] operation [ "@" stop ] | [ actor ] goroutine [ "@" stop ]
//! actor     = "m1" | "m2" | "gc" | "ext"              left out: as in the statement before; at first m1
//! goroutine = "g1" | "g2" | "g3" | "g4"               a step of its own: run it
//! stop      = point [ ":" hit ]                       the hit-th time that it gets there; 1 to 8
//!           | function "#" index [ ":" hit ] [ "/" check ]   check: hexadecimal, to 7f
//! ```
//!
//! Operations and options are written as `ops.rs` says. A stop belongs to the last
//! step of its statement. A comment ends with its line; within a stop, a `#` right after the
//! name begins an index, not a comment.

#![forbid(unsafe_code)]

mod bytes;
pub mod checks;
mod cursor;
mod error;
mod operand;
mod ops;
mod parse;
mod stops;
mod text;

pub use error::ParseError;
pub use ops::Op;

use sigstorm_runtime::{FuncId, Point, named_codes};
use std::{fmt, str};

/// A step's width in the byte form.
pub const STEP_BYTES: usize = 8;

/// A schedule has no more steps than this; what follows is ignored.
pub const MAX_STEPS: usize = 4096;

/// The text form's version.
const VERSION: u32 = 1;

named_codes! {
    /// The actor of a step. The codes are those of the byte form.
    pub enum Actor {
        /// A machine of the runtime: a thread that runs goroutines.
        M1 = 3, "m1";
        /// The other one.
        M2 = 4, "m2";
        /// The collector.
        Gc = 5, "gc";
        /// A thread that the runtime does not know.
        Ext = 6, "ext";
        /// No actor: the step is an option, which counts only before all steps that are none.
        World = 7, "world";
    }
}

impl Actor {
    /// The class of this actor.
    pub const fn class(self) -> Class {
        match self {
            Actor::M1 | Actor::M2 => Class::M,
            Actor::Gc => Class::Gc,
            Actor::Ext => Class::Ext,
            Actor::World => Class::World,
        }
    }
}

/// Kinds of actors; each has its own operations, and its own codes for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `m1` and `m2`.
    M,
    /// `gc`.
    Gc,
    /// `ext`.
    Ext,
    /// Options.
    World,
}

named_codes! {
    /// A goroutine that a schedule can name.
    pub enum Goroutine {
        /// The first.
        G1 = 0, "g1";
        /// The second.
        G2 = 1, "g2";
        /// The third.
        G3 = 2, "g3";
        /// The fourth.
        G4 = 3, "g4";
    }
}

named_codes! {
    /// The part of a cycle that a machine with goroutines does.
    pub enum Work {
        /// Begins concurrent marking.
        Mark = 0, "mark";
        /// Terminates it.
        Term = 1, "term";
        /// Sweeps.
        Sweep = 2, "sweep";
        /// A whole cycle with the world stopped.
        Stw = 3, "stw";
    }
}

/// Where a step is held: the actor waits there until a step resumes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// At a scheduling point.
    Point {
        /// Which.
        point: Point,
        /// The time it gets there that counts, 1 to 8.
        hit: u8,
    },
    /// Before an instruction of a function.
    Instr {
        /// The function.
        function: FuncId,
        /// The instruction: how many of the function's precede it.
        index: u16,
        /// The time it gets there that counts, 1 to 8.
        hit: u8,
        /// Tells whether that instruction is still the one that was meant, 0 to 127.
        check: Option<u8>,
    },
}

/// One step of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// The actor.
    pub actor: Actor,
    /// The operation.
    pub op: Op,
    /// Where it is held.
    pub stop: Option<Stop>,
}

impl Step {
    /// The step as its forms have it, the same for every step that came from a form.
    ///
    /// Nothing if the actor cannot do this or if a payload is outside its range; no
    /// stop if the stop is outside its range or the step is an option.
    pub fn canonical(self) -> Option<Step> {
        self.op.arg()?;
        let in_range = |stop: &Stop| match stop {
            Stop::Point { hit, .. } => matches!(hit, 1..=8),
            Stop::Instr { hit, check, .. } => matches!(hit, 1..=8) && matches!(check, None | Some(..=127)),
        };
        let stop = self.stop.filter(|stop| self.actor != Actor::World && in_range(stop));
        self.op.valid_for(self.actor).then_some(Step { stop, ..self })
    }
}

/// A run of the fuzzer, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The steps; no form has more than [`MAX_STEPS`], or any that are not
    /// [canonical](Step::canonical).
    pub steps: Vec<Step>,
}

impl Schedule {
    /// Reads the byte form, which any bytes are.
    pub fn decode(bytes: &[u8]) -> Schedule {
        bytes::decode(bytes)
    }

    /// The canonical byte form.
    pub fn encode(&self) -> Vec<u8> {
        bytes::encode(self)
    }

    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// Says what is wrong first, where, and what would be right.
    pub fn parse(text: &str) -> Result<Schedule, ParseError> {
        parse::parse(text)
    }

    /// The canonical text form.
    pub fn to_text(&self) -> String {
        text::print(self)
    }

    /// Reads a file of either form: text if its first line is that of a text, of
    /// this version or another; else bytes.
    ///
    /// # Errors
    ///
    /// For a text, what [`Schedule::parse`] says, or that it is not UTF-8.
    pub fn from_file_bytes(file: &[u8]) -> Result<Schedule, ParseError> {
        if !parse::is_text(file) {
            return Ok(Schedule::decode(file));
        }
        match str::from_utf8(file) {
            Ok(text) => Schedule::parse(text),
            Err(error) => Err(parse::not_utf8(file, error)),
        }
    }

    /// The part of it that both forms keep.
    pub fn canonical(&self) -> Schedule {
        Schedule { steps: self.canonical_steps().collect() }
    }

    fn canonical_steps(&self) -> impl Iterator<Item = Step> {
        let steps = self.steps.iter().copied();
        steps.filter_map(Step::canonical).take(MAX_STEPS)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl str::FromStr for Schedule {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Schedule, ParseError> {
        Schedule::parse(text)
    }
}

impl<'a> arbitrary::Arbitrary<'a> for Schedule {
    fn arbitrary(u: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Schedule> {
        let rest = u.len();
        Ok(Schedule::decode(u.bytes(rest)?))
    }

    fn arbitrary_take_rest(u: arbitrary::Unstructured<'a>) -> arbitrary::Result<Schedule> {
        Ok(Schedule::decode(u.take_rest()))
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (0, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arbitrary::{Arbitrary, Unstructured};

    #[test]
    fn files_are_told_apart_by_their_first_line() {
        let text = b"# sigstorm schedule 1\ngc mark\n";
        let schedule = Schedule::from_file_bytes(text).unwrap();
        assert_eq!(schedule.steps[0].op, Op::Mark);
        let bytes = schedule.encode();
        assert_eq!(Schedule::from_file_bytes(&bytes).unwrap(), schedule);
        assert_eq!(Schedule::from_file_bytes(b"").unwrap(), Schedule::default());
        // Close, but bytes: only the very line makes a text.
        for bytes in [&b"# sigstorm schedul"[..], b"\n# sigstorm schedule 1", b"# sigstorm schedules"] {
            assert_eq!(Schedule::from_file_bytes(bytes).unwrap(), Schedule::decode(bytes));
        }
    }

    #[test]
    fn a_text_is_never_taken_for_bytes() {
        let message = |file: &[u8]| Schedule::from_file_bytes(file).unwrap_err().message;
        assert_eq!(
            message(b"# sigstorm schedule 2\nfuture"),
            "this file is version 2, this build reads version 1"
        );
        assert_eq!(message(b"# sigstorm schedule\n"), "the first line names no version");
        let error = Schedule::from_file_bytes(b"# sigstorm schedule 1\nm1 \xff").unwrap_err();
        assert_eq!((error.line, error.column), (2, 4));
        assert_eq!(error.message, "the text is not UTF-8");
        // Editors add these.
        for text in ["\u{feff}# sigstorm schedule 1\r\ngc mark\r\n", "# sigstorm schedule 1\t"] {
            Schedule::from_file_bytes(text.as_bytes()).unwrap();
        }
    }

    #[test]
    fn canonical_bytes_are_never_taken_for_text() {
        // Byte 0 of a canonical step is an actor, and '#' is none.
        assert!(Actor::ALL.iter().all(|actor| actor.code() < b'#'));
    }

    #[test]
    fn arbitrary_schedules_are_decoded_bytes() {
        let bytes = [5, 2, 0, 0, 0, 0, 0, 0, 3, 1];
        let expected = Schedule::decode(&bytes);
        let mut u = Unstructured::new(&bytes);
        assert_eq!(Schedule::arbitrary(&mut u).unwrap(), expected);
        assert!(u.is_empty());
        let u = Unstructured::new(&bytes);
        assert_eq!(Schedule::arbitrary_take_rest(u).unwrap(), expected);
    }
}
