//! Programs that tests compile, and running ones.

#![allow(dead_code)]

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs a tool; panics with its output if it fails.
#[track_caller]
pub fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("this test needs {name}: {error}"));
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder for one test's files, empty.
pub fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("symbols").join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    folder
}

/// Compiles `tests/c/SOURCE` to FOLDER/`name`, with `-O2 -g` and these flags.
#[track_caller]
pub fn compile(folder: &Path, source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let program = folder.join(name);
    build(&program, source, &[&["-O2", "-g"], flags].concat());
    program
}

/// Compiles `tests/c/SOURCE` to the folder of all tests, with these flags.
#[track_caller]
pub fn compile_shared(source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Tests that start this executable again compile at the same time.
    let fresh = program.with_extension(std::process::id().to_string());
    build(&fresh, source, flags);
    std::fs::rename(&fresh, &program).expect("the same folder");
    program
}

/// Runs the machine's compiler for C or C++ on `tests/c/SOURCE`.
#[track_caller]
fn build(program: &Path, source: &str, flags: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(source);
    let (variable, usual) =
        if source.extension().is_some_and(|e| e == "cc") { ("CXX", "c++") } else { ("CC", "cc") };
    let compiler = env::var(variable).unwrap_or_else(|_| usual.to_owned());
    tool(&compiler, &[&["-o", text(program), text(&source)], flags].concat());
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A process that has printed a line and waits; it ends with this value.
pub struct Running {
    child: Child,
    /// The numbers that it printed, in hexadecimal.
    pub printed: Vec<u64>,
}

impl Running {
    pub fn start(program: &Path) -> Self {
        let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{} starts: {error}", program.display()));
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).expect("a number");
        let printed = line.split_whitespace().map(number).collect();
        Self { child, printed }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
