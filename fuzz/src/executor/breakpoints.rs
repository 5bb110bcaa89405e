//! Where each thread is to stop: one state machine for a thread's body, one for its handler.
//!
//! ```text
//!            plan               arm (has the baton)        hit
//!   None ----------> Planned <----------------> Armed -----------> Stopped
//!    |                            suspend        |  ^                 |
//!    |               not the last visit yet: hit |  | next instruction| clear, or plan
//!    |                                           v  |                 v
//!    +--> Point ---- passed as often ---> None  SteppingOver         None
//! ```
//!
//! A thread whose stop is at an instruction has a breakpoint in the code while it holds the baton.
//! Where the stop is for a later visit, the breakpoint is taken away at each visit before, and
//! breakpoints lie on whatever can run next instead (rungs), until one of these is hit and it is put
//! back. So no instruction is single-stepped, but for the few that may follow themselves.
//!
//! A signal's handler may have a stop of its own, and be held there while its thread's body is at a
//! stop, too: hence two levels. The body's breakpoint is out of the code while the handler runs.
//!
//! While a run is recorded the whole region is a ladder, every visit traps, and a planned breakpoint
//! is never armed ([`super::recorder`]).

use sigstorm_inject::{self as inject, Ladder};
use sigstorm_runtime::Point;

use crate::schedule::Stop;

/// The level of a thread's body.
const BODY: usize = 0;
/// The level of its signal handler.
const HANDLER: usize = 1;

/// Where a thread is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breakpoint {
    /// Nowhere.
    None,
    /// At a scheduling point, when it reaches it for the `hits`th time.
    Point { point: Point, hits: u8 },
    /// At an instruction, at the `hits`th visit. No breakpoint is in the code.
    Planned { address: usize, hits: u8 },
    /// The same, and the breakpoint is in the code.
    Armed { address: usize, hits: u8 },
    /// The thread passes the instruction, and the breakpoint is put back after it: by rungs on what can run
    /// next, or by the trap flag.
    SteppingOver { address: usize, hits: u8, rungs: bool },
    /// The thread is held at this instruction; `masked` where signals are blocked.
    Stopped { pc: usize, masked: bool },
}

#[derive(Clone, Copy, Debug)]
struct Level {
    breakpoint: Breakpoint,
    /// The stop as the schedule has it.
    stop: Option<Stop>,
    /// The step that has it.
    step: u32,
}

const NOWHERE: Level = Level { breakpoint: Breakpoint::None, stop: None, step: 0 };

/// A thread's response to a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// Nothing: continue.
    Passed,
    /// The same, with the trap flag set.
    SingleStep,
    /// The trap flag is not needed any more.
    Returned,
    /// Stop here.
    Stopped,
}

/// The breakpoints of one thread.
#[derive(Debug)]
pub(crate) struct Breakpoints {
    levels: [Level; 2],
    /// The level that runs.
    level: usize,
    /// The thread, as breakpoints name it.
    tid: i32,
    /// Where it stands on the ladder while others run, in a recorded run.
    rung: Option<usize>,
    /// The instruction that its handler returns to; zero where it is at no stop.
    returns_to: usize,
}

impl Breakpoints {
    pub(crate) const fn new() -> Self {
        Breakpoints { levels: [NOWHERE; 2], level: BODY, tid: 0, rung: None, returns_to: 0 }
    }

    /// The breakpoints are of this thread.
    pub(crate) fn bind(&mut self, tid: i32) {
        self.tid = tid;
    }

    /// Starts over. Nothing of it is in the code.
    pub(crate) fn reset(&mut self) {
        (self.levels, self.level, self.rung, self.returns_to) = ([NOWHERE; 2], BODY, None, 0);
    }

    fn current(&mut self) -> &mut Level {
        &mut self.levels[self.level]
    }

    /// The stop of the level that runs.
    pub(crate) fn stop(&self) -> Option<Stop> {
        self.levels[self.level].stop
    }

    /// The step whose stop that is.
    pub(super) fn step(&self) -> u32 {
        self.levels[self.level].step
    }

    /// Whether the thread is held at an instruction where signals are blocked: in a handler. The first and last
    /// instructions of a handler lie outside the events that say that it begins and ends.
    pub(crate) fn is_stopped_masked(&self) -> bool {
        self.levels.iter().any(|level| matches!(level.breakpoint, Breakpoint::Stopped { masked: true, .. }))
    }

