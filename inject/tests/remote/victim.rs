//! The traced C program: compiled once, started under a tracer or without one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sigstorm_inject::remote::{Event, Launch, Lifetime, Stream, Tracer, Waited};
use sigstorm_inject::{CodeFunction, Region};

use crate::programs::compile_shared;

/// No test takes as long on a machine that works.
const LIMIT: Duration = Duration::from_secs(120);

/// The program, position-independent.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        compile_shared("traced.c", "traced", &["-O1", "-g", "-pie", "-fPIE", "-lpthread", "-ldl"])
    })
}

/// The program at fixed addresses, its libraries in it.
pub fn static_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        compile_shared("traced.c", "traced-static", &["-O1", "-g", "-static", "-w", "-lpthread", "-ldl"])
    })
}

/// Runs the program without a tracer.
pub fn undisturbed(args: &[&str]) -> Output {
    let mut command = Command::new(program());
    // As the traced one.
    // SAFETY: The call may be made between fork and exec.
    unsafe { command.pre_exec(|| std::io::Result::Ok(_ = libc::personality(libc::ADDR_NO_RANDOMIZE as _))) };
    command.args(args).output().expect("it runs")
}

/// A traced run of the program.
pub struct Victim {
    pub tracer: Tracer,
    symbols: BTreeMap<String, (u64, u64)>,
    output: File,
    start: Instant,
    /// How the first process ended.
    pub status: Option<ExitStatus>,
}

impl Victim {
    pub fn start(args: &[&str]) -> Victim {
        Self::launch(program(), args, false)
    }

    pub fn launch(program: &Path, args: &[&str], follow: bool) -> Victim {
        let output = tempfile();
        let stream = |file: &File| Stream::File(file.try_clone().expect("a descriptor").into());
        let launch =
            Launch::new(program).args(args).stdin(Stream::Null).stdout(stream(&output)).follow(follow);
        let tracer = Tracer::spawn(&launch).expect("it starts");
        assert_eq!(tracer.threads(tracer.pid()), [tracer.pid()]);
        let symbols = symbols(program, &tracer);
        Victim { tracer, symbols, output, start: Instant::now(), status: None }
    }

    pub fn pid(&self) -> i32 {
        self.tracer.pid()
    }

    pub fn address(&self, name: &str) -> u64 {
        self.symbols.get(name).unwrap_or_else(|| panic!("no symbol {name}")).0
    }

    /// The addresses of a function's instructions.
    pub fn boundaries(&self, name: &'static str) -> Vec<u64> {
        let (start, size) = self.symbols[name];
        assert_ne!(size, 0, "{name} has no size");
        boundaries(&self.tracer, self.pid(), name, start, start + size)
    }

    /// Lays breakpoints on every instruction of these functions.
    pub fn lay(&mut self, names: &[&'static str], lifetime: Lifetime) -> BTreeSet<u64> {
        let all: BTreeSet<u64> = names.iter().flat_map(|name| self.boundaries(name)).collect();
        let pid = self.pid();
        self.tracer.lay(pid, all.iter().copied(), lifetime).expect("it is code");
        all
    }

    /// The next event; `None` when everything has ended.
    pub fn next(&mut self) -> Option<Event> {
        let left = LIMIT.checked_sub(self.start.elapsed()).expect("the program ends");
        match self.tracer.next_event(Some(left)).expect("no error") {
            Waited::Event(Event::ProcessExited { pid, status }) if pid == self.pid() => {
                self.status = Some(status);
                Some(Event::ProcessExited { pid, status })
            }
            Waited::Event(event) => Some(event),
            Waited::Ended => None,
            other => panic!("{other:?}; threads: {:?}", self.tracer),
        }
    }

    /// Goes on after an event, signals included.
    pub fn pass(&mut self, event: &Event) {
        if let Some(tid) = event.held() {
            self.tracer.resume(tid).expect("it is held");
        }
    }

    /// Lets the first thread go and runs until the next event that `wanted` likes.
    pub fn run_to(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().expect("it comes before the end");
            if wanted(&event) {
                return event;
            }
            self.pass(&event);
        }
    }

