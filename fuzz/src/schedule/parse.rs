//! Reads the text form; the grammar is in [the module's prose](super).
//!
//! The first thing wrong ends it. Messages are part of the work: they say what was
//! expected in the words of the grammar, and show what the author may have meant.

use super::cursor::{Cursor, Word, is_word};
use super::error::{ParseError, quote, suggest};
use super::operand::{Domain, Packer};
use super::ops::{Row, TABLE};
use super::text::{HEADER, Piece, pieces};
use super::{Actor, Class, Goroutine, MAX_STEPS, Op, Schedule, Step, VERSION};
use std::str::Utf8Error;

pub(super) type Result<T> = std::result::Result<T, ParseError>;

/// A mark that some editors put before a text.
const MARK: char = '\u{feff}';

/// Returns whether the first line of a file is that of a text, whatever its version.
pub(super) fn is_text(file: &[u8]) -> bool {
    let mark = MARK.encode_utf8(&mut [0; 4]).len();
    let begins = |file: &[u8]| match file.strip_prefix(HEADER.as_bytes()) {
        Some(rest) => rest.first().is_none_or(u8::is_ascii_whitespace),
        None => false,
    };
    let marked = file.starts_with(MARK.encode_utf8(&mut [0; 4]).as_bytes());
    begins(file) || marked && begins(&file[mark..])
}

/// Says where a text stops being UTF-8.
pub(super) fn not_utf8(file: &[u8], error: Utf8Error) -> ParseError {
    let text = String::from_utf8_lossy(file);
    ParseError::new(&text, error.valid_up_to(), 1, "the text is not UTF-8".into())
}

/// Reads a text.
pub(super) fn parse(text: &str) -> Result<Schedule> {
    let text = text.strip_prefix(MARK).unwrap_or(text);
    let mut parser = Parser { cursor: Cursor { text, at: 0 }, actor: Actor::M1, steps: Vec::new() };
    parser.header()?;
    while parser.cursor.peek().is_some() {
        parser.cursor.skip_blank();
        match parser.cursor.peek() {
            Some(sep @ ('\n' | ';')) => _ = parser.cursor.eat(sep),
            Some('#') => parser.cursor.skip_line(),
            Some(_) => parser.statement()?,
            None => {}
        }
    }
    Ok(Schedule { steps: parser.steps })
}

/// A text that is being read, and what was read.
pub(super) struct Parser<'t> {
    /// The place in the text.
    pub(super) cursor: Cursor<'t>,
    /// The actor of a step that names none.
    actor: Actor,
    /// The steps so far.
    pub(super) steps: Vec<Step>,
}

impl<'t> Parser<'t> {
    /// An error about `len` bytes at `start`.
    pub(super) fn error(&self, start: usize, len: usize, message: String) -> ParseError {
        ParseError::new(self.cursor.text, start, len, message)
    }

    /// An error about a word.
    pub(super) fn error_at(&self, word: Word<'_>, message: String) -> ParseError {
        self.error(word.start, word.text.len(), message)
    }

    /// An error about what is here, where something else should be.
    pub(super) fn expected(&self, what: &str) -> ParseError {
        let (found, len) = self.cursor.found();
        self.error(self.cursor.at, len, format!("expected {what}, found {found}"))
    }

    fn header(&mut self) -> Result<()> {
        let line = self.cursor.rest().lines().next().unwrap_or("");
        self.cursor.skip_line();
        let wanted = format!("`{HEADER} {VERSION}`");
        let version = match line.strip_prefix(HEADER) {
            Some(rest) if rest.is_empty() || rest.starts_with(char::is_whitespace) => rest.trim(),
            _ => {
                let message = format!("the first line must be {wanted}");
                return Err(self.error(0, line.len(), message));
            }
        };
        if version == VERSION.to_string() {
            return Ok(());
        }
        let message = match version {
            "" => "the first line names no version".into(),
            _ if is_decimal(version) => {
                let version: String = version.chars().take(40).collect();
                format!("this file is version {version}, this build reads version {VERSION}")
            }
            _ => format!("{} is no version", quote(version)),
        };
        let start = line.trim_end().len() - version.len();
        let help = format!("the first line must be {wanted}");
        Err(self.error(start, version.len(), message).with_help(help))
    }

