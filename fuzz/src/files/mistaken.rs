//! Texts that would be taken for bytes.
//!
//! Every byte string is a schedule, so a text without its first line would be run as one that has
//! nothing to do with it, and nothing would be found. No canonical schedule in bytes is printable:
//! its first byte is an actor's code, which is a control character. So a file of words is a
//! mistake, and this says which.

use crate::schedule::Schedule;
use std::path::Path;

/// The first line of a schedule's text.
const FIRST: &str = "# sigstorm schedule 1";

/// The mistake in a file, and how to mend it; nothing where it is bytes, or a text with
/// its first line. `path` is where it was read, if that is a file.
pub fn mistaken(bytes: &[u8], path: &Path) -> Option<String> {
    let text = words(bytes)?;
    let first = text.lines().next().unwrap_or("");
    if first.starts_with("# sigstorm schedule") && !first.starts_with("# sigstorm schedules") {
        // Its own errors say more.
        return None;
    }
    let beside = path.with_file_name("schedule.txt");
    let beside = match beside.is_file() {
        true => format!("the schedule is in {}", beside.display()),
        false => "replay the report's schedule.txt".to_owned(),
    };
    if is_report(text) {
        return Some(format!("this is a report, not a schedule: {beside}"));
    }
    if let Some(line) = text.lines().position(|line| line.trim() == FIRST) {
        return Some(format!(
            "`{FIRST}` is in line {}, and a schedule begins with it: remove what stands before",
            line + 1
        ));
    }
    if is_schedule(text) {
        return Some(format!("this looks like a schedule without its first line: put `{FIRST}` at its head"));
    }
    Some(format!(
        "this is a text, and neither a schedule's, which begins with `{FIRST}`, nor a schedule in bytes"
    ))
}

/// Whether this is a text, a schedule's or any other.
pub fn is_text(bytes: &[u8]) -> bool {
    words(bytes).is_some()
}

/// The file as a text of words; nothing where it is anything else.
fn words(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let printable = text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0c'));
    let has_words = text.split_whitespace().nth(1).is_some() || text.trim_end().len() < text.len();
    (printable && has_words && !text.trim().is_empty()).then_some(text)
}

/// Whether this is what a report's folder has beside its schedule, or a page of the museum.
fn is_report(text: &str) -> bool {
    let mut lines = text.lines();
    let underlined = lines.next().is_some_and(|first| first.contains(": "))
        && lines.next().is_some_and(|second| second.len() > 2 && second.chars().all(|c| c == '='));
    let json = text.trim_start().starts_with('{') && text.contains("\"verdict\"");
    underlined || json || text.contains("\n## The schedule\n")
}

/// Whether a statement of it is one of a schedule.
fn is_schedule(text: &str) -> bool {
    let parses = |line: &str| {
        let parsed = Schedule::parse(&format!("{FIRST}\n{line}\n"));
        parsed.is_ok_and(|schedule| !schedule.steps.is_empty())
    };
    let is_statement = |line: &str| {
        line.split(';').any(|part| {
            let actor = part.split_whitespace().next();
            actor.is_some_and(|actor| matches!(actor, "m1" | "m2" | "gc" | "ext")) || parses(part)
        })
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.take(64).any(is_statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<String> {
        mistaken(text.as_bytes(), Path::new("-"))
    }

    #[test]
    fn texts_without_their_first_line_are_told_what_to_do() {
        for (text, says) in [
            ("m1 g1 call small\ngc mark; scan g1\n", "put `# sigstorm schedule 1`"),
            ("every_frame\n", "put `# sigstorm"),
            ("# my schedule\r\n\r\nm1 cal small\r\n", "put `# sigstorm"),
            ("m1 g1", "put `# sigstorm"),
            ("\n# sigstorm schedule 1\ngc mark\n", "in line 2"),
            ("# found on Monday\n# sigstorm schedule 1\ngc mark", "in line 2"),
            ("deadlock: nothing can move\n==========================\n\nPlanted: nothing\n", "a report"),
            ("fault: a word\n=====\n\nThe schedule\n---\n# sigstorm schedule 1\nm1 g1\n", "a report"),
            ("{\n  \"sigstorm\": \"0.1.0\",\n  \"verdict\": \"fault\"\n}\n", "a report"),
            ("# 2. sigprof-spins\n\nwords\n\n## The schedule\n\nwords\n", "a report"),
            ("Dear Sir, what is this?\n", "a text"),
        ] {
            let message = said(text).unwrap_or_else(|| panic!("{text:?} is taken for bytes"));
            assert!(message.contains(says), "{text:?}: {message}");
        }
    }

    #[test]
    fn bytes_stay_bytes_and_schedules_schedules() {
        let schedule = Schedule::parse("# sigstorm schedule 1\nm1 g1 call small; signal\ngc mark\n").unwrap();
        assert_eq!(mistaken(&schedule.encode(), Path::new("a")), None);
        for bytes in [&b""[..], b"\n", b"  ", b"\xff words\n", b"words and \x01\n", b"AAAAAAAA", b"\0"] {
            assert_eq!(mistaken(bytes, Path::new("a")), None, "{bytes:?}");
        }
        // These have errors of their own, or none.
        for text in
            ["# sigstorm schedule 1\nm1 g1\n", "# sigstorm schedule 2\n", "\u{feff}# sigstorm schedule 1\n"]
        {
            assert_eq!(said(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_report_names_the_schedule_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("report.txt");
        let text = "fault: a\n========\n\nAgain: x\n";
        let message = || mistaken(text.as_bytes(), &report).unwrap();
        assert!(message().contains("the report's schedule.txt"));
        std::fs::write(dir.path().join("schedule.txt"), "").unwrap();
        assert!(message().contains(&dir.path().join("schedule.txt").display().to_string()));
    }
}
