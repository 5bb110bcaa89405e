//! Reads stops: the part of a statement after `@`.
//!
//! A stop is one word with signs in it and has no blanks. So a `#` in it is never a
//! comment, and a comment that follows must keep its distance.

use super::cursor::{Word, is_word};
use super::error::{ParseError, quote, suggest};
use super::parse::{Parser, Result, is_decimal};
use super::{Actor, Stop};
use sigstorm_runtime::{FuncId, Point};

impl Parser<'_> {
    /// Reads the last step's stop, if there is one.
    pub(super) fn stop(&mut self) -> Result<()> {
        let at = self.cursor.at;
        if !self.cursor.eat('@') {
            return Ok(());
        }
        self.cursor.skip_blank();
        if self.steps.last().is_some_and(|step| step.actor == Actor::World) {
            return Err(self.error(at, 1, "an option cannot be held anywhere".into()));
        }
        let word = self.cursor.word(|c| is_word(c) || c == '.');
        let word = word.ok_or_else(|| self.expected("a scheduling point, or FUNCTION#INDEX"))?;
        let stop = match (Point::from_name(word.text), FuncId::from_name(word.text)) {
            (Some(point), _) if self.cursor.peek() != Some('#') => Stop::Point { point, hit: self.hit()? },
            (_, Some(function)) if self.cursor.eat('#') => Stop::Instr {
                function,
                index: self.number("an instruction index", 0, u16::MAX)?,
                hit: self.hit()?,
                check: self.check()?,
            },
            (Some(point), _) => {
                let message = format!("`{point}` is a scheduling point, which has no index");
                let error = self.error(self.cursor.at, 1, message);
                return Err(error.with_help("put a blank before a comment".to_string()));
            }
            (_, Some(function)) => {
                let message = format!("`{function}` is a function: say at which instruction");
                let help = format!("for example: `@ {function}#0`");
                return Err(self.error_at(word, message).with_help(help));
            }
            (None, None) => return Err(self.no_place(word)),
        };
        if let Some(step) = self.steps.last_mut() {
            step.stop = Some(stop);
        }
        self.cursor.skip_blank();
        Ok(())
    }

    fn no_place(&self, word: Word<'_>) -> ParseError {
        let points = Point::ALL.iter().map(|point| point.name());
        let functions = FuncId::ALL.iter().map(|function| function.name());
        let (kind, near) = match self.cursor.peek() {
            Some('#') => ("function", suggest(word.text, functions)),
            _ => ("scheduling point", suggest(word.text, points.chain(functions))),
        };
        let message = format!("{} is not a {kind}", quote(word.text));
        self.error_at(word, message).with_help(near)
    }

    fn hit(&mut self) -> Result<u8> {
        match self.cursor.eat(':') {
            true => self.number("a hit", 1, 8),
            false => Ok(1),
        }
    }

    fn check(&mut self) -> Result<Option<u8>> {
        if !self.cursor.eat('/') {
            return Ok(None);
        }
        let word = self.cursor.word(is_word);
        let word = word.ok_or_else(|| self.expected("a check value, 0 to 7f"))?;
        if !word.text.chars().all(|c| c.is_ascii_hexdigit()) {
            let message = format!("{} is not a hexadecimal number", quote(word.text));
            return Err(self.error_at(word, message));
        }
        match u8::from_str_radix(word.text, 16) {
            Ok(check @ ..=127) => Ok(Some(check)),
            _ => {
                let shown = quote(word.text);
                let message = format!("{shown} is out of range: a check value is 0 to 7f");
                Err(self.error_at(word, message))
            }
        }
    }

    fn number<N>(&mut self, what: &str, min: N, max: N) -> Result<N>
    where
        N: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let word = self.cursor.word(is_word);
        let word = word.ok_or_else(|| self.expected(&format!("{what}, {min} to {max}")))?;
        if !is_decimal(word.text) {
            return Err(self.error_at(word, format!("{} is not a number", quote(word.text))));
        }
        match word.text.parse() {
            Ok(number) if (&min..=&max).contains(&&number) => Ok(number),
            _ => {
                let shown = quote(word.text);
                let message = format!("{shown} is out of range: {what} is {min} to {max}");
                Err(self.error_at(word, message))
            }
        }
    }
}
