//! The tracer: its threads and processes, the wait for events, and how threads go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use super::children::Birth;
use super::error::{During, Error, Result};
use super::event::{Event, Waited};
use super::guard::Guard;
use super::maps::{self, Mapping};
use super::memory::{Code, Memory};
use super::pin::{self, Mask};
use super::ptrace::{self, Go};
use super::registers::{Registers, Restart};
use super::signals::{self, Action, SignalSets, has_signal};
use super::space::Space;
use super::spawn::{self, Launch};
use super::thread::{ReturnBy, Sending, State, Stop, Thread, Unwritten};
use super::timer::Tick;

/// A traced process.
#[derive(Debug)]
pub(super) struct Process {
    /// The number of its address space.
    pub(super) space: usize,
    /// Its events are reported. A `vfork` child's are not unless children are followed.
    pub(super) followed: bool,
    /// The traps that its threads ran into.
    pub(super) traps: u32,
    /// The process's action for SIGTRAP, as last looked up; none for the default.
    pub(super) trap_action: Option<Action>,
}

impl Process {
    pub(super) fn new(space: usize, followed: bool) -> Process {
        Process { space, followed, traps: 0, trap_action: None }
    }
}

/// A program that runs under `ptrace`, and all that it starts.
///
/// Dropping the tracer kills the program. So does the tracer's own death.
#[derive(Debug)]
pub struct Tracer {
    pub(super) root: i32,
    pub(super) follow: bool,
    randomised: bool,
    pub(super) threads: BTreeMap<i32, Thread>,
    pub(super) processes: BTreeMap<i32, Process>,
    pub(super) spaces: BTreeMap<usize, Space>,
    pub(super) next_space: usize,
    /// Children whose parent has told of them and that have not stopped yet.
    pub(super) expected: BTreeMap<i32, Birth>,
    /// Children that have stopped and of which no parent has told yet.
    pub(super) early: BTreeSet<i32>,
    /// Children that were let go.
    pub(super) let_go: BTreeSet<i32>,
    pub(super) events: VecDeque<Event>,
    /// Statuses that came while a system call was made in another thread.
    pub(super) statuses: VecDeque<(i32, i32)>,
    tick: Option<Tick>,
    pub(super) guard: Option<Guard>,
    /// How handlers' returns are seen.
    pub(super) return_by: ReturnBy,
    /// How often SIGTRAP's mask or action was restored.
    pub(super) mended: u64,
    /// The core to which threads are pinned, and the tracer's own set of cores.
    pub(super) pinned: Option<(Mask, Mask)>,
    /// Requests to the kernel come from the thread that started the program alone.
    not_send: PhantomData<*const ()>,
}

impl Tracer {
    /// Starts a program and stops it before its first instruction: its only thread, which has the
    /// process's number, is held.
    ///
    /// # Errors
    ///
    /// If there is no such program, it cannot be run, or the kernel refuses to trace it.
    pub fn spawn(launch: &Launch) -> Result<Tracer> {
        let started = spawn::start(launch)?;
        let pid = started.pid;
        let mut tracer = Tracer {
            root: pid,
            follow: launch.follow,
            randomised: started.randomised,
            threads: BTreeMap::new(),
            processes: BTreeMap::new(),
            spaces: BTreeMap::new(),
            next_space: 0,
            expected: BTreeMap::new(),
            early: BTreeSet::new(),
            let_go: BTreeSet::new(),
            events: VecDeque::new(),
            statuses: VecDeque::new(),
            tick: None,
            guard: None,
            return_by: ReturnBy::default(),
            mended: 0,
            pinned: None,
            not_send: PhantomData,
        };
        tracer.threads.insert(pid, Thread::new(pid, pid));
        let space = tracer.add_space(Space::new(Memory::of(pid).during("opening its memory", pid)?));
        tracer.processes.insert(pid, Process::new(space, true));
        tracer.hold(pid, Stop::Syscall)?;
        tracer.guard = Some(Guard::over(pid).during("starting its guard", pid)?);
        Ok(tracer)
    }

    /// The process that was started.
    pub fn pid(&self) -> i32 {
        self.root
    }

    /// Returns whether the kernel places the program's code at random addresses because it refused
    /// not to. An address then means nothing in another run.
    pub fn is_randomised(&self) -> bool {
        self.randomised
    }

