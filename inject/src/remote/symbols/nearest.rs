//! The names that a pattern without a match may have meant.

use std::collections::BTreeSet;

use super::functions::Functions;
use super::names;

/// Longer names are no slip of the finger.
const LONGEST: usize = 60;

/// The share of a name that must be alike.
const ALIKE: f64 = 0.5;

/// Collects the names that are nearest to a word.
#[derive(Debug)]
pub(super) struct Nearest {
    word: String,
    letters: [u16; 32],
    /// Likeness and name, best first.
    best: Vec<(f64, String)>,
    seen: BTreeSet<String>,
}

impl Nearest {
    const COUNT: usize = 3;

    pub(super) fn new(pattern: &str) -> Self {
        let word: String = pattern.chars().filter(|c| !"*?[]{}\\".contains(*c)).collect();
        let word = if word.len() > LONGEST { String::new() } else { word };
        Self { letters: letters(&word), word, best: Vec::new(), seen: BTreeSet::new() }
    }

    pub(super) fn offer(&mut self, name: &str) {
        if self.word.is_empty() || name.is_empty() || name.len() > LONGEST || !self.may_be_near(name) {
            return;
        }
        let alike = strsim::normalized_damerau_levenshtein(&self.word.to_lowercase(), &name.to_lowercase());
        let full = self.best.len() == Self::COUNT;
        if alike < ALIKE || full && self.best.last().is_some_and(|(worst, _)| alike <= *worst) {
            return;
        }
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        let at = self.best.partition_point(|(better, _)| *better >= alike);
        self.best.insert(at, (alike, name.to_owned()));
        self.best.truncate(Self::COUNT);
    }

    /// The letters that only one of the names has are a lower bound for the distance: it costs a
    /// hundredth of the distance itself.
    fn may_be_near(&self, name: &str) -> bool {
        let other = letters(name);
        let (mut more, mut less) = (0, 0);
        for (a, b) in self.letters.iter().zip(&other) {
            more += usize::from(a.saturating_sub(*b));
            less += usize::from(b.saturating_sub(*a));
        }
        let longest = self.word.len().max(name.len());
        let limit = match self.best.last() {
            Some((worst, _)) if self.best.len() == Self::COUNT => 1.0 - worst,
            _ => 1.0 - ALIKE,
        };
        more.max(less) as f64 <= limit * longest as f64
    }

    /// Offers the base names of all functions.
    pub(super) fn offer_functions(&mut self, functions: &Functions) {
        let path = self.word.contains("::");
        for f in 0..functions.len() {
            for (symbol, _) in functions.symbols(f) {
                if functions.is_go() {
                    self.offer(symbol);
                    self.offer(symbol.rsplit(['.', '/']).next().unwrap_or_default());
                } else if symbol.starts_with("_Z") || symbol.starts_with("_R") {
                    let plain = names::without_generics(&names::demangle(symbol));
                    let plain = plain.split('(').next().filter(|name| !name.is_empty()).unwrap_or(&plain);
                    self.offer(if path { plain } else { names::last_segment(plain) });
                } else {
                    self.offer(names::split_part(symbol).0);
                }
            }
        }
    }

    /// The nearest names, the best one first.
    pub(super) fn into_names(self) -> Vec<String> {
        self.best.into_iter().map(|(_, name)| name).collect()
    }
}

fn letters(name: &str) -> [u16; 32] {
    let mut letters = [0_u16; 32];
    for byte in name.bytes() {
        let letter = &mut letters[usize::from(byte.to_ascii_lowercase() & 31)];
        *letter = letter.saturating_add(1);
    }
    letters
}
