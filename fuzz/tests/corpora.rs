//! The kept inputs of the fuzz targets: few, small, and what they are said to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sigstorm::schedule::{Schedule, Stop, checks};

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn each_target_has_a_few_hundred_small_ones() {
    for target in ["stops", "text"] {
        let inputs = inputs(target);
        assert!((100..1000).contains(&inputs.len()), "{target}: {}", inputs.len());
        for (path, bytes) in inputs {
            assert!(bytes.len() <= 1024, "{}: {} bytes", path.display(), bytes.len());
        }
    }
}

#[test]
fn schedules_are_kept_in_canonical_bytes() {
    for (path, bytes) in inputs("stops") {
        assert_eq!(Schedule::decode(&bytes).encode(), bytes, "{}", path.display());
    }
}

#[test]
fn texts_survive_both_ways_or_are_refused_with_words() {
    let (mut read, mut refused) = (0, 0);
    for (path, bytes) in inputs("text") {
        match Schedule::from_file_bytes(&bytes) {
            Ok(schedule) => {
                let text = schedule.canonical().to_text();
                assert_eq!(Schedule::parse(&text).unwrap(), schedule.canonical(), "{}", path.display());
                read += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(read > 20 && refused > 20, "{read} are read, {refused} refused: some of each are wanted");
}

/// The folders of kept schedules, the extensions of the files there, and the fewest schedules in such files.
const KEPT: [(&str, &str, usize); 5] = [
    ("corpus/schedule", "txt", 20),
    ("corpus/stops", "", 200),
    ("corpus/sweep", "txt", 40),
    ("reports/museum", "md", 20),
    ("reports/museum", "txt", 20),
];

/// Every schedule that is kept, by its file: those of the corpora, and those of the museum's pages.
fn kept() -> Vec<(PathBuf, Schedule)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut kept = Vec::new();
    let mut counts = BTreeMap::new();
    for folder in KEPT.map(|(folder, ..)| folder).into_iter().collect::<BTreeSet<_>>() {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let extension = path.extension().unwrap_or_default().to_str().unwrap().to_owned();
            let schedule = match extension.as_str() {
                "md" => in_page(&String::from_utf8(bytes).unwrap()),
                "svg" => None,
                _ => Some(Schedule::from_file_bytes(&bytes).unwrap()),
            };
            if let Some(schedule) = schedule {
                *counts.entry((folder, extension)).or_insert(0) += 1;
                kept.push((path, schedule));
            }
        }
    }
    for (folder, extension, fewest) in KEPT {
        let count = counts.remove(&(folder, extension.to_owned())).unwrap_or(0);
        assert!(count >= fewest, "{folder}: {count} schedules in files `.{extension}`");
    }
    assert!(counts.is_empty(), "schedules in files of another kind: {counts:?}");
    kept
}

/// The schedule in a page's block, if it has one.
fn in_page(page: &str) -> Option<Schedule> {
    let begin = page.find("# sigstorm schedule 1\n")?;
    let block = page[begin..].split("```").next()?;
    Some(Schedule::parse(block).unwrap())
}

#[test]
fn every_kept_stop_has_the_check_value_of_its_instruction() {
    let region = sigstorm::executor::region().unwrap();
    let (mut stops, mut of_goroutines) = (0, 0);
    for (path, schedule) in kept() {
        assert_eq!(checks::unchecked(&schedule), 0, "{}:\n{schedule}", path.display());
        for step in &schedule.steps {
            let Some(Stop::Instr { function, .. }) = step.stop else { continue };
            stops += 1;
            of_goroutines += u32::from(function.on_goroutine_stack());
        }
        // The goroutine side is assembly, the same in every build. The compiler's code for the rest
        // differs from one profile to another.
        for doubt in checks::doubts(&schedule, &region) {
            let Some(Stop::Instr { function, .. }) = doubt.what.stop else { continue };
            assert!(!function.on_goroutine_stack(), "{}: {doubt}", path.display());
        }
    }
    assert!(stops > 500 && of_goroutines > 500, "{stops} stops, {of_goroutines} of them in assembly");
}

#[test]
fn kept_schedules_of_defects_name_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in ["corpus/schedule", "reports/museum"] {
        let mut count = 0;
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "txt") {
                continue;
            }
            count += 1;
            let name = path.file_stem().unwrap().to_str().unwrap();
            let line = format!("\n# defect {name}\n");
            assert!(fs::read_to_string(&path).unwrap().contains(&line), "{}", path.display());
        }
        assert!(count >= 20, "{folder}: {count} texts");
    }
}
