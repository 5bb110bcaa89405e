//! Starting a program under the tracer.
//!
//! 1. The child is made a process group of its own, dies with the thread that starts it, and asks
//!    for addresses that are not randomised. It says whether that was granted, and waits.
//! 2. The tracer seizes it (`PTRACE_SEIZE`, never `PTRACE_TRACEME`: only a seized process tells
//!    group-stops apart and can be interrupted).
//! 3. The child goes on to `execve`, and stops in it before its first instruction.
//!
//! Between `fork` and `execve` the child only makes system calls: this process may have threads.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use object::elf;

use super::error::{Error, Result};
use super::ptrace::{self, Go};

/// A standard stream of the traced program.
#[derive(Debug, Default)]
pub enum Stream {
    /// The tracer's own.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// This file.
    File(OwnedFd),
}

/// A program to be traced, and how it is started.
#[derive(Debug)]
pub struct Launch {
    program: OsString,
    args: Vec<OsString>,
    env: Option<Vec<(OsString, OsString)>>,
    directory: Option<PathBuf>,
    streams: [Stream; 3],
    pub(super) follow: bool,
}

impl Launch {
    /// A program by its path, or by its name in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Launch {
        Launch {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: None,
            directory: None,
            streams: Default::default(),
            follow: false,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Launch {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets the whole environment. Without this the program inherits the tracer's.
    #[must_use]
    pub fn env(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Launch {
        self.env = Some(variables.into_iter().collect());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Launch {
        self.directory = Some(directory.into());
        self
    }

    /// Sets standard input.
    #[must_use]
    pub fn stdin(mut self, stream: Stream) -> Launch {
        self.streams[0] = stream;
        self
    }

    /// Sets standard output.
    #[must_use]
    pub fn stdout(mut self, stream: Stream) -> Launch {
        self.streams[1] = stream;
        self
    }

    /// Sets standard error.
    #[must_use]
    pub fn stderr(mut self, stream: Stream) -> Launch {
        self.streams[2] = stream;
        self
    }

    /// Traces forked children, too, rather than letting them go.
    #[must_use]
    pub fn follow(mut self, follow: bool) -> Launch {
        self.follow = follow;
        self
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Start { program: self.program.to_string_lossy().into_owned(), source }
    }
}

/// A program that has stopped before its first instruction.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: i32,
    /// Whether addresses are randomised all the same.
    pub(super) randomised: bool,
}

/// Starts the program.
pub(super) fn start(launch: &Launch) -> Result<Started> {
    let plan = Plan::of(launch).map_err(|error| launch.error(error))?;
    let (mut from_child, to_tracer) = io::pipe().map_err(|error| launch.error(error))?;
    let (from_tracer, mut to_child) = io::pipe().map_err(|error| launch.error(error))?;
    // SAFETY: The call only asks.
    let tracer = unsafe { libc::getpid() };
    // SAFETY: The child makes system calls alone and never returns from `become_program`.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(launch.error(io::Error::last_os_error())),
        0 => {
            plan.become_program(tracer, to_tracer.as_raw_fd(), from_tracer.as_raw_fd(), to_child.as_raw_fd())
        }
        pid => pid,
    };
    drop((to_tracer, from_tracer));
    let mut fixed = [0];
    let ready = from_child.read_exact(&mut fixed);
    let seized = ready.and_then(|()| ptrace::seize(pid));
    if let Err(source) = seized {
        drop(to_child);
        reap(pid);
        return Err(Error::Refused { program: launch.program.to_string_lossy().into_owned(), source });
    }
    // A child that has died already is seen in the status.
    let _ = to_child.write_all(&[1]);
    drop(to_child);
    match first_stop(pid) {
        Ok(None) => Ok(Started { pid, randomised: fixed == [0] }),
        Ok(Some(status)) => {
            let mut code = [0; 4];
            let source = match from_child.read_exact(&mut code) {
                Ok(()) => io::Error::from_raw_os_error(i32::from_ne_bytes(code)),
                Err(_) => io::Error::other(format!("it died before it ran: {status}")),
            };
            Err(launch.error(source))
        }
        Err(error) => {
            reap(pid);
            Err(launch.error(error))
        }
    }
}

/// Waits for the stop in `execve`; returns the status of a child that ended instead.
fn first_stop(pid: i32) -> io::Result<Option<ExitStatus>> {
    loop {
        let mut status = 0;
        // The one place that waits for one thread alone: no other runs yet.
        // SAFETY: The kernel stores the status.
        if unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } == -1 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(Some(ExitStatus::from_raw(status)));
        }
        match status >> 16 {
            libc::PTRACE_EVENT_EXEC => return Ok(None),
            0 => ptrace::go(pid, Go::Continue, libc::WSTOPSIG(status))?,
            _ => ptrace::go(pid, Go::Continue, 0)?,
        }
    }
}

fn reap(pid: i32) {
    // SAFETY: The child is ours and has not been waited for.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
    }
}

/// All that the child needs, made before the fork.
struct Plan {
    candidates: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    directory: Option<CString>,
    streams: [RawFd; 3],
    /// The owners of the pointers and the descriptors.
    _strings: Vec<CString>,
    _null: Option<std::fs::File>,
}

