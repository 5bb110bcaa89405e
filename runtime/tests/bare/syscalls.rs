//! Goroutines that really sleep in the kernel, on their own stack: the collector scans them,
//! the world stops without them, signals interrupt them. And the tracer's events of them.

use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::profiler::tracer::{EVENTS, Event, Kind};
use sigstorm_runtime::profiler::{self, Outcome, Pseudo};
use sigstorm_runtime::sched::g::{G, status};
use sigstorm_runtime::sched::syscall::{MAX_CALLS, Made, SystemCall, SystemCalls};
use sigstorm_runtime::unwind::functab::info;
use sigstorm_runtime::{CodeClass, Config, FuncId, M, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, Machines, be, calls, chain, frames, machines, returns_to_the_end, start};

const SIGNALS: usize = 200;
/// The chain of calls that goes to sleep, innermost first.
const ASLEEP: [FuncId; 4] = [FuncId::Syscall, FuncId::Large, FuncId::Small, FuncId::Entry];

static SAMPLES: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
/// The PC at which a signal is to arrive, and the value of `rax` there.
static PLACE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Runs the core's handler, and notes what it did and where.
extern "C" fn observe(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(m) = M::of_thread() else { return };
    // SAFETY: the kernel passes a ucontext to an SA_SIGINFO handler.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let [pc, sp, rax] = [libc::REG_RIP, libc::REG_RSP, libc::REG_RAX].map(|r| registers[r as usize] as usize);
    // SAFETY: this is the handler of the machine that this thread is.
    unsafe { profiler::sigprof(m, pc, sp) };
    // SAFETY: this is the handler.
    let sample = unsafe { m.last_sample() };
    let right = [
        pc == PLACE[0].load(Ordering::SeqCst),
        rax == PLACE[1].load(Ordering::SeqCst),
        m.current().is_some_and(|g| g.stack.contains(sp)),
        (sample.outcome, sample.pseudo, sample.class) == (Outcome::Traceback, Pseudo::None, CodeClass::Stub),
        sample.len == ASLEEP.len() && sample.frames[0].pc == pc,
        sample.frames().iter().zip(ASLEEP).all(|(frame, function)| {
            let info = info(function);
            info.start <= frame.pc && frame.pc < info.end
        }),
    ];
    let wrong = right.iter().enumerate().fold(0, |bits, (bit, right)| bits | u64::from(!right) << bit);
    WRONG.fetch_or(wrong, Ordering::SeqCst);
    SAMPLES.fetch_add(1, Ordering::SeqCst);
}

fn install_observer() {
    // SAFETY: a zeroed sigaction is a valid one; the handler keeps to what handlers may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = observe as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()), 0);
    }
}

/// Makes a pipe. Returns its ends: to read, to write.
fn pipe() -> [i32; 2] {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    ends
}

/// Returns whether the thread sleeps, as the kernel says.
fn sleeps(tid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{tid}/stat")).expect("a thread's state");
    let after_name = stat.rsplit_once(") ").expect("a name in brackets").1;
    after_name.starts_with('S')
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_micros(50));
    }
}

/// A goroutine that is asleep in the kernel, on machine 0, until something is written.
struct Sleeper {
    thread: thread::JoinHandle<Made>,
    tid: i32,
    write: i32,
}