    /// Reads one statement; there is one.
    fn statement(&mut self) -> Result<()> {
        let mut head = self.head("an actor or a step")?;
        let mut prefix = None;
        if let Some(actor) = Actor::from_name(head.text) {
            if actor == Actor::World {
                let error = self.error_at(head, "options are written without an actor".into());
                return Err(error.with_help("leave `world` out".to_string()));
            }
            self.actor = actor;
            prefix = Some(head);
            head = self.head(&format!("a step after `{actor}`"))?;
        }
        if let Some(g) = Goroutine::from_name(head.text) {
            let op = Op::Run { g };
            self.check_actor(head, op.row(), self.cursor.clone())?;
            self.push(head, self.actor, op)?;
            prefix = Some(head);
            if !self.cursor.at_end() && self.cursor.peek() != Some('@') {
                head = self.head("a step")?;
                self.operation(head, prefix)?;
            }
        } else {
            self.operation(head, prefix)?;
        }
        self.stop()?;
        match self.cursor.at_end() {
            true => Ok(()),
            false => Err(self
                .expected("the end of the statement")
                .with_help("statements are separated by `;` or by a new line".to_string())),
        }
    }

    /// The next word, and past the blanks that follow it.
    fn head(&mut self, what: &str) -> Result<Word<'t>> {
        let word = self.cursor.word(is_word);
        let word = word.ok_or_else(|| self.expected(what))?;
        self.cursor.skip_blank();
        Ok(word)
    }

    fn push(&mut self, word: Word<'_>, actor: Actor, op: Op) -> Result<()> {
        if self.steps.len() == MAX_STEPS {
            let message = format!("this is step {}: {MAX_STEPS} are the most", MAX_STEPS + 1);
            return Err(self.error_at(word, message));
        }
        self.steps.push(Step { actor, op, stop: None });
        Ok(())
    }

    /// Reads an operation whose name is `head`, after `prefix`.
    fn operation(&mut self, head: Word<'t>, prefix: Option<Word<'t>>) -> Result<()> {
        let row = Row::by_name(head.text).ok_or_else(|| self.unknown(head, prefix))?;
        let is_option = row.code(Class::World).is_some();
        let actor = if is_option { Actor::World } else { self.actor };
        match prefix {
            Some(prefix) if is_option => {
                let message = format!("`{}` is an option, and an option has no actor", row.name());
                let help = format!("leave `{}` out", prefix.text);
                return Err(self.error_at(prefix, message).with_help(help));
            }
            _ if is_option => {}
            _ => self.check_actor(head, row, self.cursor.clone())?,
        }
        let op = self.operands(row)?;
        self.push(head, actor, op)
    }

    /// Sees to it that the actor can do this; `after` is where the name ends.
    fn check_actor(&self, head: Word<'_>, row: &'static Row, after: Cursor<'t>) -> Result<()> {
        if row.code(self.actor.class()).is_some() {
            return Ok(());
        }
        let mut ahead = Parser { cursor: after, actor: self.actor, steps: Vec::new() };
        let op = match Goroutine::from_name(head.text) {
            Some(g) => g.to_string(),
            None => ahead.operands(row).map_or(head.text.to_string(), |op| op.to_string()),
        };
        let owns = |actor: &&Actor| row.code(actor.class()).is_some();
        let Some(owner) = Actor::ALL.iter().find(owns) else {
            return Err(self.unknown(head, None));
        };
        let whose = match owner.class() {
            Class::M => "a machine's",
            Class::Gc => "the collector's",
            Class::Ext => "the foreign thread's",
            Class::World => "an option",
        };
        let message = format!("`{}` is {whose}, not {}'s: write `{owner} {op}`", head.text, self.actor);
        Err(self.error_at(head, message))
    }

    /// An error for a word, after `prefix`, that names nothing.
    fn unknown(&self, word: Word<'_>, prefix: Option<Word<'_>>) -> ParseError {
        let shown = quote(word.text);
        if word.text.strip_prefix('g').is_some_and(is_decimal) {
            let message = format!("{shown} is not a goroutine: they are g1 to g4");
            return self.error_at(word, message);
        }
        let message = match prefix {
            None => format!("{shown} is neither an actor nor a step"),
            Some(_) => format!("{shown} is not a step"),
        };
        let own = |row: &&Row| row.code(self.actor.class()).is_some();
        let own: Vec<_> = TABLE.iter().filter(own).map(Row::name).collect();
        let actors = Actor::ALL.iter().filter(|_| prefix.is_none());
        let actors = actors.filter(|&&actor| actor != Actor::World);
        // The operations of this actor come first, among equals.
        let names = own.iter().copied().chain(TABLE.iter().map(Row::name));
        let near = suggest(word.text, names.chain(actors.map(|actor| actor.name())));
        let help = near.unwrap_or_else(|| format!("{} can: {}", self.actor, own.join(", ")));
        self.error_at(word, message).with_help(help)
    }

    /// Reads an operation's operands, by its pattern.
    fn operands(&mut self, row: &'static Row) -> Result<Op> {
        let mut places = vec![0; row.operands.len()];
        // The name has been read.
        let pattern = &row.form[row.name().len()..];
        self.fill(row, pattern, &mut places)?;
        let mut args = Packer::default();
        for ((_, domain), place) in row.operands.iter().zip(places) {
            args.put_place(*domain, place);
        }
        Ok(row.op(args.arg()))
    }

    fn fill(&mut self, row: &'static Row, pattern: &'static str, places: &mut [u8]) -> Result<()> {
        for piece in pieces(pattern) {
            self.cursor.skip_blank();
            match piece {
                Piece::Blank => {}
                Piece::Sign(sign) if self.cursor.eat(sign) => {}
                Piece::Sign(sign) => return Err(self.malformed(row, &format!("`{sign}`"))),
                Piece::Word(word) => match self.cursor.clone().word(is_word) {
                    Some(found) if found.text == word => self.cursor.at += word.len(),
                    _ => return Err(self.malformed(row, &format!("`{word}`"))),
                },
                Piece::Operand(name) => {
                    let operands = row.operands.iter().zip(&mut *places);
                    for ((_, domain), place) in operands.filter(|((n, _), _)| *n == name) {
                        *place = self.operand(row, *domain)?;
                    }
                }
                Piece::Optional(inner) => {
                    let present = match pieces(inner).find(|piece| *piece != Piece::Blank) {
                        Some(Piece::Sign(sign)) => self.cursor.peek() == Some(sign),
                        _ => !self.cursor.at_end() && self.cursor.peek() != Some('@'),
                    };
                    if present {
                        self.fill(row, inner, places)?;
                    }
                }
            }
        }
        self.cursor.skip_blank();
        Ok(())
    }

    /// Reads an operand; gives the place of its value.
    fn operand(&mut self, row: &'static Row, domain: Domain) -> Result<u8> {
        let Domain { what, words } = domain;
        let Some(word) = self.cursor.word(is_word) else {
            return Err(self.malformed(row, what));
        };
        domain.place(word.text).ok_or_else(|| {
            let all = format!("{what} is one of: {}", words.join(", "));
            if is_decimal(word.text) && words.iter().all(|word| is_decimal(word)) {
                let message = format!("{} is out of range: {all}", quote(word.text));
                return self.error_at(word, message);
            }
            let message = format!("{} is not {what}", quote(word.text));
            let help = match suggest(word.text, words.iter().copied()) {
                Some(near) => format!("{near} ({all})"),
                None => all,
            };
            self.error_at(word, message).with_help(help)
        })
    }

    /// An error about what is here, with how the operation is written.
    fn malformed(&self, row: &'static Row, what: &str) -> ParseError {
        let help = format!("for example: `{}`", row.op(0b0101_0101));
        self.expected(what).with_help(help)
    }
}

