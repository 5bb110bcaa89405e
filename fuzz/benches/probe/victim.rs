//! The program that is probed: functions of so many instructions, an empty handler, and a clock.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A run's times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The call that installs the handler.
    pub install: f64,
    /// All rounds; not a number for a run that was ended before.
    pub work: f64,
}

/// A program that was compiled, and where it writes its times.
#[derive(Debug)]
pub struct Victim {
    folder: TempDir,
    functions: usize,
    length: usize,
}

/// The end of the program. Each run adds a line to the file that it is given.
const MAIN: &str = r#"
static void on_profile(int signal) { (void)signal; }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    long rounds = atol(argv[1]);
    struct sigaction action = {.sa_handler = on_profile};
    FILE *times = fopen(argv[2], "a");
    if (times == NULL) return 2;
    double before = now();
    sigaction(SIGPROF, &action, NULL);
    double installed = now();
    fprintf(times, "%.0f ", installed - before);
    if (fflush(times) != 0) return 2;
    double begin = now();
    for (long round = 0; round < rounds; round++)
        for (size_t i = 0; i < sizeof works / sizeof *works; i++) works[i]();
    double end = now();
    fprintf(times, "%.0f\n", end - begin);
    return fclose(times) != 0;
}
"#;

impl Victim {
    /// Compiles a program of so many functions, each of so many instructions and a return.
    pub fn compile(functions: usize, length: usize) -> Victim {
        let folder = tempfile::tempdir().expect("a folder");
        let mut source = String::from(
            "#define _GNU_SOURCE\n#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <time.h>\n",
        );
        for n in 0..functions {
            writeln!(
                source,
                "__attribute__((naked, noinline)) void work_{n}(void) {{ __asm__(\".rept {length}\\nlea 1(%rax), \
                 %rax\\n.endr\\nret\"); }}"
            )
            .expect("memory");
        }
        source += "static void (*const works[])(void) = {";
        (0..functions).for_each(|n| write!(source, "work_{n}, ").expect("memory"));
        source += "};\n";
        source += MAIN;
        let file = folder.path().join("victim.c");
        fs::write(&file, source).expect("a folder of ours");
        let victim = Victim { folder, functions, length };
        let status = Command::new("cc")
            .args(["-std=c11", "-O1", "-w", "-o"])
            .arg(victim.program())
            .arg(&file)
            .status()
            .expect("a C compiler, cc");
        assert!(status.success(), "cc: {status}");
        victim
    }

    /// The executable.
    pub fn program(&self) -> PathBuf {
        self.folder.path().join("victim")
    }

    /// The file of its times.
    pub fn times(&self) -> PathBuf {
        self.folder.path().join("times")
    }

    /// The boundaries of all its functions.
    pub fn boundaries(&self) -> usize {
        self.functions * (self.length + 1)
    }

    /// Runs it alone.
    pub fn run(&self, rounds: u64) -> Times {
        self.forget_times();
        let status = Command::new(self.program()).arg(rounds.to_string()).arg(self.times()).status();
        assert!(status.expect("it is a program").success());
        self.read_times()[0]
    }

    /// Forgets the runs so far.
    pub fn forget_times(&self) {
        fs::write(self.times(), "").expect("a folder of ours");
    }

    /// The runs since.
    pub fn read_times(&self) -> Vec<Times> {
        let text = fs::read_to_string(self.times()).expect("a file of ours");
        text.lines()
            .map(|line| {
                let (install, work) = line.split_once(' ').expect("two numbers");
                Times { install: install.parse().expect("a number"), work: work.parse().unwrap_or(f64::NAN) }
            })
            .collect()
    }
}
