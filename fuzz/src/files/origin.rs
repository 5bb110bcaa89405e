//! Where a schedule comes from: the defects that it was found with, and the build.
//!
//! A schedule's text carries both in comments, which mean nothing to the schedule itself:
//!
//! ```text
//! # sigstorm schedule 1
//! # defect install-unlocked        one line for each
//! # build 0.1.0-5f3a9c21           the version, and a fingerprint of the marked code
//! ```
//!
//! So a run without the defects, which proves nothing, is told from one with them. The bytes in a
//! report's folder have no comments; the text beside them speaks for them.

use crate::executor;
use crate::schedule::{Schedule, checks};
use anyhow::Result;
use sigstorm_inject::Region;
use sigstorm_runtime::instrument::defect::Defect;
use std::path::Path;
use std::sync::OnceLock;

const DEFECT: &str = "# defect ";
const BUILD: &str = "# build ";

/// The origin of a schedule, as its file states it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The defects' names, as they are written.
    pub defects: Vec<String>,
    /// The build.
    pub build: Option<String>,
}

/// The marked code of this build.
pub fn region() -> Result<&'static Region> {
    static REGION: OnceLock<Region> = OnceLock::new();
    if let Some(region) = REGION.get() {
        return Ok(region);
    }
    let region = executor::region()?;
    Ok(REGION.get_or_init(|| region))
}

/// The schedule with a check value in every stop at an instruction, for whatever is kept.
/// Unchanged where the marked code cannot be decoded, which ends every run with an error.
pub fn checked(schedule: &Schedule) -> Schedule {
    region().map_or_else(|_| schedule.clone(), |region| checks::with_checks(schedule, region))
}

/// The name of this build.
pub fn build() -> Option<String> {
    let region = region().ok()?;
    Some(format!("{}-{:08x}", env!("CARGO_PKG_VERSION"), checks::fingerprint(region)))
}

impl Origin {
    /// Of a run of this build with these defects.
    pub fn here(defects: &[Defect]) -> Origin {
        Origin { defects: defects.iter().map(|defect| defect.name().to_owned()).collect(), build: build() }
    }

    /// The origin in a text's comments.
    pub fn of_text(text: &str) -> Origin {
        let word = |line: &str, key: &str| {
            let word = line.strip_prefix(key)?.trim();
            // More than a word is prose.
            (!word.is_empty() && !word.contains(char::is_whitespace)).then(|| word.to_owned())
        };
        let lines = || text.lines().map(str::trim);
        Origin {
            defects: lines().filter_map(|line| word(line, DEFECT)).collect(),
            build: lines().find_map(|line| word(line, BUILD)),
        }
    }

    /// The origin in the text beside a report's bytes.
    pub fn beside(path: &Path) -> Origin {
        let of_report = path.file_name().is_some_and(|name| name == "schedule.bin" || name == "original.bin");
        let text = of_report.then(|| std::fs::read_to_string(path.with_file_name("schedule.txt")));
        text.and_then(Result::ok).map_or_else(Origin::default, |text| Origin::of_text(&text))
    }

    /// The comments that say so.
    pub fn lines(&self) -> String {
        let defects = self.defects.iter().map(|name| format!("{DEFECT}{name}\n"));
        defects.chain(self.build.iter().map(|build| format!("{BUILD}{build}\n"))).collect()
    }

    /// The schedule's text with these comments.
    pub fn text(&self, schedule: &Schedule) -> String {
        let text = schedule.to_text();
        // The first line says that it is a schedule: nothing may come before it.
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        format!("{first}\n{}{rest}", self.lines())
    }

    /// The defects that are named and not planted.
    pub fn missing(&self, planted: &[Defect]) -> Vec<&str> {
        let is_planted = |name: &str| planted.iter().any(|defect| defect.name() == name);
        self.defects.iter().map(String::as_str).filter(|name| !is_planted(name)).collect()
    }

    /// Notes for people who run `name` with these defects planted.
    pub fn notes(&self, name: &str, planted: &[Defect]) -> Vec<String> {
        let missing = self.missing(planted);
        let (known, unknown): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|name| Defect::from_name(name).is_some());
        let mut notes = Vec::new();
        if !known.is_empty() {
            let options: String = known.iter().map(|name| format!(" --defect {name}")).collect();
            notes.push(format!(
                "{name}: it was made with {} planted, which is not planted now; to see what it shows, add{options}",
                known.join(" and ")
            ));
        }
        if !unknown.is_empty() {
            notes.push(format!(
                "{name}: it was made with a defect that this build does not have: {}",
                unknown.join(", ")
            ));
        }
        if let (Some(then), Some(now)) = (&self.build, build())
            && *then != now
        {
            notes.push(format!(
                "{name}: it was made by build {then}, and this is {now}: the core's code differs"
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# sigstorm schedule 1\n# a word\n# defect sigprof-spins\n  # defect no-such-thing\n\
                        # defect that nobody knows\n# build 0.0.1-00000000\nm1 g1\n";

    #[test]
    fn comments_carry_defects_and_build_both_ways() {
        let origin = Origin::of_text(TEXT);
        assert_eq!(origin.defects, ["sigprof-spins", "no-such-thing"]);
        assert_eq!(origin.build.as_deref(), Some("0.0.1-00000000"));
        let schedule = Schedule::parse(TEXT).unwrap();
        let text = origin.text(&schedule);
        assert_eq!(Schedule::parse(&text), Ok(schedule));
        assert_eq!(Origin::of_text(&text), origin);
        let here = Origin::here(&[Defect::InstallUnlocked]);
        assert_eq!(here.missing(&[Defect::InstallUnlocked]), [""; 0]);
        assert_eq!(here.notes("a.txt", &[Defect::InstallUnlocked]), [""; 0]);
    }

    #[test]
    fn a_run_without_the_defects_is_told_how_to_plant_them() {
        let notes = Origin::of_text(TEXT).notes("a.txt", &[]);
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(
            notes[0].starts_with("a.txt") && notes[0].ends_with("add --defect sigprof-spins"),
            "{notes:?}"
        );
        assert!(notes[1].contains("no-such-thing") && notes[2].contains("0.0.1-00000000"), "{notes:?}");
        assert_eq!(Origin::of_text("# sigstorm schedule 1\n").notes("a.txt", &[]), [""; 0]);
    }

    #[test]
    fn the_text_beside_a_reports_bytes_speaks_for_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("schedule.txt"), TEXT).unwrap();
        for (name, defects) in [("schedule.bin", 2), ("original.bin", 2), ("other.bin", 0)] {
            assert_eq!(Origin::beside(&dir.path().join(name)).defects.len(), defects, "{name}");
        }
    }
}
