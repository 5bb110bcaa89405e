//! The command line as tests run it: `sigstorm` in a process of its own, its output, and its children.

use std::fmt;
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The exit status and the output of a command that has ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// With standard output as text.
impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        write!(f, "status {:?}\n--- its output\n{stdout}\n--- its errors\n{}", self.code, self.stderr)
    }
}

impl Ran {
    /// The command with this output. It has not panicked, and none of its children has.
    #[track_caller]
    pub fn of(Output { status, stdout, stderr }: Output) -> Ran {
        let stderr = String::from_utf8(stderr).unwrap();
        for text in [stderr.as_str(), &String::from_utf8_lossy(&stdout)] {
            assert!(!text.contains("panicked"), "{status}: {text}");
        }
        Ran { code: status.code(), stdout, stderr }
    }

    /// The end of a running command.
    #[track_caller]
    pub fn end_of(child: Child) -> Ran {
        Ran::of(child.wait_with_output().unwrap())
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The objects that `--json` has printed, one a line.
    #[track_caller]
    pub fn objects(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.text().lines().map(parse).collect()
    }

    /// The last object of `--json`.
    #[track_caller]
    pub fn summary(&self) -> Value {
        let last = self.objects().pop().unwrap_or_else(|| panic!("no summary: {self:?}"));
        assert_eq!(last["type"], "summary", "{last}");
        last
    }
}

/// A command that is yet to be started, with pipes.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigstorm"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that gets no input.
#[track_caller]
pub fn sigstorm(args: &[&str]) -> Ran {
    with_input(args, b"")
}

/// Runs a command with this input.
#[track_caller]
pub fn with_input(args: &[&str], input: &[u8]) -> Ran {
    let mut child = command(args).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let bytes = input.to_vec();
    // The command need not read any of it.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let ran = Ran::end_of(child);
    writer.join().unwrap();
    ran
}

/// Waits for something that happens soon, on a busy machine, too.
#[track_caller]
pub fn within_seconds<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(result) = what() {
            return result;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not happen within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The children of a running command, whichever of its threads have started them.
pub fn children_of(parent: &Child) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", parent.id())).into_iter().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let all: String = threads.map_while(Result::ok).map(of).collect();
    all.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// Returns whether a child is a worker by now. Before that it cannot yet look after itself.
pub fn is_worker(pid: Pid) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sigstorm\0worker"))
}

/// Ctrl-C, for this command alone.
pub fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
}
