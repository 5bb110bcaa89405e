//! Handing goroutines over: how a machine takes one, starts one, drops one, parks one, and makes one
//! runnable.
//!
//! Two fields say whose a goroutine is, and they change one after the other. Its status says
//! whether it runs; `held` says whether a machine still has it. A machine that drops a goroutine
//! changes the status first and clears `held` last, so another one that takes it waits for `held`.

use core::sync::atomic::Ordering;

use super::g::{G, status};
use super::m::M;
use super::runtime::Runtime;
use super::wait::Wait;
use crate::instrument::hooks;
use crate::stack::barrier_list::max_entries;
use crate::unwind::func_id::FuncId;
use crate::unwind::functab;

impl M {
    /// Takes `g`, and starts it anew first if it is idle or dead. Returns false if `g` cannot be
    /// taken, or if the machine has a goroutine already.
    ///
    /// A goroutine that was started anew has not begun. The first [`M::ret`] takes it through the
    /// first instructions of its outermost frame to its first ask. A call before that is ignored.
    ///
    /// A machine that drops a goroutine changes the status first, and has the goroutine for a moment
    /// longer. Until then that machine's handler may still walk its stack, so `take` waits.
    pub fn take(&'static self, g: &'static G) -> bool {
        if self.current().is_some() || self.id == self.runtime.extra_m() {
            return false;
        }
        let _running = self.leave_safepoint();
        loop {
            match g.status.get() {
                s @ (status::IDLE | status::DEAD) => {
                    self.make(g, s);
                }
                status::RUNNABLE => {
                    if g.status.cas(status::RUNNABLE, status::RUNNING) {
                        self.await_release(g);
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

    /// Starts a goroutine anew that is idle or dead, and leaves it runnable. Returns false if it is
    /// neither.
    pub fn spawn(&'static self, g: &'static G) -> bool {
        let _running = self.leave_safepoint();
        let s = g.status.get();
        let made = matches!(s, status::IDLE | status::DEAD) && self.make(g, s);
        if made {
            crate::point!(Spawned, g);
        }
        made
    }

    /// Starts `g` anew. Returns false if another machine is quicker.
    fn make(&'static self, g: &'static G, was: u32) -> bool {
        let mine = g.status.cas(was, was | status::SCAN);
        if mine {
            self.await_release(g);
            self.runtime.spawn(g);
        }
        mine
    }

    /// Waits until no machine has `g`.
    fn await_release(&'static self, g: &'static G) {
        while g.is_held() {
            hooks::wait(&Wait::GReleased(g));
        }
    }

    /// Drops the current goroutine, which stays runnable. The status changes first, so for a moment
    /// the goroutine counts as stopped and is still this machine's. Returns false if there is no
    /// goroutine, or if it is in a foreign call, whose frames lie on this machine's stack.
    pub fn yield_now(&'static self) -> bool {
        let Some(g) = self.current().filter(|_| self.foreign_calls() == 0) else { return false };
        let _running = self.leave_safepoint();
        self.drop_g(g, status::RUNNABLE);
        true
    }

    /// Drops the current goroutine, with this status.
    pub(super) fn drop_g(&'static self, g: &'static G, status: u32) {
        g.status.set(status);
        crate::point!(StatusChanged, g, status as usize);
        self.set_current(None);
        g.held.store(false, Ordering::SeqCst);
        crate::point!(GReleased, g);
    }

    /// Drops the current goroutine, which waits until [`M::ready`] makes it runnable. Returns false
    /// as [`M::yield_now`] does.
    pub fn park(&'static self) -> bool {
        let Some(g) = self.current().filter(|_| self.foreign_calls() == 0) else { return false };
        let _running = self.leave_safepoint();
        g.status.set(status::WAITING);
        g.set_parked(true);
        crate::point!(Parked, g);
        self.set_current(None);
        g.held.store(false, Ordering::SeqCst);
        crate::point!(GReleased, g);
        true
    }

    /// Makes a parked goroutine runnable. Returns false if it is not parked, or if another machine
    /// is quicker.
    pub fn ready(&'static self, g: &'static G) -> bool {
        let _running = self.leave_safepoint();
        if !g.set_parked(false) {
            return false;
        }
        // A machine that scans it owns its status.
        while !g.status.cas(status::WAITING, status::RUNNABLE) {
            hooks::wait(&Wait::ScanBit(g));
        }
        crate::point!(Readied, g);
        true
    }
}

impl Runtime {
    /// Gives `g` a stack, if it has none, and makes it runnable from its start.
    pub(crate) fn spawn(&'static self, g: &'static G) {
        // SAFETY: an idle or dead goroutine belongs to the one machine that starts it.
        let memory = unsafe { &mut *g.memory.get() };
        if memory.is_none() {
            let size = self.initial_stack.load(Ordering::Relaxed);
            let stack = match self.pool.take(size) {
                Ok(stack) => stack,
                Err(error) => panic!("no memory for a stack of {size} bytes: {error}"),
            };
            g.stack.set(&stack, self.every_frame());
            g.barriers.place(g.stack.top.get(), max_entries(size, self.every_frame()));
            *memory = Some(stack);
        }
        g.take_preempt_request();
        g.set_parked(false);
        g.save_start(functab::info(FuncId::Entry).start);
        g.status.set(status::RUNNABLE);
    }
}