    /// Runs until the program is at a breakpoint and its child has been let go, in either order.
    /// Returns the child.
    pub fn run_to_marker_and_child(&mut self) -> i32 {
        let (mut child, mut at_marker) = (None, false);
        loop {
            match self.next().expect("it waits") {
                Event::LetGo { pid } => child = Some(pid),
                Event::Breakpoint { .. } => at_marker = true,
                event => self.pass(&event),
            }
            if let (Some(child), true) = (child, at_marker) {
                return child;
            }
        }
    }

    /// Runs to the end, handling events.
    pub fn run(&mut self, mut each: impl FnMut(&mut Victim, &Event)) {
        while let Some(event) = self.next() {
            each(self, &event);
            if let Some(tid) = event.held()
                && self.tracer.is_held(tid)
            {
                self.tracer.resume(tid).expect("it is held");
            }
        }
    }

    /// Runs to the end.
    pub fn run_on(&mut self) {
        if self.tracer.is_held(self.pid()) {
            self.resume();
        }
        self.run(|_, _| {});
    }

    /// Runs the part `pair` until its second thread is at the marker, whose breakpoint stays, and the
    /// first one at `meet`, both held. Returns the second thread.
    pub fn hold_pair(&mut self) -> i32 {
        let pid = self.pid();
        let (marker, meet) = (self.address("marker"), self.address("meet"));
        self.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
        self.tracer.lay(pid, [meet], Lifetime::OneShot).expect("it is code");
        self.resume();
        let (mut other, mut met) = (None, false);
        loop {
            match self.next().expect("both come") {
                Event::Breakpoint { tid, .. } if tid == pid => met = true,
                Event::Breakpoint { tid, .. } => other = Some(tid),
                event => self.pass(&event),
            }
            if let (Some(other), true) = (other, met) {
                return other;
            }
        }
    }

    pub fn resume(&mut self) {
        let pid = self.pid();
        self.tracer.resume(pid).expect("it is held");
    }

    /// All that the program has printed.
    pub fn output(&mut self) -> String {
        self.output.rewind().expect("a file");
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("text");
        text
    }

    /// Asserts that the run ended and printed as it does undisturbed.
    #[track_caller]
    pub fn assert_undisturbed(&mut self, args: &[&str]) {
        let expected = undisturbed(args);
        assert_eq!(self.output(), String::from_utf8_lossy(&expected.stdout));
        assert_eq!(self.status, Some(expected.status));
    }
}

pub fn boundaries(tracer: &Tracer, pid: i32, name: &'static str, start: u64, end: u64) -> Vec<u64> {
    let code = CodeFunction { name, start: start as usize, end: end as usize };
    let region = Region::decode_from(&[code], &tracer.code(pid)).expect("it is code");
    (0..region.count(0)).map(|index| region.address(0, index).expect("it exists") as u64).collect()
}

fn tempfile() -> File {
    // SAFETY: The name is a string; the descriptor is ours from here on.
    unsafe {
        use std::os::fd::FromRawFd;
        let file = libc::memfd_create(c"output".as_ptr(), libc::MFD_CLOEXEC);
        assert_ne!(file, -1, "{}", std::io::Error::last_os_error());
        File::from_raw_fd(file)
    }
}

/// The program's symbols as `nm` prints them, at the addresses where it is loaded.
fn symbols(program: &Path, tracer: &Tracer) -> BTreeMap<String, (u64, u64)> {
    let output = Command::new("nm").args(["-S"]).arg(program).output().expect("nm runs");
    let mappings = tracer.mappings(tracer.pid()).expect("it lives");
    let path = program.to_str().expect("a readable path");
    let base = mappings
        .iter()
        .find(|mapping| mapping.path.trim_end_matches(" (deleted)") == path)
        .expect("it is mapped")
        .range
        .start;
    let base = if base == 0x40_0000 { 0 } else { base };
    let mut symbols = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text| u64::from_str_radix(text, 16).expect("a number");
        match words[..] {
            [address, size, _, name] => {
                symbols.insert(name.to_owned(), (base + number(address), number(size)));
            }
            [address, _, name] if address.len() == 16 => {
                symbols.insert(name.to_owned(), (base + number(address), 0));
            }
            _ => {}
        }
    }
    symbols
}

/// Returns whether a process runs or waits (rather than being gone, or a zombie).
pub fn lives(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}
