//! New threads, forked children, `vfork`'s children, and `exec`.
//!
//! A child is traced from its birth. Its parent stops and tells of it, and the child stops before it
//! runs: the two come in either order.
//!
//! - A thread joins its process.
//! - A forked child has a copy of the patched code. If children are not followed, the copy is
//!   cleaned and the child is let go.
//! - A child that shares the parent's memory (`vfork`, `posix_spawn`, `clone` with `CLONE_VM`) would
//!   die of the first breakpoint if it were let go. So it stays traced until it calls `exec` or ends.
//!   Unless children are followed, it passes breakpoints silently.

use super::breakpoints::Lifetime;
use super::error::{During, Result};
use super::event::Event;
use super::memory::Memory;
use super::pin::Mask;
use super::ptrace;
use super::space::{Moved, Space};
use super::thread::{Stop, Thread};
use super::tracer::{Process, Tracer};

/// A parent's report of a child.
#[derive(Clone, Debug)]
pub(super) struct Birth {
    parent: i32,
    /// The event: `PTRACE_EVENT_CLONE`, `_FORK` or `_VFORK`.
    event: i32,
    space: usize,
    followed: bool,
    affinity: Option<Mask>,
}

impl Tracer {
    /// A stopped thread tells of a child.
    pub(super) fn gave_birth(&mut self, tid: i32, event: i32) -> Result<()> {
        let child = match ptrace::event_message(tid) {
            Err(error) if ptrace::is_gone(&error) => return Ok(()),
            other => other.during("reading a child's number", tid)?,
        };
        let Some(thread) = self.threads.get(&tid) else { return Ok(()) };
        let pid = thread.pid;
        let affinity = thread.affinity.clone();
        let Some(process) = self.processes.get(&pid) else { return Ok(()) };
        let birth = Birth { parent: pid, event, space: process.space, followed: process.followed, affinity };
        let reported = process.followed && event != libc::PTRACE_EVENT_CLONE;
        if self.early.remove(&child) {
            self.adopt(child, birth)?;
        } else {
            self.expected.insert(child, birth);
        }
        if reported {
            self.events.push_back(Event::Forked { tid, child, vfork: event == libc::PTRACE_EVENT_VFORK });
            Ok(())
        } else {
            self.proceed(tid, 0)
        }
    }

    /// A thread that is not known has stopped for the first time.
    pub(super) fn was_born(&mut self, child: i32) -> Result<()> {
        match self.expected.remove(&child) {
            Some(birth) => self.adopt(child, birth),
            None => {
                self.early.insert(child);
                Ok(())
            }
        }
    }

    fn adopt(&mut self, child: i32, birth: Birth) -> Result<()> {
        let Some(group) = thread_group(child) else {
            // It was killed before it ran; its exit follows.
            self.threads.insert(child, Thread::new(child, birth.parent));
            return Ok(());
        };
        self.threads.insert(child, Thread::new(child, group));
        self.pin_thread(child, birth.affinity.clone())?;
        if group != birth.parent && !self.add_process(child, &birth)? {
            return Ok(());
        }
        if !self.hold(child, Stop::Interruption)? {
            return Ok(());
        }
        self.normalise(child)?;
        if self.processes.get(&group).is_some_and(|process| process.followed) {
            self.events.push_back(Event::ThreadStarted { tid: child, pid: group });
            return Ok(());
        }
        self.proceed(child, 0)
    }

    /// Adds a child process, or lets it go. Returns whether it is traced.
    fn add_process(&mut self, child: i32, birth: &Birth) -> Result<bool> {
        let followed = self.follow && birth.followed;
        let shares = shares_memory(birth.parent, child)
            .unwrap_or(matches!(birth.event, libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE));
        if shares {
            if let Some(space) = self.spaces.get_mut(&birth.space) {
                space.processes += 1;
            }
            self.processes.insert(child, Process::new(birth.space, followed));
            return Ok(true);
        }
        let memory = match Memory::of(child) {
            // Killed meanwhile: its exit follows.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) || ptrace::is_gone(&error) => {
                return Ok(false);
            }
            other => other.during("opening its memory", child)?,
        };
        let Some(space) = self.spaces.get(&birth.space) else { return Ok(false) };
        space.breakpoints.clean(&memory, Some(child))?;
        if !followed {
            return self.let_go(child, birth.space).map(|()| false);
        }
        // The child's copy may lack what was laid since, or have what was lifted.
        let mut copy = Space::copy(space, memory);
        for lifetime in [Lifetime::OneShot, Lifetime::Stays] {
            let laid = copy.breakpoints.take_laid(lifetime);
            copy.breakpoints.lay(&copy.memory, &laid, lifetime, Some(child))?;
        }
        let space = self.add_space(copy);
        self.processes.insert(child, Process::new(space, followed));
        Ok(true)
    }

    /// Stops tracing a child whose code is clean. `parent` is the space from which it was copied.
    fn let_go(&mut self, child: i32, parent: usize) -> Result<()> {
        // It may have been born in the scratch area, of which it has a copy, too.
        if self.hold(child, Stop::Interruption)?
            && let (Some(thread), Some(space)) = (self.threads.get_mut(&child), self.spaces.get(&parent))
            && space.original(&mut thread.regs) != Moved::No
        {
            ptrace::unless_gone(ptrace::set_registers(child, &thread.regs))
                .during("writing registers", child)?;
        }
        self.detach(child)
    }

    fn detach(&mut self, pid: i32) -> Result<()> {
        let affinity = self.threads.remove(&pid).and_then(|thread| thread.affinity);
        if let Some(mask) = affinity {
            ptrace::unless_gone(mask.apply(pid)).during("unpinning", pid)?;
        }
        self.let_go.insert(pid);
        self.events.push_back(Event::LetGo { pid });
        ptrace::unless_gone(ptrace::detach(pid, 0)).during("letting go", pid)
    }

    /// A process runs another program now: all its other threads are gone, and the one that called
    /// `exec` has the process's number.
    pub(super) fn executed(&mut self, pid: i32) -> Result<()> {
        let former = match ptrace::event_message(pid) {
            Err(error) if ptrace::is_gone(&error) => return Ok(()),
            other => other.during("reading a thread's former number", pid)?,
        };
        let Some(process) = self.processes.get(&pid) else { return Ok(()) };
        let (old, followed) = (process.space, process.followed);
        let mut thread = Thread::new(pid, pid);
        if let Some(before) = self.threads.get(&former) {
            (thread.syscalls, thread.interrupting) = (before.syscalls, before.interrupting);
            thread.affinity = before.affinity.clone();
        }
        self.threads.retain(|_, thread| thread.pid != pid);
        self.threads.insert(pid, thread);
        self.leave_space(old);
        if !followed {
            self.processes.remove(&pid);
            return self.detach(pid);
        }
        let memory = match Memory::of(pid) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) || ptrace::is_gone(&error) => {
                self.processes.remove(&pid);
                return Ok(());
            }
            other => other.during("opening its memory", pid)?,
        };
        let space = self.add_space(Space::new(memory));
        self.processes.insert(pid, Process::new(space, followed));
        if self.hold(pid, Stop::Syscall)? {
            self.events.push_back(Event::Executed { tid: pid, former });
        }
        Ok(())
    }
}

/// The process to which a thread belongs.
fn thread_group(tid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Returns whether two processes share their memory, or `None` if the kernel does not tell.
fn shares_memory(one: i32, other: i32) -> Option<bool> {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: The call only compares.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) };
    (result >= 0).then_some(result == 0)
}