impl Plan {
    fn of(launch: &Launch) -> io::Result<Plan> {
        let candidates = candidates(&launch.program)?;
        check_machine(&candidates)?;
        let mut strings = Vec::new();
        let mut keep = |text: &[u8]| -> io::Result<*const libc::c_char> {
            let text = CString::new(text).map_err(|_| io::Error::other("an argument with a zero byte"))?;
            let pointer = text.as_ptr();
            strings.push(text);
            Ok(pointer)
        };
        let mut argv = vec![keep(launch.program.as_bytes())?];
        for arg in &launch.args {
            argv.push(keep(arg.as_bytes())?);
        }
        argv.push(std::ptr::null());
        let inherited = || std::env::vars_os().collect();
        let mut envp = Vec::new();
        for (name, value) in launch.env.clone().unwrap_or_else(inherited) {
            envp.push(keep(&[name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        envp.push(std::ptr::null());
        let null = launch.streams.iter().any(|stream| matches!(stream, Stream::Null));
        let null =
            null.then(|| std::fs::File::options().read(true).write(true).open("/dev/null")).transpose()?;
        let mut streams = [0, 1, 2];
        for (number, stream) in launch.streams.iter().enumerate() {
            streams[number] = match stream {
                Stream::Inherit => number as RawFd,
                Stream::Null => null.as_ref().map_or(-1, AsRawFd::as_raw_fd),
                Stream::File(file) => file.as_raw_fd(),
            };
        }
        let directory = launch.directory.as_ref().map(|path| CString::new(path.as_os_str().as_bytes()));
        Ok(Plan {
            candidates,
            argv,
            envp,
            directory: directory.transpose().map_err(|_| io::Error::other("a directory with a zero byte"))?,
            streams,
            _strings: strings,
            _null: null,
        })
    }

    /// Runs in the child: makes system calls, never returns, allocates nothing.
    fn become_program(&self, tracer: i32, report: RawFd, go: RawFd, other_end: RawFd) -> ! {
        // SAFETY: Pointers are those of live strings and arrays that end in null. Each call may be
        // made between fork and exec.
        unsafe {
            libc::close(other_end);
            libc::setpgid(0, 0);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != tracer {
                libc::_exit(127);
            }
            let before = libc::personality(0xffff_ffff);
            let wanted = before as libc::c_ulong | libc::ADDR_NO_RANDOMIZE as libc::c_ulong;
            let fixed = u8::from(before != -1 && libc::personality(wanted) != -1);
            libc::write(report, (&raw const fixed).cast(), 1);
            let mut byte = 0u8;
            if libc::read(go, (&raw mut byte).cast(), 1) != 1 {
                libc::_exit(127);
            }
            let failed = self.exec();
            let code = failed.to_ne_bytes();
            libc::write(report, code.as_ptr().cast(), code.len());
            libc::_exit(127)
        }
    }

    /// Returns the error number if the program cannot be run.
    unsafe fn exec(&self) -> i32 {
        // SAFETY: as the caller's.
        unsafe {
            let errno = || *libc::__errno_location();
            // A stream may lie where another one goes: move all out of the way first.
            let mut moved = [0; 3];
            for (to, from) in moved.iter_mut().zip(self.streams) {
                *to = libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 3);
                // A stream that the tracer itself has closed stays closed.
                if *to == -1 && errno() != libc::EBADF {
                    return errno();
                }
            }
            for (number, from) in moved.into_iter().enumerate() {
                if from != -1 && libc::dup2(from, number as RawFd) == -1 {
                    return errno();
                }
            }
            if let Some(directory) = &self.directory
                && libc::chdir(directory.as_ptr()) == -1
            {
                return errno();
            }
            // Rust ignores SIGPIPE; a mask is inherited, too.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            let mut failed = libc::ENOENT;
            for path in &self.candidates {
                libc::execve(path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
                if !matches!(errno(), libc::ENOENT | libc::ENOTDIR) {
                    failed = errno();
                }
            }
            failed
        }
    }
}

/// The paths at which the program may lie.
fn candidates(program: &OsStr) -> io::Result<Vec<CString>> {
    let name = program.as_bytes();
    let zero = |_| io::Error::other("a program's name with a zero byte");
    if name.contains(&b'/') {
        return Ok(vec![CString::new(name).map_err(zero)?]);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|directory| CString::new(directory.join(program).into_os_string().as_bytes()).map_err(zero))
        .collect()
}

/// Refuses a program for another machine, which the kernel may well run (32 bits), but whose registers and
/// instructions are others.
fn check_machine(candidates: &[CString]) -> io::Result<()> {
    let open = |path: &CString| std::fs::File::open(OsStr::from_bytes(path.as_bytes())).ok();
    let Some(mut file) = candidates.iter().find_map(open) else { return Ok(()) };
    let mut head = [0; 20];
    // A shorter file is no program, and the kernel says so.
    if file.read_exact(&mut head).is_err() || head[..4] != elf::ELFMAG {
        return Ok(());
    }
    let (class, machine) = (elf::FileClass(head[4]), elf::Machine(u16::from_le_bytes([head[18], head[19]])));
    let name = match (class, machine) {
        (elf::ELFCLASS64, elf::EM_X86_64) => return Ok(()),
        (elf::ELFCLASS32, elf::EM_X86_64) => "x32".to_owned(),
        (_, elf::EM_386) => "32-bit x86".to_owned(),
        (_, elf::EM_AARCH64) => "AArch64".to_owned(),
        (_, elf::EM_ARM) => "ARM".to_owned(),
        (_, elf::EM_RISCV) => "RISC-V".to_owned(),
        (_, other) => format!("machine {}", other.0),
    };
    Err(io::Error::other(format!("it is a program for {name}, and only those for x86-64 can be traced")))
}
