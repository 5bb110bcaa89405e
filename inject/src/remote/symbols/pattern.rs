//! Patterns that name functions: `malloc`, `pthread_*`, `libc!_int_*`, `Vec::push`.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

use super::functions::Functions;
use super::names;
use super::needle;
use super::object::Object;

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The pattern, or a side of its `!`, is empty.
    #[error("the pattern `{text}` names no {missing}")]
    Empty {
        /// The pattern.
        text: String,
        /// `object` or `function`.
        missing: &'static str,
    },
    /// A bracket or a brace is not closed, for example.
    #[error("the pattern `{text}` is no glob: {detail}; write `\\[` for a plain `[`")]
    Glob {
        /// The pattern.
        text: String,
        /// The contradiction.
        detail: String,
    },
}

/// A glob over functions' names, and perhaps one over objects' names.
///
/// `*` and `?` stand for any characters, `[ab]` and `{a,b}` for a choice. The name is compared
/// with each spelling of a function's names: demangled, with and without arguments, with and
/// without template arguments, the last segment of its path, and the symbol itself. A name that
/// the pattern repeats to the letter matches even where a glob would mean something else.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    object: Option<Glob>,
    name: Glob,
    /// A word that a mangled symbol contains if its name matches.
    word: Option<String>,
}

#[derive(Clone, Debug)]
struct Glob {
    text: String,
    /// `None` where the text has no special characters.
    matcher: Option<GlobMatcher>,
}

impl Glob {
    fn new(text: &str) -> Result<Self, String> {
        let special = text.contains(['*', '?', '[', '{', '\\']);
        let build = || GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
        let matcher = match special {
            true => Some(build().map_err(|error| error.kind().to_string())?.compile_matcher()),
            false => None,
        };
        Ok(Self { text: text.to_owned(), matcher })
    }

    fn matches(&self, name: &str) -> bool {
        name == self.text || self.matcher.as_ref().is_some_and(|glob| glob.is_match(Path::new(name)))
    }
}

impl Pattern {
    /// Reads a pattern: `NAME`, or `OBJECT!NAME`.
    ///
    /// # Errors
    ///
    /// If a part is empty, or a glob's brackets do not match.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let (object, name) = match split(text) {
            Some((object, name)) => (Some(object), name),
            None => (None, text),
        };
        for (part, missing) in [(object, "object"), (Some(name), "function")] {
            if part == Some("") {
                return Err(PatternError::Empty { text: text.to_owned(), missing });
            }
        }
        let glob =
            |part| Glob::new(part).map_err(|detail| PatternError::Glob { text: text.to_owned(), detail });
        let word = needle::word(name).map(str::to_owned);
        Ok(Self { text: text.to_owned(), object: object.map(glob).transpose()?, name: glob(name)?, word })
    }

    /// The text that the pattern was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The part for objects' names.
    pub fn object(&self) -> Option<&str> {
        self.object.as_ref().map(|glob| glob.text.as_str())
    }

    /// The part for functions' names.
    pub fn name(&self) -> &str {
        &self.name.text
    }

    /// Returns whether functions of an object can match: by its path, its file name
    /// (`libc.so.6`), the name without version (`libc`), or `vdso`.
    pub fn matches_object(&self, object: &Object) -> bool {
        let Some(glob) = &self.object else { return true };
        let name = object.name();
        object_spellings(&name).any(|spelling| glob.matches(spelling))
            || object.path().to_str().is_some_and(|path| glob.matches(path))
    }

    /// Returns whether a name matches, in any of its spellings; `symbol` is as it stands in a
    /// symbol table, and `go` says that it is Go's.
    pub fn matches_symbol(&self, symbol: &str, go: bool) -> bool {
        let mangled = symbol.starts_with("_Z") || symbol.starts_with("_R");
        // Demangling costs a hundred times as much as looking for a word.
        if mangled && self.word.as_ref().is_some_and(|word| !symbol.contains(word.as_str())) {
            return self.name.matches(symbol);
        }
        names::any_spelling(symbol, go, &mut |spelling| self.name.matches(spelling))
    }

    /// The functions that match, each with whether only IFUNC names of it do.
    pub(super) fn matching(&self, functions: &Functions) -> Vec<(usize, bool)> {
        // Names without a function: only a pattern that means them (or everything) gets them.
        let everything = self.name.text.chars().all(|c| c == '*');
        let unnamed = everything || self.name.text.contains('+');
        let mut matching = Vec::new();
        for (f, function) in functions.all().iter().enumerate() {
            if !function.is_named() {
                if unnamed && (everything || self.name.matches(&functions.name(f))) {
                    matching.push((f, false));
                }
                continue;
            }
            let mut only_ifunc = None;
            for (symbol, ifunc) in functions.symbols(f) {
                if only_ifunc != Some(false) && (everything || self.matches_symbol(symbol, functions.is_go()))
                {
                    only_ifunc = Some(ifunc);
                }
            }
            matching.extend(only_ifunc.map(|ifunc| (f, ifunc)));
        }
        matching
    }
}

/// Splits at the first `!` that is no part of a C++ operator or of a type.
fn split(text: &str) -> Option<(&str, &str)> {
    let (object, name) = text.split_once('!')?;
    let is_name = object.ends_with("operator") || object.contains(['<', '(']) || object.contains("::");
    (!is_name).then_some((object, name))
}

/// The spellings of an object's file name: `libc.so.6` is `libc`, too, and so is `libc-2.31.so`.
pub(super) fn object_spellings(name: &str) -> impl Iterator<Item = &str> {
    let stem = name.split(".so").next().filter(|stem| !stem.is_empty());
    let short = stem.and_then(|stem| {
        let (short, version) = stem.rsplit_once('-')?;
        version.starts_with(|c: char| c.is_ascii_digit()).then_some(short)
    });
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    [Some(name), stem, short, bare].into_iter().flatten()
}