/// Returns whether it is a number without a sign.
pub(super) fn is_decimal(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(statements: &str) -> Vec<String> {
        let schedule = parse(&format!("{HEADER} {VERSION}\n{statements}")).unwrap();
        schedule.steps.iter().map(Step::to_string).collect()
    }

    #[test]
    fn an_actor_lasts_until_the_next() {
        assert_eq!(
            steps("signal; gc mark; stack 4096; term\n sweep"),
            ["m1 signal", "gc mark", "stack 4096", "gc term", "gc sweep"]
        );
    }

    #[test]
    fn a_goroutine_is_a_step_and_a_stop_belongs_to_the_last() {
        assert_eq!(
            steps("g1 call small*2 @ small#5:2/3f; m2 g2@goroutine.taken;g3"),
            ["m1 g1", "m1 call small*2 @ small#5:2/3f", "m2 g2 @ goroutine.taken", "m2 g3"]
        );
        assert_eq!(steps("run g4 @ goroutine.taken:8"), ["m1 g4 @ goroutine.taken:8"]);
    }

    #[test]
    fn blanks_and_comments_mean_nothing() {
        assert_eq!(
            steps("\t;; # m2 panic; x\n m1 call  small * 4# x\r\n;load 1=0 . 1 @ small#3 # x"),
            ["m1 call small*4", "m1 load 1 = 0.1 @ small#3"]
        );
        assert_eq!(steps("ret# x\nret 2@lock.release # x"), ["m1 ret", "m1 ret 2 @ lock.release"]);
        assert_eq!(steps(""), [""; 0]);
    }

    #[test]
    fn every_operation_is_read_as_it_is_written() {
        for row in TABLE {
            for arg in 0..=u8::MAX {
                let op = row.op(arg);
                for actor in Actor::ALL.iter().filter(|&&actor| op.valid_for(actor)) {
                    let step = Step { actor: *actor, op, stop: None }.to_string();
                    assert_eq!(steps(&step), [step]);
                }
            }
        }
    }
}
