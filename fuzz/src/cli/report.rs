//! What is left of a finding: a folder that a person can read and a script can replay.

use super::files;
use anyhow::{Context, Result};
use serde::Serialize;
use sigstorm::outcome::{Event, Finding};
use sigstorm::schedule::Schedule;
use sigstorm_runtime::instrument::defect::Defect;
use std::env;
use std::path::{Path, PathBuf};

/// All that is known of a finding.
#[derive(Debug)]
pub struct Report {
    /// The violation, as the shrunk schedule shows it.
    pub finding: Finding,
    /// The schedule, shrunk if it could be.
    pub schedule: Schedule,
    /// Whether it was; an error of the harness is kept as it was met.
    pub shrunk: bool,
    /// The schedule as it was found.
    pub original: Vec<u8>,
    /// What the shrunk schedule's run did; nothing where the run killed its process.
    pub events: Vec<Event>,
    /// What was planted.
    pub defects: Vec<Defect>,
    /// Where the hunt's random choices began.
    pub seed: u64,
    /// How long the hunt took.
    pub seconds: f64,
    /// How many schedules it ran.
    pub schedules: u64,
    /// What a person should know.
    pub notes: Vec<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    sigstorm: &'static str,
    verdict: &'a str,
    summary: &'a str,
    evidence: &'a [String],
    dump: &'a [String],
    step: usize,
    defects: Vec<&'static str>,
    seed: u64,
    command_line: String,
    replay: String,
    steps_before: usize,
    steps_after: usize,
    found_after_seconds: f64,
    schedules: u64,
    notes: &'a [String],
    schedule: String,
    events: &'a [Event],
}

impl Report {
    /// Its name: the same finding, shrunk to the same schedule, has the same.
    pub fn id(&self) -> String {
        format!("{}-{:08x}", self.finding.verdict, hash(&self.schedule.encode()))
    }

    /// Its folder.
    pub fn folder(&self, reports: &Path) -> PathBuf {
        reports.join(self.id())
    }

    /// How many steps the schedule had when it was found.
    pub fn steps_before(&self) -> usize {
        Schedule::decode(&self.original).steps.len()
    }

    /// The command that shows the violation again, to be pasted.
    pub fn replay(&self, reports: &Path) -> String {
        let file = self.folder(reports).join("schedule.txt");
        let mut command = format!("cargo run --release -- replay {}", quoted(&file.to_string_lossy()));
        for defect in &self.defects {
            command += &format!(" --defect {defect}");
        }
        command
    }

    /// Writes all of it; what an earlier report of the same left there is overwritten.
    pub fn write(&self, reports: &Path) -> Result<PathBuf> {
        let folder = self.folder(reports);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut json = serde_json::to_vec_pretty(&self.json(reports)).context("cannot express the report")?;
        json.push(b'\n');
        // What matters most goes first, in case there is no room for all.
        files::write(&folder.join("schedule.txt"), self.schedule_text(reports).as_bytes())?;
        files::write(&folder.join("schedule.bin"), &self.schedule.encode())?;
        files::write(&folder.join("original.bin"), &self.original)?;
        files::write(&folder.join("report.txt"), self.text(reports).as_bytes())?;
        files::write(&folder.join("report.json"), &json)?;
        Ok(folder)
    }

    fn json(&self, reports: &Path) -> Json<'_> {
        let Finding { verdict, summary, evidence, dump, step } = &self.finding;
        Json {
            sigstorm: env!("CARGO_PKG_VERSION"),
            verdict,
            summary,
            evidence,
            dump,
            step: *step,
            defects: self.defects.iter().map(|defect| defect.name()).collect(),
            seed: self.seed,
            command_line: env::args().map(|word| quoted(&word)).collect::<Vec<_>>().join(" "),
            replay: self.replay(reports),
            steps_before: self.steps_before(),
            steps_after: self.schedule.steps.len(),
            found_after_seconds: self.seconds,
            schedules: self.schedules,
            notes: &self.notes,
            schedule: self.schedule.to_text(),
            events: &self.events,
        }
    }
}

/// FNV-1a, folded.
pub(super) fn hash(bytes: &[u8]) -> u32 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    (hash ^ (hash >> 32)) as u32
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigstorm::outcome::Verdict;
    use std::fs;

    pub fn report() -> Report {
        let schedule = Schedule::parse("# sigstorm schedule 1\nm1 g1 syscall\ngc scan g1\n").unwrap();
        let event = |step, actor: &str, what: &str| Event {
            step,
            actor: actor.into(),
            what: what.into(),
            goroutine: 1,
            pc: "small+0x4".into(),
            sp: "-0x20".into(),
            lock: String::new(),
            barriers: "0/1".into(),
        };
        Report {
            finding: Finding {
                verdict: Verdict::BadTraceback.name().into(),
                summary: "frame 1 is not\nwhere it was".into(),
                evidence: vec!["expected small+0x4".into(), "found    the trampoline".into()],
                dump: vec!["g1: [0x40, 0x80)".into()],
                step: 1,
            },
            shrunk: true,
            original: [schedule.encode(), schedule.encode()].concat(),
            schedule,
            events: vec![event(0, "m1", "syscall"), event(1, "gc", "scan")],
            defects: vec![Defect::InstallUnlocked],
            seed: 7,
            seconds: 1.5,
            schedules: 1234,
            notes: vec!["a note".into()],
        }
    }

    #[test]
    fn everything_is_there_and_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let report = report();
        let folder = report.write(dir.path()).unwrap();
        let again = report.write(dir.path()).unwrap();
        assert_eq!(folder, again);
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("bad-traceback-") && name.len() == 22, "{name}");
        for form in ["schedule.txt", "schedule.bin"] {
            let schedule = Schedule::from_file_bytes(&fs::read(folder.join(form)).unwrap()).unwrap();
            assert_eq!(schedule, report.schedule, "{form}");
        }
        assert_eq!(fs::read(folder.join("original.bin")).unwrap(), report.original);
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
        assert_eq!((&json["steps_before"], &json["steps_after"]), (&6.into(), &3.into()));
        assert_eq!(json["defects"][0], "install-unlocked");
        let text = fs::read_to_string(folder.join("report.txt")).unwrap();
        for part in
            ["bad-traceback", "the trampoline", "m1 g1 syscall", "[0x40, 0x80)", "--defect install-unlocked"]
        {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 5);
    }

    #[test]
    fn a_name_depends_on_the_schedule_alone() {
        let (a, mut b) = (report(), report());
        b.seed = 8;
        assert_eq!(a.id(), b.id());
        b.schedule.steps.pop();
        assert_ne!(a.id(), b.id());
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("reports/a-1/schedule.txt"), "reports/a-1/schedule.txt");
        assert_eq!(quoted("my reports/it's"), r"'my reports/it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
