//! A test's body in a process of its own: the test's program starts itself again, for one test.

use std::env;
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The longest that a child may run. A child that hangs is killed then, and its test fails.
const LIMIT: Duration = Duration::from_secs(300);

/// A child that has ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    hung: bool,
}

impl Ended {
    /// Returns whether the child ended by itself, with this exit status.
    pub fn ended_with(&self, code: i32) -> bool {
        !self.hung && self.status.code() == Some(code)
    }

    /// The end of the child and its output, for a message.
    pub fn told(&self) -> String {
        let Ended { status, stdout, stderr, hung } = self;
        let hung = if *hung { format!("killed after {} s, ", LIMIT.as_secs()) } else { String::new() };
        format!("{hung}{status}\n--- its output\n{stdout}\n--- its errors\n{stderr}")
    }
}

/// Runs the test `name`, and no other, in a child with these variables in its environment.
#[track_caller]
pub fn run(name: &str, configure: impl FnOnce(&mut Command)) -> Ended {
    let mut command = Command::new(env::current_exe().expect("the test's own path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env("RUST_BACKTRACE", "0");
    configure(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a child process");
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let end = Instant::now() + LIMIT;
    let mut hung = false;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child's state") {
            break status;
        }
        if Instant::now() > end {
            hung = true;
            child.kill().expect("to end the child");
            break child.wait().expect("the child's state");
        }
        thread::sleep(Duration::from_millis(1));
    };
    let text = |reader: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("the child's output")).into_owned()
    };
    Ended { status, stdout: text(stdout), stderr: text(stderr), hung }
}

/// Reads a pipe to its end meanwhile, so that the child never waits for it.
fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("a piped stream");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("to read the child's output");
        bytes
    })
}
