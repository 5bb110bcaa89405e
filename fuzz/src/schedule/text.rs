//! The text form, as it is printed; [`parse`](super::parse) reads it.
//!
//! The printer keeps what one actor does in a row on one line. Every line names
//! its actor, so that a line means the same wherever an editor moves it.

use super::operand::Unpacker;
use super::ops::Row;
use super::{Actor, Op, Schedule, Step, Stop, VERSION};
use std::fmt::{self, Display, Write};

/// The beginning of a text's first line; the version follows.
pub(super) const HEADER: &str = "# sigstorm schedule";

/// No printed line is longer, unless one statement is.
const LINE: usize = 90;

/// A piece of the pattern that says how an operation is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Piece {
    /// Blank space, which means nothing.
    Blank,
    /// This word.
    Word(&'static str),
    /// This sign.
    Sign(char),
    /// The operand of this name.
    Operand(&'static str),
    /// A pattern with one operand that may be left out.
    Optional(&'static str),
}

/// Takes a pattern apart.
pub(super) fn pieces(mut pattern: &'static str) -> impl Iterator<Item = Piece> {
    std::iter::from_fn(move || {
        let first = pattern.chars().next()?;
        let bracketed = |close| pattern[1..].split_once(close);
        let word = pattern.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(pattern.len());
        let (piece, rest) = match first {
            ' ' => (Piece::Blank, &pattern[1..]),
            '{' => bracketed('}').map(|(inner, rest)| (Piece::Operand(inner), rest))?,
            '[' => bracketed(']').map(|(inner, rest)| (Piece::Optional(inner), rest))?,
            _ if word > 0 => (Piece::Word(&pattern[..word]), &pattern[word..]),
            sign => (Piece::Sign(sign), &pattern[sign.len_utf8()..]),
        };
        pattern = rest;
        Some(piece)
    })
}

/// The places, in their operands' lists, that an argument stands for.
fn places(row: &Row, arg: u8) -> Vec<(&'static str, &'static str, u8)> {
    let mut args = Unpacker::new(arg);
    let place = |(name, domain): &(&'static str, super::operand::Domain)| {
        let place = args.take_place(*domain);
        (*name, domain.word(place), place)
    };
    row.operands.iter().map(place).collect()
}

/// Writes an operation by its pattern.
fn fill(f: &mut impl Write, pattern: &'static str, places: &[(&str, &str, u8)]) -> fmt::Result {
    let find = |operand| places.iter().find(|(name, _, _)| *name == operand);
    for piece in pieces(pattern) {
        match piece {
            Piece::Blank => f.write_char(' ')?,
            Piece::Word(word) => f.write_str(word)?,
            Piece::Sign(sign) => f.write_char(sign)?,
            Piece::Operand(name) => f.write_str(find(name).map_or("?", |(_, word, _)| word))?,
            Piece::Optional(inner) => {
                let first = |p| matches!(p, Piece::Operand(o) if find(o).is_some_and(|x| x.2 == 0));
                if !pieces(inner).any(first) {
                    fill(f, inner, places)?;
                }
            }
        }
    }
    Ok(())
}

impl Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.arg()) {
            // The goroutine is enough: no other step begins with one.
            (Op::Run { g }, _) => f.write_str(g.name()),
            (_, Some(arg)) => fill(f, self.row().form, &places(self.row(), arg)),
            // Not valid, so it has no text; this is for debugging.
            (_, None) => write!(f, "{self:?}"),
        }
    }
}

impl Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Stop::Point { hit, .. } | Stop::Instr { hit, .. }) = *self;
        match self {
            Stop::Point { point, .. } => write!(f, "@ {point}")?,
            Stop::Instr { function, index, .. } => write!(f, "@ {function}#{index}")?,
        }
        if hit != 1 {
            write!(f, ":{hit}")?;
        }
        match self {
            Stop::Instr { check: Some(check), .. } => write!(f, "/{check:02x}"),
            _ => Ok(()),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.actor != Actor::World {
            write!(f, "{} ", self.actor)?;
        }
        f.write_str(&statement(self))
    }
}

/// A step without its actor.
fn statement(step: &Step) -> String {
    match step.stop {
        None => step.op.to_string(),
        Some(stop) => format!("{} {stop}", step.op),
    }
}

