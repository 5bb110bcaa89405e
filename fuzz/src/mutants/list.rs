//! The list of mutants.

use serde::Deserialize;

/// A small change of the core.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Its place in the list, from 1.
    #[serde(skip)]
    pub number: u32,
    /// The file, under `runtime/src`.
    pub file: String,
    /// The piece is the first after this text; without it, it must be the only one.
    pub within: Option<String>,
    /// The piece: an expression, or statements where it ends in `;` or `}`.
    pub find: String,
    /// Its replacement.
    pub replace: String,
    /// It cannot be chosen at run time: it is no expression and no statement.
    #[serde(default)]
    pub build: bool,
    /// Why it cannot be told from the right code, where that is so.
    pub equivalent: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mutant: Vec<Mutant>,
}

/// Reads the list, and numbers it.
pub fn parse(text: &str) -> Result<Vec<Mutant>, toml::de::Error> {
    let mut mutants = toml::from_str::<File>(text)?.mutant;
    for (number, mutant) in (1..).zip(&mut mutants) {
        mutant.number = number;
    }
    Ok(mutants)
}

impl Mutant {
    /// The change, in a line.
    pub fn change(&self) -> String {
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line(&self.replace).as_str() {
            "" | "()" => format!("`{}` left out", line(&self.find)),
            replace => format!("`{}` → `{replace}`", line(&self.find)),
        }
    }

    /// Where it is, in words.
    pub fn place(&self) -> String {
        self.within.as_ref().map_or_else(|| self.file.clone(), |within| format!("{}, `{within}`", self.file))
    }

    /// Where its piece begins in the file's text.
    pub fn locate(&self, text: &str) -> Result<usize, String> {
        if self.find.trim_start().starts_with("let ") && !self.build {
            return Err(format!("`{}` is a binding, which would end with the choice", self.find));
        }
        let from = match &self.within {
            None => 0,
            Some(within) => match text.matches(within.as_str()).count() {
                1 => text.find(within.as_str()).unwrap_or(0) + within.len(),
                n => return Err(format!("`{within}` is there {n} times")),
            },
        };
        match (text[from..].find(&self.find), text.matches(&self.find).count()) {
            (None, _) => Err(format!("`{}` is not there", self.find)),
            (Some(_), n) if n > 1 && self.within.is_none() => {
                Err(format!("`{}` is there {n} times", self.find))
            }
            (Some(at), _) => {
                let before = text[..from + at].chars().next_back();
                match before.is_some_and(|c| c == '.' || c == '_' || c.is_alphanumeric()) {
                    true => Err(format!("`{}` begins within a word or a path", self.find)),
                    false => Ok(from + at),
                }
            }
        }
    }

    /// Returns whether the piece is one or more statements.
    pub fn is_statement(&self) -> bool {
        self.find.trim_end().ends_with([';', '}'])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "fn a() { x(1); }\nfn b() { x(1); y() }\n";

    fn mutant(within: Option<&str>, find: &str) -> Mutant {
        let toml = format!("[[mutant]]\nfile = 'a.rs'\nfind = '{find}'\nreplace = 'z'\n");
        let mut mutant = parse(&toml).unwrap().remove(0);
        mutant.within = within.map(String::from);
        mutant
    }

    #[test]
    fn a_piece_must_be_the_only_one_or_lie_behind_its_anchor() {
        assert!(mutant(None, "x(1);").locate(TEXT).unwrap_err().contains("2 times"));
        assert_eq!(mutant(None, "y()").locate(TEXT), Ok(TEXT.find("y()").unwrap()));
        assert_eq!(mutant(Some("fn b"), "x(1);").locate(TEXT), Ok(TEXT.rfind("x(1)").unwrap()));
        assert!(mutant(Some("fn c"), "x(1);").locate(TEXT).is_err());
        assert!(mutant(None, "z()").locate(TEXT).unwrap_err().contains("not there"));
        let path = mutant(None, "y()").locate("fn b() { self.y() }").unwrap_err();
        assert!(path.contains("within a word"), "{path}");
        assert!(mutant(None, "let x = 1;").locate("let x = 1;").unwrap_err().contains("binding"));
    }

    #[test]
    fn statements_are_told_from_expressions() {
        assert!(mutant(None, "x(1);").is_statement() && !mutant(None, "x(1)").is_statement());
        assert_eq!(mutant(None, "x(1)").change(), "`x(1)` → `z`");
    }
}
