//! Schedules that are read: from any file, in either form, whatever is in it.

use sigstorm::schedule::{MAX_STEPS, STEP_BYTES, Schedule};
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
    /// What it says.
    pub schedule: Schedule,
    /// What a person should know about it.
    pub notes: Vec<String>,
}

/// Reads a schedule; `-` is standard input.
///
/// # Errors
///
/// A message that names the file.
pub fn load(path: &Path) -> Result<Input, String> {
    let name = name(path);
    let bytes = read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let schedule = Schedule::from_file_bytes(&bytes).map_err(|error| format!("{name}: {error}"))?;
    let notes = notes(&name, &bytes, &schedule).into_iter().collect();
    Ok(Input { name, schedule, notes })
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

/// That only the beginning counts, where that is so. A text that is too long is an error.
fn notes(name: &str, bytes: &[u8], schedule: &Schedule) -> Option<String> {
    let full = schedule.steps.len() == MAX_STEPS && bytes.len() / STEP_BYTES > MAX_STEPS;
    (full && Schedule::decode(bytes) == *schedule).then(|| {
        format!(
            "{name}: a schedule has at most {MAX_STEPS} steps; only these of the {} bytes count",
            bytes.len()
        )
    })
}

/// "3 steps", "1 step".
pub fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
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
    fn anything_is_read() {
        assert!(loaded(b"").unwrap().schedule.steps.is_empty());
        let text = loaded(b"# sigstorm schedule 1\ngc mark\n").unwrap();
        assert_eq!((text.schedule.steps.len(), text.notes.len()), (1, 0));
        let long = loaded(&[5, 2, 0, 0, 0, 0, 0, 0].repeat(MAX_STEPS + 1)).unwrap();
        assert_eq!((long.schedule.steps.len(), long.notes.len()), (MAX_STEPS, 1));
        let whole = loaded(&[5, 2, 0, 0, 0, 0, 0, 0].repeat(MAX_STEPS)).unwrap();
        assert!(whole.notes.is_empty());
    }

    #[test]
    fn errors_name_the_file() {
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
    fn nouns_are_counted() {
        assert_eq!(format!("{}, {}", counted(1, "step"), counted(2, "step")), "1 step, 2 steps");
    }
}
