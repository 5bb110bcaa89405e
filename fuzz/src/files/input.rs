//! Schedules that are read: from any file, in either form, whatever is in it.

use super::mistaken::mistaken;
use super::origin::{self, Origin};
use crate::report::words::counted;
use crate::schedule::checks::{self, Doubt};
use crate::schedule::{MAX_STEPS, STEP_BYTES, Schedule};
use sigstorm_runtime::instrument::defect::Defect;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Files are not read beyond this: `/dev/zero` is no schedule.
const MOST_BYTES: u64 = 64 << 20;

/// A schedule and where it came from.
#[derive(Debug)]
pub struct Input {
    /// The file, as messages name it.
    pub name: String,
    /// The schedule.
    pub schedule: Schedule,
    /// Notes about it, for people.
    pub notes: Vec<String>,
    /// Where it comes from, if it says.
    pub origin: Origin,
    /// Stops that this build cannot take as they were meant.
    pub doubts: Vec<Doubt>,
}

impl Input {
    /// All that a person should know who runs it with these defects planted.
    pub fn notes_for(&self, planted: &[Defect]) -> Vec<String> {
        let mut notes = self.notes.clone();
        let unchecked = checks::unchecked(&self.schedule);
        if unchecked != 0 {
            notes.push(format!(
                "{}: {} without a check value, so nothing tells whether this build has the instructions \
                 that were meant; `sigstorm show` adds the values of this build",
                self.name,
                counted(unchecked, "stop")
            ));
        }
        notes.extend(self.origin.notes(&self.name, planted));
        notes
    }
}

/// Reads a schedule; `-` is standard input.
///
/// # Errors
///
/// A message that names the file.
pub fn load(path: &Path) -> Result<Input, String> {
    let name = name(path);
    let bytes = read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    if let Some(mistake) = mistaken(&bytes, path) {
        return Err(format!("{name}: {mistake}"));
    }
    let schedule = Schedule::from_file_bytes(&bytes).map_err(|error| format!("{name}: {error}"))?;
    let origin = match std::str::from_utf8(&bytes) {
        Ok(text) if text.trim_start_matches('\u{feff}').starts_with('#') => Origin::of_text(text),
        _ => Origin::beside(path),
    };
    // A region that cannot be decoded is an error of every run.
    let doubts = origin::region().map_or_else(|_| Vec::new(), |region| checks::doubts(&schedule, region));
    let notes = notes(&name, &bytes, &schedule, &doubts);
    Ok(Input { name, schedule, notes, origin, doubts })
}

fn name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let text = |error: io::Error| error.to_string();
    if path == Path::new("-") {
        return bounded(io::stdin().lock());
    }
    if fs::metadata(path).map_err(text)?.is_dir() {
        let inside = path.join("schedule.txt");
        return Err(if inside.is_file() {
            format!("it is a directory; the schedule in it is {}", inside.display())
        } else {
            "it is a directory".into()
        });
    }
    bounded(File::open(path).map_err(text)?)
}

fn bounded(source: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    source.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it is larger than {} MiB, which no schedule is", MOST_BYTES >> 20));
    }
    Ok(bytes)
}

/// Doubtful stops that are named one by one: any bytes are a schedule, and may be full of them.
const NAMED: usize = 4;

/// That only the beginning counts, where that is so (a text that is too long is an error), and which
/// stops cannot be relied on.
fn notes(name: &str, bytes: &[u8], schedule: &Schedule, doubts: &[Doubt]) -> Vec<String> {
    let mut notes = Vec::new();
    let full = schedule.steps.len() == MAX_STEPS && bytes.len() / STEP_BYTES > MAX_STEPS;
    if full && Schedule::decode(bytes) == *schedule {
        notes.push(format!(
            "{name}: a schedule has at most {MAX_STEPS} steps; only these of the {} bytes count",
            bytes.len()
        ));
    }
    notes.extend(doubts.iter().take(NAMED).map(|doubt| format!("{name}: {doubt}")));
    if doubts.len() > NAMED {
        let more = counted(doubts.len() - NAMED, "more stop");
        notes
            .push(format!("{name}: {more} at instructions that this build does not have as they were meant"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn loaded(content: &[u8]) -> Result<Input, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        load(file.path())
    }

    #[test]
    fn any_bytes_are_read_as_a_schedule() {
        assert!(loaded(b"").unwrap().schedule.steps.is_empty());
        let text = loaded(b"# sigstorm schedule 1\ngc mark\n").unwrap();
        assert_eq!((text.schedule.steps.len(), text.notes.len()), (1, 0));
        let long = loaded(&[5, 2, 0, 0, 0, 0, 0, 0].repeat(MAX_STEPS + 1)).unwrap();
        assert_eq!((long.schedule.steps.len(), long.notes.len()), (MAX_STEPS, 1));
        assert!(loaded(b"m1 g1 call small\n").unwrap_err().contains("put `# sigstorm schedule 1`"));
        let whole = loaded(&[5, 2, 0, 0, 0, 0, 0, 0].repeat(MAX_STEPS)).unwrap();
        assert!(whole.notes.is_empty());
    }

    #[test]
    fn errors_of_loading_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| load(path).unwrap_err();
        assert!(message(dir.path()).contains("it is a directory"));
        fs::write(dir.path().join("schedule.txt"), "").unwrap();
        assert!(message(dir.path()).contains("schedule.txt"));
        assert!(message(&dir.path().join("none")).contains("No such file"));
        assert!(message(Path::new("/dev/zero")).contains("64 MiB"));
        assert!(loaded(b"# sigstorm schedule 1\ngc scam g1\n").unwrap_err().contains("line 2"));
    }

    #[test]
    fn stops_that_are_not_as_they_were_meant_are_noted() {
        let note = |stop: &str| {
            let input =
                loaded(format!("# sigstorm schedule 1\nm1 call leaf @ leaf#{stop}\n").as_bytes()).unwrap();
            (input.doubts.len(), input.notes_for(&[]).join("; "))
        };
        let right = checks::with_checks(
            &Schedule::parse("# sigstorm schedule 1\nm1 call leaf @ leaf#3").unwrap(),
            origin::region().unwrap(),
        );
        let right = right.to_text().trim_end().rsplit_once('/').unwrap().1.to_owned();
        let wrong = format!("{:02x}", u8::from_str_radix(&right, 16).unwrap() ^ 1);
        assert_eq!(note(&format!("3/{right}")), (0, String::new()));
        for (stop, doubts, says) in [
            (format!("3/{wrong}"), 1, "another instruction"),
            (format!("3000/{right}"), 1, "is not held"),
            ("3000".to_owned(), 1, "is held at #"),
            ("3".to_owned(), 0, "1 stop without a check value"),
        ] {
            let (count, notes) = note(&stop);
            assert!(count == doubts && notes.contains(says), "{stop}: {count}, {notes}");
        }
    }

    #[test]
    fn counted_nouns_have_a_plural() {
        assert_eq!(format!("{}, {}", counted(1, "step"), counted(2, "step")), "1 step, 2 steps");
    }
}
