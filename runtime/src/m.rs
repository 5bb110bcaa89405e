//! M: a machine, which is an operating system thread that runs goroutines.
//!
//! A machine's own stack (`g0`) is the thread's. Its loop is ordinary Rust: tell the
//! current goroutine what its frame is to do, run it until it leaves its stack, see to
//! what it left for. Whoever drives a machine calls these operations one after the
//! other; between two of them the machine is at a safepoint.

use core::cell::{Cell, UnsafeCell};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::arch;
use crate::barrier;
use crate::core::{Busy, Core, Phase};
use crate::event;
use crate::foreign::Driver;
use crate::function::Function;
use crate::g::{G, status};
use crate::gc;
use crate::hooks;
use crate::lock::Operation;
use crate::profiler::Sample;
use crate::table;
use crate::tracer;
use crate::wait::Wait;
use crate::word::Word;

thread_local! {
    static CURRENT: Cell<*const M> = const { Cell::new(ptr::null()) };
}

/// A machine.
#[derive(Debug)]
pub struct M {
    /// Its number, from 0.
    pub id: u8,
    /// The core that it belongs to.
    pub core: &'static Core,
    current: AtomicPtr<G>,
    /// How many stack locks it holds; preemption is held off meanwhile.
    pub(crate) locks: Word,
    /// True while it collects.
    pub(crate) collecting: AtomicBool,
    /// How many foreign calls its goroutine is in; it is locked to this machine meanwhile.
    pub(crate) foreign_calls: Word,
    /// True while its thread runs foreign code, and not the runtime or a goroutine.
    pub(crate) in_foreign_code: AtomicBool,
    /// Who drives it through foreign code; its own thread's.
    pub(crate) driver: Cell<Option<&'static Driver>>,
    /// The last sample that its handler took.
    pub(crate) sample: UnsafeCell<Sample>,
    /// The last events of its execution tracer.
    pub(crate) trace: UnsafeCell<tracer::Buffer>,
}

// SAFETY: the sample is written by this machine's own thread, in its signal handler, and
// read where that handler is known not to run; the trace and the driver are that thread's
// own; everything else is atomic or a `Word`.
unsafe impl Sync for M {}

/// Where a goroutine is after it was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Its innermost frame asks what to do next.
    Asks,
    /// It is in a system call.
    InSyscall,
    /// Its callback has returned: it is in a foreign call.
    InForeign,
    /// It has let the machine go at a prologue, as it was asked to. Whoever takes it next
    /// goes on from there with [`M::proceed`].
    Preempted,
    /// It has ended, and the machine has none.
    Exited,
}

impl M {
    /// Makes a machine that lives as long as the process. Its thread must [`M::attach`].
    pub fn leak(core: &'static Core, id: u8) -> &'static M {
        assert!(
            id <= core.guest(),
            "there are {} machines, and one for a thread from outside",
            core.machines()
        );
        Box::leak(Box::new(M {
            id,
            core,
            current: AtomicPtr::new(ptr::null_mut()),
            locks: Word::new(0),
            collecting: AtomicBool::new(false),
            foreign_calls: Word::new(0),
            in_foreign_code: AtomicBool::new(false),
            driver: Cell::new(None),
            sample: UnsafeCell::new(Sample::NONE),
            trace: UnsafeCell::new(tracer::Buffer::new()),
        }))
    }

    /// Makes this machine the calling thread's, and then starts its profiling timer: a signal
    /// of it never finds the thread without its machine.
    ///
    /// # Errors
    /// Where the kernel refuses the timer; the thread is no machine's then.
    pub fn attach(&'static self) -> std::io::Result<()> {
        CURRENT.set(self);
        crate::point!(MachineBound, ptr::null(), 1);
        self.start_timer().inspect_err(|_| CURRENT.set(ptr::null()))
    }

    /// Stops the profiling timer, and then makes the calling thread, which is this machine's,
    /// one without a machine again. It must have no goroutine.
    pub fn detach(&'static self) {
        debug_assert!(ptr::eq(CURRENT.get(), self) && self.current().is_none());
        self.stop_timer();
        CURRENT.set(ptr::null());
        crate::point!(MachineBound, ptr::null(), 0);
    }

    /// The calling thread's machine. Signal-safe.
    #[inline(always)]
    pub fn of_thread() -> Option<&'static M> {
        // SAFETY: null, or a leaked machine.
        unsafe { CURRENT.get().as_ref() }
    }

