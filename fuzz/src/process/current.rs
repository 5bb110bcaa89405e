//! The schedule that a worker runs at the moment, in a file that it shares with its parent: however
//! the worker ends, the parent knows what it was doing.
//!
//! A schedule that an engine chose is there byte by byte. Most are made from nothing, and of
//! those there is only the place in the generator from which it made them: the parent makes
//! them again, should it ever want to. To put down each cost 3 % of a run's time.

use std::fs;
use std::io;
use std::path::Path;

use super::shared::Shared;
use crate::generate::{Generator, GeneratorPosition};
use crate::schedule::Schedule;

/// Bytes of the file.
const BYTES: usize = 64 * 1024;
/// Words before the bytes.
const HEAD: usize = 10;
const KIND: usize = 0;
/// How many bytes there are.
const LENGTH: usize = 1;
/// The place in the generator: its seed, where it is, and the fixed length.
const SEED: usize = 2;
const AT: usize = 6;
const STEPS: usize = 8;

// The first word's values. Zero, as a new file has it, says that nothing is run.
const NOTHING: u64 = 0;
const INPUT: u64 = 1;
const MADE: u64 = 2;

/// The worker's side.
#[derive(Debug)]
pub(crate) struct Current {
    words: Shared,
    last: Last,
}

#[derive(Debug)]
enum Last {
    Input(Vec<u8>),
    Made(GeneratorPosition),
}

impl Current {
    /// Maps the file, which its parent has made.
    pub(crate) fn map(path: &Path) -> io::Result<Current> {
        Ok(Current { words: Shared::map(path, BYTES)?, last: Last::Input(Vec::new()) })
    }

    /// These bytes are run next.
    pub(crate) fn set_input(&mut self, bytes: &[u8]) {
        let kept = &bytes[..bytes.len().min(BYTES - HEAD * 8)];
        // SAFETY: the bytes fit the mapping behind its head.
        unsafe {
            std::ptr::copy_nonoverlapping(kept.as_ptr(), self.words.as_ptr().add(HEAD).cast(), kept.len());
        }
        self.words.set(LENGTH, kept.len() as u64);
        self.words.set(KIND, INPUT);
        self.last = Last::Input(bytes.to_vec());
    }

    /// Returns the generator's next schedule, which is run next.
    pub(crate) fn make(&mut self, generator: &mut Generator) -> Schedule {
        let position = generator.position();
        let schedule = generator.schedule();
        for (word, value) in (SEED..).zip(to_words(&position)) {
            self.words.set(word, value);
        }
        self.words.set(KIND, MADE);
        self.last = Last::Made(position);
        schedule
    }

    /// It is run no more.
    pub(crate) fn ended(&self) {
        self.words.set(KIND, NOTHING);
    }

    /// The bytes of what was run last.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match &self.last {
            Last::Input(bytes) => bytes.clone(),
            Last::Made(position) => made(position),
        }
    }
}

/// A file for a worker that is about to be started. Written, not only made that long: a worker that
/// maps a file with holes dies where the disk is full.
///
/// # Errors
/// As for writing.
pub fn create(path: &Path) -> io::Result<()> {
    fs::write(path, [0; BYTES])
}

/// The bytes of the schedule that the worker was running; none where it was running none, and where
/// the file cannot be read.
pub fn read(path: &Path) -> Vec<u8> {
    let file = fs::read(path).unwrap_or_default();
    let (words, _) = file.as_chunks::<8>();
    let word = |index: usize| words.get(index).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    match word(KIND) {
        INPUT => {
            let bytes = file.get(HEAD * 8..).unwrap_or_default();
            let length = usize::try_from(word(LENGTH)).unwrap_or(usize::MAX);
            bytes[..length.min(bytes.len())].to_vec()
        }
        MADE => made(&from_words(core::array::from_fn(|index| word(SEED + index)))),
        _ => Vec::new(),
    }
}

fn made(position: &GeneratorPosition) -> Vec<u8> {
    Generator::resume(position).schedule().encode()
}

const WORDS: usize = HEAD - 1 - SEED;
const _: () = assert!(AT == SEED + 4 && STEPS == AT + 2 && STEPS + 1 == SEED + WORDS);

fn to_words(position: &GeneratorPosition) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(position.seed.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words[AT - SEED] = position.at as u64;
    words[AT + 1 - SEED] = (position.at >> 64) as u64;
    // One more than it is; zero where it is free.
    words[STEPS - SEED] = position.steps.map_or(0, |steps| steps as u64 + 1);
    words
}

fn from_words(words: [u64; WORDS]) -> GeneratorPosition {
    let mut seed = [0; 32];
    for (bytes, word) in seed.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    GeneratorPosition {
        seed,
        at: u128::from(words[AT - SEED]) | u128::from(words[AT + 1 - SEED]) << 64,
        steps: words[STEPS - SEED].checked_sub(1).map(|steps| steps as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("sigstorm-current-{}-{name}", std::process::id()))
    }

    #[test]
    fn schedule_of_a_generator_is_made_again() {
        let path = file("made");
        create(&path).expect("a file");
        let mut current = Current::map(&path).expect("a mapping");
        assert!(read(&path).is_empty(), "nothing yet");
        for steps in [None, Some(0), Some(40)] {
            let mut generator = Generator::new(11, steps);
            let plain: Vec<_> = (0..200).map(|_| generator.schedule().encode()).collect();
            let mut generator = Generator::new(11, steps);
            for expected in &plain {
                let schedule = current.make(&mut generator);
                assert_eq!(schedule.encode(), *expected, "putting it down changes nothing");
                assert_eq!(read(&path), *expected);
                assert_eq!(current.bytes(), *expected);
            }
            current.ended();
            assert!(read(&path).is_empty(), "it has ended");
            assert_eq!(current.bytes(), plain[199], "it can still be told");
        }
        fs::remove_file(path).expect("the file is there");
    }

    #[test]
    fn input_of_an_engine_is_kept_as_far_as_there_is_room() {
        let path = file("brought");
        create(&path).expect("a file");
        let mut current = Current::map(&path).expect("a mapping");
        for length in [0, 1, 333, BYTES - HEAD * 8, BYTES + 5] {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8 ^ 0x5a).collect();
            current.set_input(&bytes);
            assert_eq!(read(&path), bytes[..length.min(BYTES - HEAD * 8)]);
            assert_eq!(current.bytes(), bytes);
        }
        fs::remove_file(path).expect("the file is there");
    }

    #[test]
    fn file_that_is_cut_or_missing_is_read_as_far_as_it_goes() {
        let path = file("cut");
        assert!(read(&path).is_empty(), "missing");
        create(&path).expect("a file");
        let mut current = Current::map(&path).expect("a mapping");
        current.set_input(&[7; 300]);
        let all = fs::read(&path).expect("the file is there");
        for length in [0, 5, 8, 16, 79, 80, 100] {
            fs::write(&path, &all[..length]).expect("it can be cut");
            assert_eq!(read(&path), vec![7; length.saturating_sub(HEAD * 8)]);
        }
        fs::remove_file(path).expect("the file is there");
    }
}