impl Sleeper {
    /// Has `g` make this call of a pipe's end on a thread of its own.
    fn begin(w: Machines, g: &'static G, call: fn(i32) -> SystemCall) -> Sleeper {
        let [read, write] = pipe();
        let (send, receive) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            be(w.m0);
            start(w.m0, g);
            calls(w.m0, &[FuncId::Small, FuncId::Large]);
            assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
            let calls = SystemCalls::new(&[SystemCall::HARMLESS, call(read)]).expect("two calls");
            // SAFETY: no preconditions.
            send.send(unsafe { libc::gettid() }).expect("the test waits");
            // SAFETY: the kernel writes to memory that was leaked for this call.
            let made = unsafe { w.m0.make_syscalls(&calls) }.expect("it is in one");
            assert_eq!((g.status.get(), g.syscall.sp.get()), (status::RUNNING, 0));
            assert_eq!(chain(g), ASLEEP[1..]);
            returns_to_the_end(w.m0, 3);
            made
        });
        let tid = receive.recv().expect("it has begun");
        let sleeper = Sleeper { thread, tid, write };
        until("asleep in the kernel", || g.status.get() == status::SYSCALL && sleeps(tid));
        sleeper
    }

    /// Sends it signals, each once it sleeps again. Each must be found at `pc`, with `rax`.
    fn interrupt(&self, pc: usize, rax: usize) {
        use std::os::unix::thread::JoinHandleExt;
        PLACE[0].store(pc, Ordering::SeqCst);
        PLACE[1].store(rax, Ordering::SeqCst);
        for _ in 0..SIGNALS {
            let before = SAMPLES.load(Ordering::SeqCst);
            // SAFETY: the thread was not joined.
            let sent = unsafe { libc::pthread_kill(self.thread.as_pthread_t(), libc::SIGPROF) };
            assert_eq!(sent, 0);
            until("a sample", || SAMPLES.load(Ordering::SeqCst) == before + 1);
            until("asleep again", || sleeps(self.tid));
        }
        assert_eq!(WRONG.load(Ordering::SeqCst), 0, "a bit for each thing that is wrong");
    }

    /// Writes a byte. Returns the outcome of the call.
    fn wake(self) -> Made {
        // SAFETY: one byte of a static.
        assert_eq!(unsafe { libc::write(self.write, b"!".as_ptr().cast(), 1) }, 1);
        self.thread.join().expect("it returns to the end")
    }
}

/// Waits until there is something to read. Never made again by the kernel itself.
fn poll(fd: i32) -> SystemCall {
    let poll = Box::leak(Box::new(libc::pollfd { fd, events: libc::POLLIN, revents: 0 }));
    SystemCall { number: libc::SYS_ppoll as usize, args: [std::ptr::from_mut(poll) as usize, 1, 0, 0, 8, 0] }
}

/// Reads a byte. The kernel makes it again by itself after a handler with `SA_RESTART`.
fn read(fd: i32) -> SystemCall {
    let byte = Box::leak(Box::new(0u8));
    SystemCall {
        number: libc::SYS_read as usize,
        args: [fd as usize, std::ptr::from_mut(byte) as usize, 1, 0, 0, 0],
    }
}

#[test]
fn interrupted_syscall_is_scanned_and_made_again() {
    passes("syscalls::interrupted_syscall_is_scanned_and_made_again", || {
        let w = machines(EVERY_FRAME);
        install_observer();
        let g = w.g(1);
        let sleeper = Sleeper::begin(w, g, poll);
        let back = info(FuncId::Syscall).landing;
        let eintr = -(libc::EINTR as isize) as usize;
        sleeper.interrupt(back, eintr);

        // The transition point has another PC and the same SP.
        let found = frames(g).expect("a walk");
        assert_eq!((found[0].pc, found[0].sp), (info(FuncId::Syscall).after_next_op, g.syscall.sp.get()));
        assert_eq!(chain(g), ASLEEP);

        // Barriers over the return addresses above it, and it returns through them.
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        assert_eq!(g.barriers.len(), 2);
        sleeper.interrupt(back, eintr);
        let made = sleeper.wake();
        assert_eq!(made, Made { result: 1, interrupted: 2 * SIGNALS });
        assert!(w.collector.gc_terminate() && w.collector.gc_sweep());
    });
}

#[test]
fn syscall_restarted_by_the_kernel_is_found_at_its_instruction() {
    passes("syscalls::syscall_restarted_by_the_kernel_is_found_at_its_instruction", || {
        let w = machines(EVERY_FRAME);
        install_observer();
        let sleeper = Sleeper::begin(w, w.g(1), read);
        // `syscall` has two bytes; its number is back in the register.
        sleeper.interrupt(info(FuncId::Syscall).landing - 2, libc::SYS_read as usize);
        assert_eq!(sleeper.wake(), Made { result: 1, interrupted: 0 });
    });
}