    /// The traced threads of a process, those that are held among them.
    pub fn threads(&self, pid: i32) -> Vec<i32> {
        self.threads.values().filter(|thread| thread.pid == pid).map(|thread| thread.tid).collect()
    }

    /// The traced processes.
    pub fn processes(&self) -> Vec<i32> {
        self.processes.keys().copied().collect()
    }

    /// The process of a traced thread.
    pub fn process_of(&self, tid: i32) -> Option<i32> {
        self.threads.get(&tid).map(|thread| thread.pid)
    }

    /// Returns whether an event holds this thread.
    pub fn is_held(&self, tid: i32) -> bool {
        self.threads.get(&tid).is_some_and(|thread| thread.state == State::Held)
    }

    /// The state that the kernel reports for a traced thread, as `/proc` writes it: `R` runs, `S` and
    /// `D` wait, `t` is stopped, `Z` has ended (as a first thread may have whose process lives on).
    pub fn kernel_state(&self, tid: i32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// A held thread's registers.
    ///
    /// # Errors
    ///
    /// If the thread is not held.
    pub fn registers(&self, tid: i32) -> Result<&Registers> {
        Ok(&self.held(tid)?.regs)
    }

    /// Changes a held thread's registers. A new PC leaves the breakpoint at the old one behind.
    ///
    /// # Errors
    ///
    /// If the thread is not held.
    pub fn set_registers(&mut self, tid: i32, regs: Registers) -> Result<()> {
        let thread = self.held_mut(tid)?;
        if regs.pc() != thread.regs.pc() {
            thread.at = None;
        }
        (thread.regs, thread.unwritten) = (regs, Unwritten::All);
        Ok(())
    }

    /// Fills `into` with a process's memory from `address` on, as it is without breakpoints.
    ///
    /// # Errors
    ///
    /// If some of it is not mapped, or the process is not traced.
    pub fn read(&self, pid: i32, address: u64, into: &mut [u8]) -> Result<()> {
        self.space(pid)?.read(address, into)
    }

    /// Reads a word of eight bytes.
    ///
    /// # Errors
    ///
    /// As [`Tracer::read`].
    pub fn read_word(&self, pid: i32, address: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(pid, address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a process's memory, page protection notwithstanding. Not for code with breakpoints.
    ///
    /// # Errors
    ///
    /// If some of it is not mapped, or the process is not traced.
    pub fn write(&mut self, pid: i32, address: u64, bytes: &[u8]) -> Result<()> {
        let stopped = self.stopped_in(pid);
        self.space(pid)?.memory.write(address, bytes, stopped)
    }

    /// A process's code, for [`Region::decode_from`](crate::Region::decode_from).
    pub fn code(&self, pid: i32) -> Code<'_> {
        Code { tracer: self, pid }
    }

    /// A process's mappings, in order of address.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn mappings(&self, pid: i32) -> Result<Vec<Mapping>> {
        maps::mappings(pid).during("reading the memory map", pid)
    }

    /// The signal sets of a thread and its process.
    ///
    /// # Errors
    ///
    /// If the thread is gone.
    pub fn signal_sets(&self, tid: i32) -> Result<SignalSets> {
        signals::sets(tid).during("reading the signal sets", tid)
    }

    /// Waits for the next event, at most so long.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something that a traced thread's stop requires.
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Waited> {
        // A limit beyond what the clock can say is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let block = timeout != Some(Duration::ZERO);
        if block && deadline.is_some() {
            if self.tick.is_none() {
                self.tick = Some(Tick::start().during("starting a timer", self.root)?);
            }
            if let Some(tick) = &self.tick {
                tick.begin().during("starting a timer", self.root)?;
            }
        }
        let waited = self.wait_until(deadline, block);
        if let Some(tick) = &self.tick {
            tick.end();
        }
        waited
    }

    fn wait_until(&mut self, deadline: Option<Instant>, block: bool) -> Result<Waited> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Waited::Event(event));
            }
            if let Some((tid, status)) = self.statuses.pop_front() {
                self.handle(tid, status)?;
                continue;
            }
            if self.threads.is_empty() && self.expected.is_empty() {
                return Ok(Waited::Ended);
            }
            let moving = |thread: &Thread| thread.state != State::Held;
            if self.expected.is_empty() && !self.threads.values().any(moving) {
                return Ok(Waited::AllHeld);
            }
            match ptrace::wait(block) {
                Ok(Some((tid, status))) => self.handle(tid, status)?,
                Ok(None) => return Ok(Waited::TimedOut),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    self.threads.clear();
                    return Ok(Waited::Ended);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).during("waiting", self.root),
            }
            if self.events.is_empty() && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Waited::TimedOut);
            }
        }
    }

    /// Lets a held thread go on. A signal that it was about to receive reaches it.
    ///
    /// # Errors
    ///
    /// If the thread is not held, or must pass an instruction that cannot run out of line.
    pub fn resume(&mut self, tid: i32) -> Result<()> {
        let signal = self.held(tid)?.signal;
        let result = self.proceed(tid, signal);
        self.unless_killed(tid, result)
    }

    /// Lets a held thread go on without the signal that it was about to receive.
    ///
    /// # Errors
    ///
    /// As [`Tracer::resume`].
    pub fn resume_without_signal(&mut self, tid: i32) -> Result<()> {
        let thread = self.held_mut(tid)?;
        if thread.stop == Stop::Called && thread.signal != 0 {
            // It does not come once more.
            let signal = thread.signal;
            thread.stashed.retain(|stashed| stashed.reported || stashed.info.si_signo != signal);
        }
        let result = self.proceed(tid, 0);
        self.unless_killed(tid, result)
    }

    /// Lets a held thread run one instruction: [`Event::Stepped`] follows. A signal that it was
    /// about to receive reaches it. An instruction that waits (`syscall`) may take for ever.
    ///
    /// # Errors
    ///
    /// As [`Tracer::resume`].
    pub fn step(&mut self, tid: i32) -> Result<()> {
        let thread = self.held_mut(tid)?;
        let before = (thread.stepping, thread.step_from);
        (thread.stepping, thread.step_from) = (true, Some(thread.regs.pc()));
        let result = self.resume(tid);
        if result.is_err()
            && let Some(thread) = self.threads.get_mut(&tid)
        {
            (thread.stepping, thread.step_from) = before;
        }
        result
    }

    /// Chooses whether a thread stops at the entries and exits of its system calls, from when it
    /// goes on next.
    ///
    /// # Errors
    ///
    /// If the thread is not held.
    pub fn trace_syscalls(&mut self, tid: i32, on: bool) -> Result<()> {
        self.held_mut(tid)?.syscalls = on;
        Ok(())
    }

    /// Stops a running thread: [`Event::Interrupted`] follows unless the thread ends. A thread that
    /// is held gets it after it has been resumed. A system call that waits is made again.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn interrupt(&mut self, tid: i32) -> Result<()> {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.interrupting = true;
            ptrace::unless_gone(ptrace::interrupt(tid)).during("interrupting", tid)?;
        }
        Ok(())
    }

    /// Pins every traced thread, those that start later too, and the calling thread to the core on
    /// which the caller runs now.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn pin(&mut self) -> Result<()> {
        if self.pinned.is_some() {
            return Ok(());
        }
        let mask = Mask::single(pin::current_core());
        let own = Mask::of(0).during("reading the cores", self.root)?;
        mask.apply(0).during("pinning", self.root)?;
        self.pinned = Some((mask.clone(), own));
        for tid in self.threads.keys().copied().collect::<Vec<_>>() {
            self.pin_thread(tid, None)?;
        }
        Ok(())
    }

    /// Gives every thread the cores that it had before [`Tracer::pin`]. A thread that started since
    /// gets those of the thread that started it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn unpin(&mut self) -> Result<()> {
        let Some((_, own)) = self.pinned.take() else { return Ok(()) };
        for thread in self.threads.values_mut() {
            if let Some(mask) = thread.affinity.take() {
                ptrace::unless_gone(mask.apply(thread.tid)).during("unpinning", thread.tid)?;
            }
        }
        own.apply(0).during("unpinning", self.root)
    }

    /// Pins a thread if threads are pinned. One that has inherited this keeps `inherited` for later.
    pub(super) fn pin_thread(&mut self, tid: i32, inherited: Option<Mask>) -> Result<()> {
        let (Some((mask, _)), Some(thread)) = (&self.pinned, self.threads.get_mut(&tid)) else {
            return Ok(());
        };
        let before = match inherited {
            Some(mask) => Ok(mask),
            None => Mask::of(tid),
        };
        let pinned = before.and_then(|before| {
            thread.affinity = Some(before);
            mask.apply(tid)
        });
        ptrace::unless_gone(pinned).during("pinning", tid)
    }

    /// Lets a stopped thread go on, past the breakpoint at which it was reported.
    pub(super) fn proceed(&mut self, tid: i32, signal: i32) -> Result<()> {
        let mut signal = signal;
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let pid = thread.pid;
        let pc = thread.regs.pc();
        let at = thread.at.take() == Some(pc);
        if self.space(pid)?.breakpoints.laid() != 0 {
            if at && self.space(pid)?.breakpoints.is_laid(pc) {
                if signal != 0 {
                    self.note_passing(tid, pc);
                } else {
                    let passed = self.pass(tid, pc, &mut signal);
                    if passed.is_err()
                        && let Some(thread) = self.threads.get_mut(&tid)
                    {
                        thread.at = Some(pc);
                    }
                    if !passed? {
                        return Ok(());
                    }
                }
            } else {
                self.note_restart(tid, signal)?;
            }
        }
        self.go(tid, signal)
    }

    fn note_passing(&mut self, tid: i32, address: u64) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            let sp = thread.regs.sp();
            thread.will_pass(address, sp);
        }
    }

    /// A system call that the kernel makes again meets the breakpoint at its instruction a second time.
    /// One that ends with EINTR may be made again by the program, which is another visit.
    fn note_restart(&mut self, tid: i32, signal: i32) -> Result<()> {
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let (pc, sp) = (thread.regs.pc(), thread.regs.sp());
        let again = pc.wrapping_sub(2);
        let Some(restart) = thread.regs.restart() else { return Ok(()) };
        // An earlier stop in the same call may have noted this, and a signal come in between.
        thread.passes(again, sp);
        let pid = thread.pid;
        if !self.space(pid)?.breakpoints.is_laid(again) {
            return Ok(());
        }
        let handled = signal != 0 && signals::sets(tid).is_ok_and(|sets| has_signal(sets.caught, signal));
        match restart {
            _ if !handled => self.note_passing(tid, again),
            Restart::Always => self.note_passing(tid, again),
            Restart::UnlessHandled => {}
            // The handler's frame tells.
            Restart::AsActionSays => {
                if let Some(thread) = self.threads.get_mut(&tid) {
                    thread.sending = Some(Sending { signal, pc, sp, restarts: true, own: true });
                }
            }
        }
        Ok(())
    }

    /// Writes the registers back and continues.
    pub(super) fn go(&mut self, tid: i32, signal: i32) -> Result<()> {
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let written = match std::mem::take(&mut thread.unwritten) {
            Unwritten::Nothing => Ok(()),
            Unwritten::Pc => ptrace::set_pc(tid, thread.regs.pc()),
            Unwritten::All => ptrace::set_registers(tid, &thread.regs),
        };
        ptrace::unless_gone(written).during("writing registers", tid)?;
        thread.signal = 0;
        // After an injected call the thread has left its group-stop, and is about to enter it again.
        if thread.group_stop && thread.stop != Stop::Called {
            thread.state = State::Listening;
            return ptrace::unless_gone(ptrace::listen(tid)).during("leaving it stopped", tid);
        }
        thread.state = State::Running;
        let step = thread.stepping || thread.sending.is_some();
        let how = match (step, thread.syscalls) {
            (true, _) => Go::Step,
            (false, true) => Go::ToSyscall,
            (false, false) => Go::Continue,
        };
        ptrace::unless_gone(ptrace::go(tid, how, signal)).during("continuing", tid)
    }

    /// Notes that a thread has stopped, and reads its registers. Returns whether it is still there.
    pub(super) fn hold(&mut self, tid: i32, stop: Stop) -> Result<bool> {
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(false) };
        thread.regs = match ptrace::registers(tid) {
            Ok(regs) => regs,
            Err(error) if ptrace::is_gone(&error) => return Ok(false),
            Err(error) => return Err(error).during("reading registers", tid),
        };
        (thread.state, thread.stop, thread.signal) = (State::Held, stop, 0);
        thread.mask_is_current = false;
        Ok(true)
    }

    pub(super) fn held(&self, tid: i32) -> Result<&Thread> {
        let held = |thread: &&Thread| thread.state == State::Held;
        self.threads.get(&tid).filter(held).ok_or(Error::NotHeld { tid })
    }

    pub(super) fn held_mut(&mut self, tid: i32) -> Result<&mut Thread> {
        let held = |thread: &&mut Thread| thread.state == State::Held;
        self.threads.get_mut(&tid).filter(held).ok_or(Error::NotHeld { tid })
    }

    pub(super) fn space(&self, pid: i32) -> Result<&Space> {
        let process = self.processes.get(&pid).ok_or(Error::NoProcess { pid })?;
        self.spaces.get(&process.space).ok_or(Error::NoProcess { pid })
    }

    pub(super) fn space_mut(&mut self, pid: i32) -> Result<&mut Space> {
        let process = self.processes.get(&pid).ok_or(Error::NoProcess { pid })?;
        self.spaces.get_mut(&process.space).ok_or(Error::NoProcess { pid })
    }

    pub(super) fn space_of(&self, tid: i32) -> Result<&Space> {
        let pid = self.threads.get(&tid).map_or(tid, |thread| thread.pid);
        self.space(pid)
    }

    pub(super) fn add_space(&mut self, space: Space) -> usize {
        let number = self.next_space;
        self.next_space += 1;
        self.spaces.insert(number, space);
        number
    }

    /// A process leaves its address space; the last one takes it along.
    pub(super) fn leave_space(&mut self, number: usize) {
        if let Some(space) = self.spaces.get_mut(&number) {
            space.processes -= 1;
            if space.processes == 0 {
                self.spaces.remove(&number);
            }
        }
    }

    /// A stopped thread of a process.
    pub(super) fn stopped_in(&self, pid: i32) -> Option<i32> {
        let stopped = |thread: &&Thread| thread.pid == pid && thread.state == State::Held;
        self.threads.values().find(stopped).map(|thread| thread.tid)
    }

    /// Kills everything that is traced, and the rest of the program's process group: children that
    /// were let go.
    pub fn kill(&mut self) {
        // Processes that have been waited for: their numbers may be others' by now.
        for (tid, status) in std::mem::take(&mut self.statuses) {
            if !libc::WIFSTOPPED(status) {
                self.ended(tid, status);
            }
        }
        let root = self.root;
        let in_group = |pid: &i32| process_group(*pid) == Some(root);
        // SAFETY: The calls send signals. The group is the program's: one of its members, whom we
        // trace or let go, is still in it.
        unsafe {
            if self.processes.keys().chain(&self.let_go).any(in_group) {
                libc::kill(-root, libc::SIGKILL);
            }
            for pid in self.processes.keys().chain(self.expected.keys()).chain(&self.early) {
                libc::kill(*pid, libc::SIGKILL);
            }
        }
        // The guard is a child of this thread, too: while it lives the wait below has no end of its own.
        self.guard = None;
        let mut left: BTreeSet<i32> = self.processes.keys().copied().collect();
        loop {
            match ptrace::wait(!left.is_empty()) {
                Ok(Some((tid, status))) if !libc::WIFSTOPPED(status) => {
                    left.remove(&tid);
                }
                // A child that nobody had told of yet, or a thread on its way out.
                Ok(Some((tid, _))) => {
                    // SAFETY: We trace the thread, so that the number is not anybody else's.
                    if unsafe { libc::kill(tid, libc::SIGKILL) } == 0 && !self.threads.contains_key(&tid) {
                        left.insert(tid);
                    }
                    // Gone or not, it dies.
                    let _ = ptrace::go(tid, Go::Continue, 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.threads.clear();
        self.processes.clear();
        self.events.clear();
        self.statuses.clear();
        self.expected.clear();
        self.early.clear();
        self.let_go.clear();
    }
}

/// The process group of a process.
fn process_group(pid: i32) -> Option<i32> {
    // SAFETY: The call only asks.
    let group = unsafe { libc::getpgid(pid) };
    (group != -1).then_some(group)
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.kill();
        // A thread that cannot be given its cores back keeps the one it has.
        let _ = self.unpin();
    }
}
