//! The instructions of the goroutine side, and those that no run comes to.

use std::fmt;

use sigstorm::executor::Harness;
use sigstorm::schedule::Stop;
use sigstorm_runtime::FuncId;
use sigstorm_runtime::unwind::functab::{FuncInfo, info};

/// Where an instruction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Its function.
    pub function: FuncId,
    /// Which instruction of it.
    pub index: u16,
    /// How far into it.
    pub offset: usize,
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{} (+{:#x})", self.function, self.index, self.offset)
    }
}

impl Boundary {
    /// Its address in this process.
    pub fn address(&self) -> usize {
        info(self.function).start + self.offset
    }

    /// A stop there.
    pub fn stop(&self, hit: u8) -> Stop {
        Stop::Instr { function: self.function, index: self.index, hit, check: None }
    }

    /// The place as an event of a trace has it.
    pub fn place(&self) -> String {
        format!("{}+{:#x}", self.function, self.offset)
    }
}

/// Every instruction of every function, in the order of their codes.
pub fn all(harness: &Harness) -> Vec<Boundary> {
    let region = harness.region();
    let of = |&function: &FuncId| {
        let boundaries = region.boundaries(usize::from(function.code())).iter().enumerate();
        boundaries.map(move |(index, b)| Boundary {
            function,
            index: index as u16,
            offset: usize::from(b.offset),
        })
    };
    FuncId::ALL.iter().filter(|f| f.on_goroutine_stack()).flat_map(of).collect()
}

/// The instructions of `all` that belong to one function.
pub fn of(all: &[Boundary], function: FuncId) -> impl Iterator<Item = &Boundary> {
    all.iter().filter(move |b| b.function == function)
}

/// Why nothing ever runs this instruction; nothing where something must.
pub fn dead(all: &[Boundary], boundary: &Boundary) -> Option<&'static str> {
    use FuncId::*;
    let FuncInfo { start, end, after_call, after_morestack, landing, slots, .. } = *info(boundary.function);
    let index_of = |address: usize| {
        of(all, boundary.function).position(|b| start + b.offset == address).expect("a label") as u16
    };
    let is_last = of(all, boundary.function).last() == Some(boundary);
    let last_of = |name: &'static str| (is_last && end == boundary.address() + 2).then_some(name);
    match boundary.function {
        Entry => (boundary.address() == after_morestack).then_some("ud2 after an exit that is never resumed"),
        Trampoline => last_of("ud2 where the order is broken"),
        Callback => last_of("ud2 after an exit that is never resumed"),
        Syscall | Cgocall | SwitchIn | SwitchOut | Leaf => None,
        function => {
            assert!(slots != 0, "{function} is no frame kind");
            if boundary.index == index_of(landing) && function != Deferring {
                return Some("recoveries land in a deferring frame alone");
            }
            // Its event, the call, and the jump back.
            let more = index_of(after_morestack) - 2..=index_of(after_morestack);
            if more.contains(&boundary.index) && function == Nosplit {
                return Some("it has no stack check");
            }
            let epilogue = index_of(after_call) + 1..*more.start();
            if epilogue.contains(&boundary.index) && matches!(function, Gopanic | Goexit) {
                return Some("it never returns to whom it has interrupted");
            }
            None
        }
    }
}

/// Asserts that all were come to except those that cannot be, which were not; says how many.
#[track_caller]
pub fn assert_all(all: &[Boundary], reached: impl Fn(&Boundary) -> bool) -> String {
    let (mut count, mut dead_ones) = (0, Vec::new());
    for boundary in all {
        match dead(all, boundary) {
            None => {
                assert!(reached(boundary), "{boundary} is never interrupted");
                count += 1;
            }
            Some(reason) => {
                assert!(!reached(boundary), "{boundary} is interrupted, though: {reason}");
                dead_ones.push(format!("{boundary}: {reason}"));
            }
        }
    }
    format!("{count} of {} instructions; dead: {}\n{}", all.len(), dead_ones.len(), dead_ones.join("\n"))
}