    /// The instructions at which the thread is held: its body, its handler.
    pub(crate) fn stopped_at(&self) -> impl Iterator<Item = usize> + '_ {
        self.levels.iter().filter_map(|level| match level.breakpoint {
            Breakpoint::Stopped { pc, .. } => Some(pc),
            _ => None,
        })
    }

    // -- signals --------------------------------------------------------------------------

    /// A signal is on its way to where the thread is, or its handler begins: what is planned from now on is for the
    /// handler. The body's breakpoint is out of the code meanwhile.
    pub(super) fn enter_handler(&mut self, ladder: Option<&'static Ladder>) {
        if self.level == BODY {
            self.suspend(ladder);
            self.level = HANDLER;
        }
    }

    /// The handler is over, or the signal found none. Whatever stop it had is gone; the body's is to be
    /// [resumed](Self::resume).
    pub(super) fn end_handler(&mut self, ladder: Option<&'static Ladder>) {
        if self.level == HANDLER {
            self.clear(ladder);
            self.level = BODY;
        }
    }

    /// A signal is sent to the thread where its body is held: its handler returns there.
    pub(crate) fn returns_to_stop(&mut self) {
        self.returns_to = match self.levels[BODY].breakpoint {
            Breakpoint::Stopped { pc, masked: false } => pc,
            _ => 0,
        };
    }

    /// Whether a handler that has interrupted `pc` has done so exactly where the thread's body is held.
    pub(crate) fn is_signalled_at_stop(&self, pc: usize) -> bool {
        pc != 0
            && self.returns_to == pc
            && self.levels[BODY].breakpoint == Breakpoint::Stopped { pc, masked: false }
    }

    /// Whether the thread's body is back at `pc` from a handler, and has been seen there before. Says so once.
    pub(super) fn is_back_at(&mut self, pc: usize) -> bool {
        core::mem::take(&mut self.returns_to) == pc
    }

    // -- planning -------------------------------------------------------------------------

    /// Plans the stop of a step for the level that runs. `address` is the instruction's, where the stop is at one and
    /// this build has it.
    pub(super) fn plan(&mut self, step: u32, stop: Option<Stop>, address: Option<usize>) {
        let breakpoint = match stop {
            Some(Stop::Point { point, hit }) => Breakpoint::Point { point, hits: hit },
            Some(Stop::Instr { hit, .. }) => match address {
                Some(address) => Breakpoint::Planned { address, hits: hit },
                None => Breakpoint::None,
            },
            None => Breakpoint::None,
        };
        *self.current() = Level { breakpoint, stop, step };
    }

    /// The address of the instruction that the level that runs is to stop at, if no breakpoint is there yet.
    pub(super) fn planned(&self) -> Option<usize> {
        match self.levels[self.level].breakpoint {
            Breakpoint::Planned { address, .. } => Some(address),
            _ => None,
        }
    }

    /// Drops what is planned, which is not in the code.
    pub(super) fn drop_planned(&mut self) {
        self.current().breakpoint = Breakpoint::None;
    }

    /// Puts the planned breakpoint into the code.
    pub(super) fn arm(&mut self) {
        if let Breakpoint::Planned { address, hits } = self.current().breakpoint {
            // SAFETY: an instruction boundary of the marked code, writable for the process's life. The calling
            // thread holds the baton; it is the one that is to reach it, or passes the baton on to that one
            // before it reaches it itself.
            unsafe { inject::set_breakpoint_for(address, self.tid) };
            self.current().breakpoint = Breakpoint::Armed { address, hits };
        }
    }

    /// Forgets the stop of the level that runs, reached or not.
    #[inline]
    pub(super) fn clear(&mut self, ladder: Option<&'static Ladder>) {
        if self.current().stop.is_some() {
            self.take_out(ladder);
            *self.current() = NOWHERE;
        }
    }

    fn take_out(&mut self, ladder: Option<&'static Ladder>) {
        match self.current().breakpoint {
            Breakpoint::Armed { .. } => drop(inject::clear_breakpoint()),
            Breakpoint::SteppingOver { rungs, .. } => {
                if let Some(ladder) = ladder.filter(|_| rungs) {
                    ladder.disarm();
                }
            }
            _ => {}
        }
    }

    // -- the baton goes and comes ---------------------------------------------------------

    /// Takes the breakpoint out of the code, since others are to run.
    pub(super) fn suspend(&mut self, ladder: Option<&'static Ladder>) {
        self.take_out(ladder);
        if let Breakpoint::Armed { address, hits } = self.current().breakpoint {
            self.current().breakpoint = Breakpoint::Planned { address, hits };
        }
    }

    /// Puts it back, since the thread runs again.
    pub(super) fn resume(&mut self, ladder: Option<&'static Ladder>) {
        match self.current().breakpoint {
            Breakpoint::SteppingOver { address, rungs: true, .. } => {
                // It was accepted when it was armed first.
                arm_after(ladder, address);
            }
            Breakpoint::SteppingOver { address, hits, rungs: false } => {
                self.current().breakpoint = Breakpoint::Planned { address, hits };
                self.arm();
            }
            _ => self.arm(),
        }
    }

    /// The same in a recorded run.
    pub(super) fn suspend_recorded(&mut self, ladder: &'static Ladder) {
        self.rung = ladder.close();
    }

    /// The same in a recorded run.
    pub(super) fn resume_recorded(&mut self, ladder: &'static Ladder) {
        ladder.open(self.rung.take());
    }

    // -- hits -----------------------------------------------------------------------------

    /// Whether the thread, which has reached a scheduling point, is to be held there.
    #[inline]
    pub(super) fn reaches(&mut self, reached: Point) -> bool {
        let breakpoint = &mut self.levels[self.level].breakpoint;
        match breakpoint {
            Breakpoint::Point { point, hits } if *point == reached => {
                *hits = hits.saturating_sub(1);
                if *hits != 0 {
                    return false;
                }
                *breakpoint = Breakpoint::None;
                true
            }
            _ => false,
        }
    }

    /// The thread has trapped at `pc`, with signals blocked if `masked`, and with `put_back` after an instruction
    /// whose breakpoint is to be put back. With `recording` every visit traps, and no breakpoint is in the code.
    pub(super) fn trapped(
        &mut self,
        pc: usize,
        masked: bool,
        put_back: bool,
        recording: bool,
        ladder: Option<&'static Ladder>,
    ) -> Hit {
        let (address, hits) = match self.current().breakpoint {
            Breakpoint::Planned { address, hits }
            | Breakpoint::Armed { address, hits }
            | Breakpoint::SteppingOver { address, hits, .. } => (address, hits),
            _ => return Hit::Passed,
        };
        if put_back {
            self.take_out(ladder);
            self.current().breakpoint = Breakpoint::Planned { address, hits };
            if !recording {
                self.arm();
            }
            return Hit::Returned;
        }
        if pc != address {
            return Hit::Passed;
        }
        if hits <= 1 {
            if self.level == BODY {
                self.returns_to = 0;
            }
            self.current().breakpoint = Breakpoint::Stopped { pc, masked };
            return Hit::Stopped;
        }
        let hits = hits - 1;
        if recording {
            self.current().breakpoint = Breakpoint::Planned { address, hits };
            return Hit::Passed;
        }
        let rungs = arm_after(ladder, address);
        self.current().breakpoint = Breakpoint::SteppingOver { address, hits, rungs };
        if rungs { Hit::Passed } else { Hit::SingleStep }
    }

    /// The thread resumes from its stop. Returns the instruction that it was held at, if it was at one.
    pub(super) fn goes_on(&mut self) -> Option<usize> {
        match self.current().breakpoint {
            Breakpoint::Stopped { pc, .. } => {
                *self.current() = NOWHERE;
                Some(pc)
            }
            _ => None,
        }
    }
}

/// Arms breakpoints on what the calling thread can run after the instruction at `address`. Returns false where
/// that cannot be told.
fn arm_after(ladder: Option<&'static Ladder>, address: usize) -> bool {
    // SAFETY: the marked code, writable for the process's life. The calling thread holds the baton and is
    // the one that they are for; the breakpoint that it had is gone.
    ladder.is_some_and(|ladder| unsafe { ladder.arm_after(address) })
}