#[test]
fn world_stops_while_a_g_sleeps_in_the_kernel() {
    passes("syscalls::world_stops_while_a_g_sleeps_in_the_kernel", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        let sleeper = Sleeper::begin(w, g, poll);
        assert!(w.runtime.at_safepoint(0));
        for _ in 0..3 {
            assert!(w.collector.gc_mark());
            assert!(w.collector.gc_scan(g));
            assert_eq!(g.barriers.pending(), 2);
            assert!(!w.collector.gc_shrink(g), "the kernel may hold pointers to it");
            assert!(w.collector.gc_terminate());
            assert!(g.barriers.is_empty());
            assert!(w.collector.gc_sweep());
            assert!(sleeps(sleeper.tid), "it was not woken");
        }
        assert_eq!(sleeper.wake(), Made { result: 1, interrupted: 0 });
    });
}

#[test]
fn syscalls_are_made_in_order_and_the_last_result_is_kept() {
    passes("syscalls::syscalls_are_made_in_order_and_the_last_result_is_kept", || {
        let w = machines(Config::default());
        let make = |calls: &[SystemCall]| {
            let calls = SystemCalls::new(calls).expect("as many as there may be");
            // SAFETY: the kernel is only asked for numbers, or told to close nothing.
            unsafe { w.m0.make_syscalls(&calls) }
        };
        assert_eq!(make(&[SystemCall::HARMLESS]), None, "no goroutine is in a system call");
        start(w.m0, w.g(1));
        assert_eq!(make(&[SystemCall::HARMLESS]), None);
        let close = SystemCall { number: libc::SYS_close as usize, args: [usize::MAX, 0, 0, 0, 0, 0] };
        let pid = std::process::id() as isize;
        for (calls, result) in [
            (&[SystemCall::HARMLESS] as &[_], pid),
            (&[close, SystemCall::HARMLESS], pid),
            (&[SystemCall::HARMLESS, close], -(libc::EBADF as isize)),
            (&[close, close, close, SystemCall::HARMLESS], pid),
        ] {
            assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
            assert_eq!(make(calls), Some(Made { result, interrupted: 0 }));
            assert_eq!(chain(w.g(1)), [FuncId::Entry]);
        }
        assert!(SystemCalls::new(&[]).is_none());
        assert!(SystemCalls::new(&[close; MAX_CALLS + 1]).is_none());
    });
}

#[test]
fn tracer_keeps_last_events_with_their_frames() {
    passes("syscalls::tracer_keeps_last_events_with_their_frames", || {
        let w = machines(Config { trace: true, ..EVERY_FRAME });
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Large]);
        // SAFETY: this is the machine's thread, and it is between two operations.
        let kept = || unsafe { w.m0.trace() }.events().copied().collect::<Vec<Event>>();
        assert_eq!(kept().len(), 0);
        for round in 1..=EVENTS as u64 {
            assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
            let entered = kept();
            let last = entered.last().expect("an event");
            assert_eq!((last.sequence, last.kind), (2 * round - 1, Kind::SyscallEnter));
            assert_eq!(w.m0.leave_syscall(), RunResult::NextOp);
            let events = kept();
            assert_eq!(events.len(), EVENTS.min(2 * round as usize));
            let last = events.last().expect("an event");
            assert_eq!((last.sequence, last.kind, last.goroutine), (2 * round, Kind::SyscallExit, 1));
            for event in &events {
                let stub = info(FuncId::Syscall);
                let pc =
                    if event.kind == Kind::SyscallEnter { stub.after_next_op } else { stub.after_morestack };
                let expected = [pc, info(FuncId::Large).after_call, info(FuncId::Small).after_call];
                assert!(event.frames().iter().map(|f| f.pc).take(3).eq(expected), "{event:x?}");
                assert_eq!(event.len, ASLEEP.len());
            }
        }
        assert!(w.m0.holds_no_lock() && g.lock.owner().is_none());
    });
}

#[test]
fn tracer_that_is_off_records_no_events() {
    passes("syscalls::tracer_that_is_off_records_no_events", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
        assert_eq!(w.m0.leave_syscall(), RunResult::NextOp);
        // SAFETY: this is the machine's thread, and it is between two operations.
        assert_eq!(unsafe { w.m0.trace() }.events().count(), 0);
    });
}
