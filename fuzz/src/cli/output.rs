//! Standard output and standard error, where either may be closed at any time.
//!
//! A reader that goes away (`| head`) is no error: the rest is not printed, and the exit
//! status still says what was found. A full disk behind standard output is one.

use super::Trouble;
use console::style;
use serde::Serialize;
use sigstorm::files::input::Input;
use sigstorm::process::cores::Cores;
use sigstorm::report::Inconclusive;
use sigstorm_runtime::Defect;
use std::io::{self, IsTerminal, Write};

/// Standard output.
#[derive(Debug)]
pub struct Out {
    /// For machines: one JSON object per line, and nothing else.
    pub json: bool,
}

impl Out {
    /// Standard output, for machines or for people.
    pub fn new(json: bool) -> Out {
        Out { json }
    }

    /// Says that there is no answer, and why.
    pub fn inconclusive(&self, reason: Inconclusive) -> Result<(), Trouble> {
        let sentence = format!("inconclusive: {}", reason.sentence());
        self.say(&style(sentence).yellow().bold().to_string())
    }

    /// Writes bytes as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Trouble> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Trouble::Usage(format!("cannot write to standard output: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Writes text as it is.
    pub fn text(&self, text: &str) -> Result<(), Trouble> {
        self.bytes(text.as_bytes())
    }

    /// Writes a line for people; nothing with `--json`.
    pub fn say(&self, line: &str) -> Result<(), Trouble> {
        if self.json { Ok(()) } else { self.text(&format!("{line}\n")) }
    }

    /// Writes an object for machines; nothing without `--json`.
    pub fn object(&self, object: &impl Serialize) -> Result<(), Trouble> {
        if !self.json {
            return Ok(());
        }
        let mut line = serde_json::to_vec(object).map_err(|error| Trouble::Harness(error.into()))?;
        line.push(b'\n');
        self.bytes(&line)
    }

    /// Something to know that is no result: to standard error, and not with `--json`.
    pub fn remark(&self, line: &str) {
        if !self.json {
            complain(line);
        }
    }

    /// Says the warnings about a command's cores.
    pub fn warn_of(&self, cores: &Cores) {
        cores.warnings().iter().for_each(|warning| self.remark(&format!("note: {warning}")));
    }

    /// Returns whether a person is looking at the progress.
    pub fn shows_progress(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }
}

/// All that there is to know about an input that is run with these defects planted. It is said on standard
/// error, too: who reads a summary alone must not take a run for what it is not.
pub fn warn(input: &Input, planted: &[Defect]) -> Vec<String> {
    let notes = input.notes_for(planted);
    notes.iter().for_each(|note| complain(&format!("note: {note}")));
    notes
}

/// Writes a line to standard error, which may be closed, too.
pub fn complain(line: &str) {
    // There is nowhere left to say that this failed.
    let _ = writeln!(io::stderr(), "{line}");
}