    /// The address of the calling thread's machine; null where it has none. Signal-safe.
    pub(crate) fn address_of_thread() -> *const M {
        CURRENT.get()
    }

    /// The machine at this address.
    ///
    /// # Safety
    /// There is one. (A planted defect comes here with null. That must be the processor's
    /// fault and not whatever a compiler makes of it, so the address is touched first.)
    pub(crate) unsafe fn at(address: *const M) -> &'static M {
        // SAFETY: a leaked machine (caller).
        unsafe {
            arch::touch(address as usize);
            &*address
        }
    }

    /// Makes the calling thread forget that it is a machine's, behind everybody's back, to see
    /// whether an oracle notices.
    pub fn forget() {
        CURRENT.set(ptr::null());
    }

    /// The goroutine that it runs. Signal-safe.
    #[inline(always)]
    pub fn current(&self) -> Option<&'static G> {
        // SAFETY: null, or a goroutine of the core, which is never freed.
        unsafe { self.current.load(Ordering::Relaxed).as_ref() }
    }

    /// True where it holds no stack lock, as between any two operations.
    #[inline]
    pub fn holds_no_lock(&self) -> bool {
        self.locks.get() == 0
    }

    /// The last sample that its handler took.
    ///
    /// # Safety
    /// The machine's handler does not run meanwhile: the caller is that handler, or the
    /// machine's thread is held.
    pub unsafe fn last_sample(&self) -> &Sample {
        // SAFETY: nobody writes it meanwhile (caller).
        unsafe { &*self.sample.get() }
    }

    pub(crate) fn busy(&'static self) -> Busy {
        self.follow_rate();
        Busy::new(self)
    }

    fn set_current(&self, g: Option<&'static G>) {
        self.current.store(g.map_or(ptr::null_mut(), |g| ptr::from_ref(g).cast_mut()), Ordering::Relaxed);
    }

    /// Takes `g`, making it anew first if it is idle or dead. False where it is not to be had.
    /// The machine must have no goroutine.
    ///
    /// A goroutine that was made anew has not begun: the first [`M::ret`] takes it through its
    /// outermost frame's first instructions to its first ask. A call before that is not heard.
    ///
    /// Whoever lets a goroutine go changes its status first, so it may have to be waited for:
    /// until then that machine's handler may still walk its stack.
    pub fn take(&'static self, g: &'static G) -> bool {
        if self.current().is_some() || self.id == self.core.guest() {
            return false;
        }
        let _busy = self.busy();
        loop {
            match g.status.get() {
                s @ (status::IDLE | status::DEAD) => {
                    self.make(g, s);
                }
                status::RUNNABLE => {
                    if g.status.cas(status::RUNNABLE, status::RUNNING) {
                        self.await_drop(g);
                        break;
                    }
                }
                s if s & status::SCAN != 0 && s & !status::SCAN == status::RUNNABLE => {
                    hooks::wait(&Wait::ScanBit(g));
                }
                _ => return false,
            }
        }
        crate::point!(StatusChanged, g, status::RUNNING as usize);
        g.held.store(true, Ordering::SeqCst);
        self.set_current(Some(g));
        crate::point!(Taken, g);
        true
    }

    /// Makes a goroutine anew that is idle or dead and leaves it to whoever takes it. False
    /// where it lives.
    pub fn spawn(&'static self, g: &'static G) -> bool {
        let _busy = self.busy();
        let s = g.status.get();
        let made = matches!(s, status::IDLE | status::DEAD) && self.make(g, s);
        if made {
            crate::point!(Spawned, g);
        }
        made
    }

    /// Makes `g` anew; false where another is quicker.
    fn make(&'static self, g: &'static G, was: u32) -> bool {
        let mine = g.status.cas(was, was | status::SCAN);
        if mine {
            self.await_drop(g);
            self.core.spawn(g);
        }
        mine
    }

    /// Waits until no machine has `g` any more.
    fn await_drop(&'static self, g: &'static G) {
        while g.is_held() {
            hooks::wait(&Wait::Dropped(g));
        }
    }

    /// Lets the current goroutine go; it stays runnable. The status changes first, so for a
    /// moment it counts as stopped and is still this machine's. False where there is none, or
    /// where it is in a foreign call, whose frames lie on this machine's stack.
    pub fn yield_now(&'static self) -> bool {
        let Some(g) = self.current().filter(|_| self.foreign_calls() == 0) else { return false };
        let _busy = self.busy();
        self.let_go(g, status::RUNNABLE);
        true
    }

    fn let_go(&'static self, g: &'static G, status: u32) {
        g.status.set(status);
        crate::point!(StatusChanged, g, status as usize);
        self.set_current(None);
        g.held.store(false, Ordering::SeqCst);
        crate::point!(Dropped, g);
    }

    /// Lets the current goroutine go until somebody makes it runnable with [`M::ready`].
    pub fn park(&'static self) -> bool {
        let Some(g) = self.current().filter(|_| self.foreign_calls() == 0) else { return false };
        let _busy = self.busy();
        g.status.set(status::WAITING);
        g.set_parked(true);
        crate::point!(Parked, g);
        self.set_current(None);
        g.held.store(false, Ordering::SeqCst);
        crate::point!(Dropped, g);
        true
    }

    /// Makes a parked goroutine runnable. False where it is not parked, or another is quicker.
    pub fn ready(&'static self, g: &'static G) -> bool {
        let _busy = self.busy();
        if !g.set_parked(false) {
            return false;
        }
        // Whoever scans it has its status.
        while !g.status.cas(status::WAITING, status::RUNNABLE) {
            hooks::wait(&Wait::ScanBit(g));
        }
        crate::point!(Readied, g);
        true
    }

    /// Asks a goroutine that another machine runs to let that machine go at its next prologue.
    pub fn preempt(&'static self, g: &'static G) -> bool {
        let own = self.current().is_some_and(|own| ptr::eq(own, g));
        if own || g.status.get() != status::RUNNING {
            return false;
        }
        g.request_yield();
        crate::point!(PreemptAsked, g);
        true
    }

    /// The innermost frame calls `function`.
    pub fn call(&'static self, function: Function) -> Left {
        let Some(g) = self.current() else { return Left::Exited };
        let busy = self.busy();
        self.resume(g, table::info(function).start, busy)
    }

    /// The innermost frame returns; the outermost one ends the goroutine.
    pub fn ret(&'static self) -> Left {
        let Some(g) = self.current() else { return Left::Exited };
        let busy = self.busy();
        self.resume(g, 0, busy)
    }

    /// Goes on with a goroutine that was [`Left::Preempted`], from that prologue.
    pub fn proceed(&'static self) -> Left {
        let Some(g) = self.current() else { return Left::Exited };
        let busy = self.busy();
        self.resume(g, 0, busy)
    }

    /// Runs `g` from its saved state until it leaves its stack for something that its
    /// driver must decide.
    pub(crate) fn resume(&'static self, g: &'static G, answer: usize, busy: Busy) -> Left {
        let (mut answer, mut busy) = (answer, busy);
        loop {
            let position = g.barriers.position();
            // SAFETY: this machine runs `g`, which is at a safepoint with its registers saved.
            let event = unsafe { arch::switch_in(g, answer) } as u32;
            // It has returned into a barrier: the trampoline's check has run, for the canary.
            let _ = g.barriers.position() != position && crate::planted!(OrderCheckInverted);
            match event {
                event::ASK => return Left::Asks,
                event::MORE => {
                    if self.more_stack(g) {
                        return Left::Preempted;
                    }
                }
                event::EXIT => {
                    self.exit(g);
                    return Left::Exited;
                }
                event::SYSCALL_ENTER => {
                    self.enter_syscall(g);
                    return Left::InSyscall;
                }
                event::FOREIGN_ENTER => busy = self.run_foreign(g, busy),
                event::FOREIGN_EXIT => self.exit_foreign(g),
                event::CALLBACK_EXIT => {
                    self.exit_callback(g);
                    return Left::InForeign;
                }
                // `SYSCALL_EXIT` comes back to who sent the stub into the kernel.
                _ => unreachable!("the assembly knows eight events"),
            }
            answer = 0;
        }
    }

    /// A prologue has trapped: a preemption request, or no room. True where the goroutine was
    /// let go.
    fn more_stack(&'static self, g: &'static G) -> bool {
        debug_assert!(self.holds_no_lock(), "a prologue runs under a stack lock");
        if g.preempt_requested() {
            return self.honour(g);
        }
        let size = g.stack.size() * 2;
        if size > crate::stack::MAX_STACK {
            crate::throw::throw(
                Some(g),
                crate::throw::Reason::StackOverflow { address: g.sched.sp.get(), pc: g.sched.pc.get() },
            );
        }
        crate::copystack::copystack(self, g, size);
        false
    }

    /// Does what was asked of the goroutine. True where it was let go.
    fn honour(&'static self, g: &'static G) -> bool {
        let asked = g.answer();
        if asked.scan {
            self.scan_self(g);
        }
        if self.core.world.stopping() {
            self.core.set_safe(self.id, true);
            while self.core.world.stopping() {
                hooks::wait(&Wait::World(self.core));
            }
            // Unsafe again, as the operation that led here will end.
            core::mem::forget(self.busy());
        }
        // With foreign frames on the thread's stack it stays there.
        let yields = asked.yields && self.foreign_calls() == 0;
        if yields {
            crate::point!(PreemptYields, g);
            self.let_go(g, status::RUNNABLE);
        }
        yields
    }

    /// A place other than a prologue where a request to scan itself is honoured; not while a
    /// stack lock is held.
    pub(crate) fn poll(&'static self, g: &'static G) {
        let own = self.current().is_some_and(|own| ptr::eq(own, g));
        if own && self.holds_no_lock() && g.scan_requested() {
            g.forget_scan();
            self.scan_self(g);
        }
    }

    /// Scans its own goroutine's stack, as it was asked to.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn scan_self(&'static self, g: &'static G) {
        crate::point!(ScanSelf, g);
        g.status.set(status::WAITING);
        crate::point!(StatusChanged, g, status::WAITING as usize);
        // The collector may have seen it wait, and scan it already.
        while !g.status.cas(status::WAITING, status::WAITING | status::SCAN) {
            hooks::wait(&Wait::ScanBit(g));
        }
        let done = g.scan_done();
        if (!done || crate::planted!(DoubleScan, done)) && self.core.phase() == Phase::Mark {
            gc::scan_stack(self, g);
            g.set_scan_done(true);
        }
        g.status.set(status::RUNNING);
        crate::point!(StatusChanged, g, status::RUNNING as usize);
    }

    /// Ends the current goroutine where it stands. Its struct and stack can be used anew. One
    /// in a foreign call is left as it is: foreign code is to return to it.
    pub fn end(&'static self) -> Left {
        if self.foreign_calls() != 0 {
            return Left::InForeign;
        }
        if let Some(g) = self.current() {
            let _busy = self.busy();
            if g.syscall.sp.get() != 0 {
                g.sched.copy_from(&g.syscall);
                self.exit_syscall(g);
            }
            self.exit(g);
        }
        Left::Exited
    }

    fn exit(&'static self, g: &'static G) {
        crate::point!(ExitBegin, g);
        if !crate::planted!(ExitKeepsBarriers, !g.barriers.is_empty()) {
            barrier::remove_all(self, g, Operation::Exit);
        }
        // SAFETY: this machine still runs `g`.
        unsafe { g.unwinding() }.clear();
        crate::point!(ExitCleared, g);
        self.let_go(g, status::DEAD);
    }

    /// Saves the transition point and lets the goroutine count as stopped.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn enter_syscall(&'static self, g: &'static G) {
        g.syscall.copy_from(&g.sched);
        crate::point!(SyscallSaved, g);
        if self.core.tracing() && !crate::planted!(TraceEventUnlocked) {
            tracer::record(self, g, tracer::Kind::SyscallEnter);
        }
        // From here on only the transition point says where it is.
        g.sched.sp.set(0);
        g.status.set(status::SYSCALL);
        if self.core.tracing() && crate::planted!(TraceEventUnlocked) {
            tracer::record(self, g, tracer::Kind::SyscallEnter);
        }
        crate::point!(SyscallEntered, g);
    }

    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn exit_syscall(&'static self, g: &'static G) {
        while !g.status.cas(status::SYSCALL, status::RUNNING) {
            hooks::wait(&Wait::ScanBit(g));
        }
        crate::point!(SyscallExiting, g);
        g.syscall.sp.set(0);
        crate::point!(SyscallExited, g);
        if self.core.tracing() {
            tracer::record(self, g, tracer::Kind::SyscallExit);
        }
    }
}
