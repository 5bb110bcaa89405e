//! An error in a text, and its place: one that a person can act on.

use std::fmt;

/// So much of a line is shown at most.
const SHOWN: usize = 100;

/// Why a text is no schedule.
///
/// Its `Display` is several lines: the place and what is wrong, the line itself
/// with carets under the culprit, and help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// The mistake.
    pub message: String,
    /// A suggestion for the text to write instead.
    pub help: Option<String>,
    /// The part of the line that is shown.
    excerpt: String,
    /// Where the carets begin under it, and how many there are.
    carets: (usize, usize),
}

impl ParseError {
    /// An error about `len` bytes of `text` at `start`. Both may be anything.
    pub(super) fn new(text: &str, start: usize, len: usize, message: String) -> ParseError {
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
        let start = boundary(start).unwrap_or(0);
        let end = boundary(start.saturating_add(len)).unwrap_or(start);
        let begin = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[begin..].lines().next().unwrap_or("");
        let before = text[begin..start].chars().count();
        let culprit = text[start..end].chars().take_while(|&c| c != '\n').count();

        // A line may be a megabyte: show what is around the culprit.
        let skip = if line.chars().count() > SHOWN { before.saturating_sub(SHOWN / 2) } else { 0 };
        let visible = |c: char| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        let carets = culprit.min((SHOWN + skip).saturating_sub(before)).max(1);
        ParseError {
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            message,
            help: None,
            excerpt: line.chars().skip(skip).take(SHOWN).map(visible).collect(),
            carets: (before - skip, carets),
        }
    }

    /// The same with help.
    pub(super) fn with_help(self, help: impl Into<Option<String>>) -> ParseError {
        ParseError { help: help.into(), ..self }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ParseError { line, column, .. } = self;
        let margin = line.to_string().len();
        let (indent, carets) = self.carets;
        writeln!(f, "line {line}, column {column}: {}", self.message)?;
        writeln!(f, " {line} | {}", self.excerpt)?;
        write!(f, " {:margin$} | {:indent$}{:^<carets$}", "", "", "")?;
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ParseError {}

/// A word of the text as messages have it: in backquotes, and not endlessly long.
pub(super) fn quote(word: &str) -> String {
    let mut shown: String = word.chars().take(40).collect();
    if shown.len() < word.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// "did you mean", if one of the candidates is near.
pub(super) fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Longer ones are no slip of the finger.
    if word.len() > 40 {
        return None;
    }
    let word = word.to_lowercase();
    let likeness = |candidate: &&str| strsim::normalized_damerau_levenshtein(&word, candidate);
    // The first of those that are equally near.
    let best = candidates.into_iter().min_by(|a, b| likeness(b).total_cmp(&likeness(a)))?;
    (likeness(&best) >= 0.5).then(|| format!("did you mean `{best}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_is_under_the_culprit() {
        let text = "one\n\ttwo thre\nfour";
        let error = ParseError::new(text, 9, 4, "`thre` is no number".into());
        assert_eq!((error.line, error.column), (2, 6));
        let shown = "line 2, column 6: `thre` is no number\n 2 |  two thre\n   |      ^^^^";
        assert_eq!(error.to_string(), shown);
        let help = error.with_help(suggest("thre", ["two", "three"]));
        assert_eq!(help.to_string(), format!("{shown}\nhelp: did you mean `three`?"));
    }

    #[test]
    fn any_place_will_do() {
        let text = "ä\u{7}\nöö";
        for start in 0..=text.len() + 2 {
            for len in [0, 1, 100, usize::MAX] {
                let error = ParseError::new(text, start, len, String::new());
                assert!(error.line <= 2 && error.column <= 3, "{error}");
                assert!(!error.to_string().contains('\u{7}'));
            }
        }
        assert_eq!(ParseError::new("", 0, 0, "x".into()).to_string(), "line 1, column 1: x\n 1 | \n   | ^");
    }

    #[test]
    fn long_lines_are_cut_around_the_culprit() {
        let text = format!("{} here {}", "x".repeat(5000), "y".repeat(5000));
        let error = ParseError::new(&text, 5001, 4, String::new());
        let shown = error.to_string();
        let lines: Vec<_> = shown.lines().collect();
        let at = lines[2].find("^^^^").unwrap();
        assert_eq!(&lines[1][at..at + 4], "here");
        assert!(lines[1].len() < 120);
        let wide = ParseError::new(&text, 5001, usize::MAX, String::new()).to_string();
        assert!(wide.lines().all(|line| line.len() < 120));
    }

    #[test]
    fn only_near_words_are_suggested() {
        assert_eq!(suggest("scam", ["call", "scan"]).unwrap(), "did you mean `scan`?");
        assert_eq!(suggest("xyzzy", ["call", "scan"]), None);
        assert_eq!(suggest(&"call".repeat(1000), ["call"]), None);
        assert_eq!(quote(&"a".repeat(41)), format!("`{}…`", "a".repeat(40)));
    }
}
