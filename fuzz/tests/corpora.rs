//! The kept inputs of the fuzz targets: few, small, and what they are said to be.

use std::fs;
use std::path::{Path, PathBuf};

use sigstorm::schedule::Schedule;

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
