//! Dumps: the text that a throw prints. It shows the goroutine, its barriers with a marker at the
//! position and at the culprit, and its frames. A signal handler may throw, so none of it allocates.

use core::fmt::{self, Display, Formatter};

use super::functab::Table;
use super::raw_text::{Short, Stderr};
use super::reason::{Reason, Throw};
use super::traceback::{Unwinder, saved};
use super::walk_error::WalkError;
use crate::arch;
use crate::instrument::marked_code;
use crate::sched::g::{G, status};
use crate::stack::lock_word::Owner;
use crate::stack::memory::POISON;

/// A PC, shown as function and offset, or as the kind of value that it is instead.
#[derive(Clone, Copy, Debug)]
pub struct Pc(pub usize);

impl Display for Pc {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Pc(pc) = *self;
        if let Some(info) = marked_code::find_func(pc) {
            return f.pad(Short::of(format_args!("{}+{:#x}", info.function, pc - info.start)).as_str());
        }
        match pc {
            POISON => f.pad("poison"),
            0 => f.pad("0"),
            _ => f.pad("elsewhere"),
        }
    }
}

/// A stack address, shown as the distance from the top of its goroutine's stack.
#[derive(Clone, Copy, Debug)]
pub struct Address<'a>(pub &'a G, pub usize);

impl Display for Address<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Address(g, address) = *self;
        let (lo, hi, top) = (g.stack.lo.get(), g.stack.hi.get(), g.stack.top.get());
        if lo <= address && address <= hi {
            f.pad(Short::of(format_args!("top{:+}", address as isize - top as isize)).as_str())
        } else {
            f.pad("off the stack")
        }
    }
}

/// A goroutine's state, shown in lines: status, barriers, frames.
#[derive(Clone, Copy, Debug)]
pub struct Dump<'a> {
    /// The goroutine.
    pub g: &'a G,
    /// The slot to put the marker at, if one is to blame.
    pub culprit: Option<usize>,
}

impl Display for Dump<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let g = self.g;
        let s = g.status.get();
        writeln!(
            f,
            "g{}: {}{}, stack of {} bytes, {}, lock {}",
            g.id,
            status::name(s),
            if s & status::SCAN != 0 { " (being scanned)" } else { "" },
            g.stack.size(),
            Used(g),
            Holder(g.lock.owner()),
        )?;
        let b = &g.barriers;
        writeln!(f, "  barriers: {} entries, position {} (@@@), culprit (==>)", b.len(), b.position())?;
        for index in 0..b.len() {
            let Some(entry) = b.entry(index) else { break };
            let culprit = self.culprit == Some(entry.slot);
            writeln!(
                f,
                "  {} {} [{index:3}] slot {:>9}  return {}",
                if culprit { "==>" } else { "   " },
                if index == b.position() { "@@@" } else { "   " },
                Address(g, entry.slot),
                Pc(entry.pc),
            )?;
        }
        self.frames(f)
    }
}

/// How much of its stack a goroutine uses, as far as its SP is saved.
struct Used<'a>(&'a G);

impl Display for Used<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Used(g) = *self;
        match g.sched.sp.get().max(g.syscall.sp.get()) {
            0 => f.write_str("it runs"),
            sp => write!(f, "{} used", g.stack.top.get().wrapping_sub(sp) as isize),
        }
    }
}

/// The holder of a stack lock.
struct Holder(Option<Owner>);

impl Display for Holder {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("free"),
            Some(o) => write!(f, "held by machine {} for {}", o.machine + 1, o.operation),
        }
    }
}