/// Prints a schedule.
pub(super) fn print(schedule: &Schedule) -> String {
    let mut text = format!("{HEADER} {VERSION}\n");
    let mut line = String::new();
    let mut actor = None;
    let mut steps = schedule.canonical_steps().peekable();
    while let Some(step) = steps.next() {
        let mut next = statement(&step);
        let is_run = |step: &Step| matches!(step.op, Op::Run { .. });
        if is_run(&step)
            && step.stop.is_none()
            && let Some(then) = steps.next_if(|s| s.actor == step.actor && !is_run(s))
        {
            next = format!("{next} {}", statement(&then));
        }
        if actor == Some(step.actor) && line.len() + 2 + next.len() <= LINE {
            line = format!("{line}; {next}");
        } else {
            if actor.is_some() {
                text.push_str(&line);
                text.push('\n');
            }
            line = match step.actor {
                Actor::World => next,
                who => format!("{who} {next}"),
            };
            actor = Some(step.actor);
        }
    }
    if actor.is_some() {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::ops::TABLE;
    use super::super::{Class, Goroutine};
    use super::*;
    use sigstorm_runtime::{FuncId, Point};

    #[test]
    fn every_operand_has_its_place_in_the_text() {
        for row in TABLE {
            let mut named = Vec::new();
            for piece in pieces(row.form) {
                match piece {
                    Piece::Operand(name) => named.push(name),
                    Piece::Optional(inner) => {
                        let before = named.len();
                        named.extend(pieces(inner).filter_map(|piece| match piece {
                            Piece::Operand(name) => Some(name),
                            _ => None,
                        }));
                        assert_eq!(named.len(), before + 1, "{}", row.form);
                    }
                    _ => {}
                }
            }
            let mut operands: Vec<_> = row.operands.iter().map(|(name, _)| *name).collect();
            named.sort_unstable();
            operands.sort_unstable();
            assert_eq!(named, operands, "{}", row.form);
        }
    }

    #[test]
    fn operations_are_printed_as_documented() {
        let text = |op: Op| op.to_string();
        let call = |kind, times| text(Op::Call { kind, times });
        assert_eq!(call(FuncId::Small, 1), "call small");
        assert_eq!(call(FuncId::Small, 4), "call small*4");
        assert_eq!(text(Op::Ret { frames: 1 }), "ret");
        assert_eq!(text(Op::Ret { frames: 3 }), "ret 3");
        assert_eq!(text(Op::Run { g: Goroutine::G2 }), "g2");
        assert_eq!(text(Op::Load { dst: 1, src: 0, field: 1 }), "load 1 = 0.1");
        assert_eq!(text(Op::Store { obj: 0, src: 2, field: 1 }), "store 0.1 = 2");
        assert_eq!(text(Op::Move { dst: 1, src: 0 }), "move 1 = 0");
        assert_eq!(text(Op::Up { frames: 3, src: 0, dst: 1 }), "up 3 slot 1 = 0");
        assert_eq!(text(Op::Bulk { frames: 1 }), "bulk 1");
        assert_eq!(text(Op::Ref { dst: 1, frames: 3, to: 0 }), "ref 1 = up 3 slot 0");
        assert_eq!(text(Op::Rate { on: true }), "rate on");
        assert_eq!(text(Op::Stack { bytes: 8192 }), "stack 8192");
        assert_eq!(text(Op::Unreadable { every: 3 }), "unreadable 3");
        assert_eq!(text(Op::Clear { slot: 9 }), "Clear { slot: 9 }");
    }

    #[test]
    fn stops_are_printed_as_documented() {
        let point = |hit| Stop::Point { point: Point::TracebackFrame, hit };
        let instr = |hit, check| Stop::Instr { function: FuncId::Small, index: 5, hit, check };
        assert_eq!(point(1).to_string(), "@ traceback.frame");
        assert_eq!(point(3).to_string(), "@ traceback.frame:3");
        assert_eq!(instr(1, None).to_string(), "@ small#5");
        assert_eq!(instr(2, None).to_string(), "@ small#5:2");
        assert_eq!(instr(1, Some(0x3f)).to_string(), "@ small#5/3f");
        assert_eq!(instr(2, Some(4)).to_string(), "@ small#5:2/04");
    }

    #[test]
    fn lines_belong_to_one_actor_and_are_not_too_long() {
        let step = |actor: Actor, code, arg| Step {
            actor,
            op: Op::from_code(actor.class(), code, arg).unwrap(),
            stop: None,
        };
        let mut steps = vec![
            step(Actor::World, 0, 0),
            step(Actor::World, 1, 2),
            step(Actor::M1, 2, 0),
            step(Actor::M1, 2, 1),
            step(Actor::M1, 3, 2),
            step(Actor::M1, 2, 0),
            step(Actor::Gc, 2, 0),
        ];
        assert_eq!(Actor::M2.class(), Class::M);
        steps.extend([step(Actor::M2, 3, 0b11110); 8]);
        let text = print(&Schedule { steps });
        let lines = [
            "# sigstorm schedule 1",
            "every_frame; stack 8192",
            "m1 g1; g2 call small; g1",
            "gc mark",
            "m2 call deferring*8; call deferring*8; call deferring*8; call deferring*8",
            "m2 call deferring*8; call deferring*8; call deferring*8; call deferring*8",
        ];
        assert_eq!(text, lines.join("\n") + "\n");
        assert_eq!(print(&Schedule::default()), "# sigstorm schedule 1\n");
    }
}