impl Dump<'_> {
    /// Writes the reason why the walk of the frames has stopped.
    fn stopped(&self, f: &mut Formatter<'_>, error: WalkError) -> fmt::Result {
        let culprit = self.culprit.is_some() && error.slot() == self.culprit;
        writeln!(f, "  {} {error}", if culprit { "==>" } else { "   " })
    }

    /// Writes the frames, as far as they can be walked, and which have a barrier.
    fn frames(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let g: &'static G = {
            // SAFETY: goroutines live in the core, which is never freed.
            unsafe { &*core::ptr::from_ref(self.g) }
        };
        writeln!(f, "  frames, innermost first:")?;
        let start = match saved(g) {
            Ok(start) => start,
            Err(_) => return writeln!(f, "    none saved: it runs"),
        };
        let mut walk = match Unwinder::begin(g, start) {
            Ok(walk) => walk,
            Err(error) => return self.stopped(f, error),
        };
        loop {
            match walk.step() {
                Ok(None) => return Ok(()),
                Err(error) => return self.stopped(f, error),
                Ok(Some(frame)) => {
                    let culprit = frame.slot.is_some() && frame.slot == self.culprit;
                    let barrier = frame.slot.is_some_and(|slot| {
                        // SAFETY: `load_or` survives an unreadable slot.
                        Table::get().row(unsafe { arch::load_or(slot, 0) }).is_trampoline()
                    });
                    writeln!(
                        f,
                        "  {} {:<18} sp {:>9}{}",
                        if culprit { "==>" } else { "   " },
                        Pc(frame.pc),
                        Address(g, frame.sp),
                        if barrier { "  barrier over its return address" } else { "" },
                    )?;
                }
            }
        }
    }
}

impl Display for WalkError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            WalkError::UnknownStart { pc } => write!(f, "starts in unknown code: {}", Pc(pc)),
            WalkError::UnknownReturn { pc, .. } => {
                write!(f, "a return address is in no function: {}", Pc(pc))
            }
            WalkError::OutOfStack { .. } => write!(f, "a frame reaches out of its stack"),
            WalkError::Fault { .. } => write!(f, "a return slot cannot be read"),
            WalkError::MissedBarrier { .. } => {
                write!(f, "a return slot holds the trampoline and no entry is its")
            }
            WalkError::LeftoverBarriers { entries, .. } => {
                write!(f, "the walk is complete and {entries} barriers were not met")
            }
            WalkError::ShortOfTop { .. } => {
                write!(f, "the walk came to the outermost frame, and not to the top of the stack")
            }
            WalkError::LostTrampoline { .. } => write!(f, "in the trampoline, and no entry is its"),
            WalkError::NothingSaved => write!(f, "nothing is saved to start from"),
        }
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Reason::BarrierLost { found, entry, .. } => {
                write!(f, "barrier lost: entry {entry}'s slot holds {} and not the trampoline", Pc(found))
            }
            Reason::BarrierOverflow { capacity, .. } => {
                write!(f, "barrier overflow: there is room for {capacity}")
            }
            Reason::OutOfOrder { .. } => {
                write!(f, "barrier out of order: a frame returned into one that is not next")
            }
            Reason::DoubleInstall { entries, .. } => {
                write!(f, "a goroutine that is to be scanned already has barriers: {entries}")
            }
            Reason::WalkFailed(error) => write!(f, "the runtime's own walk failed: {error}"),
            Reason::Fault { address: POISON, .. } => {
                write!(f, "a read of a freed stack: the value is poison")
            }
            Reason::Fault { pc, address: 0..4096 } => {
                write!(f, "memory fault at {}, of an address near zero", Pc(pc))
            }
            Reason::Fault { pc, .. } => write!(f, "memory fault at {}", Pc(pc)),
            Reason::StackOverflow { pc, .. } => write!(f, "stack overflow: {} hit a guard page", Pc(pc)),
            Reason::SampleTorn { machine, sequence } => {
                write!(f, "sample {sequence} of machine {} is not as it was written", machine + 1)
            }
        }
    }
}

/// Prints a throw and aborts, where no harness is installed. Signal-safe.
pub(crate) fn print_and_abort(throw: &Throw) -> ! {
    let mut stderr = Stderr::new();
    stderr.print(format_args!("sigstorm-runtime: {}\n", throw.reason));
    if let Some(g) = throw.g {
        stderr.print(format_args!("{}", Dump { g, culprit: throw.reason.slot() }));
    }
    drop(stderr);
    std::process::abort()
}
