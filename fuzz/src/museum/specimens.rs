//! The specimens: each mistake, where it is recorded, and the verdicts that give it away.
//!
//! Numbers and names are those of the defects (a test compares them). Sources are issues and
//! commits of the Go runtime, which had stack barriers from its version 1.5 until a later
//! write barrier made them unnecessary.

use sigstorm_runtime::Defect;

use crate::outcome::Verdict::{self, *};

/// One specimen.
#[derive(Clone, Copy, Debug)]
pub struct Specimen {
    /// The defect's code.
    pub number: u8,
    /// The defect's name.
    pub name: &'static str,
    /// Where the mistake and its mending are recorded.
    pub source: &'static str,
    /// The mistake.
    pub wrong: &'static str,
    /// How it comes out.
    pub bites: &'static str,
    /// The verdicts that are right; none where the harness must stay silent.
    pub expected: &'static [Verdict],
}

/// The specimen of a defect. Every one that can be planted has one.
pub fn specimen(defect: Defect) -> Option<&'static Specimen> {
    SPECIMENS.iter().find(|specimen| specimen.number == defect.code())
}

/// All of them.
pub const SPECIMENS: &[Specimen] = &[
    Specimen {
        number: 1,
        name: "install-unlocked",
        source: "golang/go#11863, mended in 87f97c73d3",
        wrong: "A scan put barriers over return addresses without holding off tracebacks of that stack.",
        bites: "A thread in a system call is interrupted, and its walk notes that there are no barriers. The \
                collector takes the goroutine for stopped and installs some. The walk goes on, reads the \
                trampoline out of a return slot, and has no entry that explains it.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 2,
        name: "sigprof-spins",
        source: "Go 9c9d74aba7",
        wrong: "The profiling handler waited for the stack lock, where it may only try it once.",
        bites: "The handler interrupts the very code that holds the lock, on the same thread: it waits for \
                itself.",
        expected: &[Deadlock],
    },
    Specimen {
        number: 3,
        name: "remove-unlocked",
        source: "Go 9c9d74aba7",
        wrong: "Mark termination put return addresses back and emptied the list without the stack lock.",
        bites: "A walk under way on the stopped goroutine's own thread meets slots of before and a list of \
                after, or the reverse.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 4,
        name: "recover-unwind-unlocked",
        source: "Go 9c9d74aba7",
        wrong: "A recovery unwound the barriers of the frames that it abandons without the stack lock.",
        bites: "Between putting a return address back and moving the position a signal arrives. The walk \
                expects the trampoline in a slot where it no longer is, or the next barrier in the wrong one.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 5,
        name: "bulk-unwind-unlocked",
        source: "Go 9c9d74aba7",
        wrong: "A bulk move onto a higher frame unwound the barriers below it without the stack lock.",
        bites: "As with a recovery: a signal between the slot and the position finds the two at odds.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 6,
        name: "trampoline-not-simulated",
        source: "Go 3a2fc06833",
        wrong: "A walk that starts in the trampoline took it for a frame of the program.",
        bites: "A frame returns into a barrier and a signal arrives within those few instructions. The sample \
                shows the trampoline, or goes on at the wrong caller.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 7,
        name: "copystack-status-check-only",
        source: "golang/go#13362, mended in ecf388f3a4",
        wrong: "The handler looked at the goroutine's status to see whether its stack is being copied, and the \
                copy took no lock: the status can change right after the look.",
        bites: "The handler has seen a harmless status and walks. The collector halves that very stack: frames, \
                list and bounds move away under the walk.",
        expected: &[BadTraceback, Fault],
    },
    Specimen {
        number: 8,
        name: "copystack-unlocked",
        source: "golang/go#12932, mended in bbd1a1c706",
        wrong: "Copying a stack took no lock, and nobody looked at any status.",
        bites: "A stack grows, and a signal interrupts the copy on the same thread. The saved registers, the \
                bounds and the list belong to two different stacks.",
        expected: &[BadTraceback, Fault],
    },
    Specimen {
        number: 9,
        name: "cgo-traceback-unlocked",
        source: "golang/go#12528, f90b48e0d3",
        wrong: "The lock was asked for before walks that start in the goroutine's own code, and not before \
                those that start where it entered a foreign call.",
        bites: "In a foreign call the goroutine counts as stopped and the collector changes its barriers, under \
                the lock. The handler fails to get the lock and walks all the same.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 10,
        name: "lock-follows-wrong-g",
        source: "golang/go#12528, 3f22adecc7",
        wrong: "Where the interrupted SP was on no goroutine's stack, the handler locked nothing, or one \
                goroutine, and walked another.",
        bites: "The thread works on its own stack for a goroutine whose barriers somebody else is changing, \
                under the lock that the handler did not ask for.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 11,
        name: "cgo-sample-discarded",
        source: "golang/go#13466, mended in b50b24837d",
        wrong: "A good walk from a foreign call's transition point was thrown away, because the interrupted SP \
                was not on the goroutine's stack.",
        bites: "Every sample in a foreign call says only that it was external code: a skip for which there was \
                no reason.",
        expected: &[UnjustifiedSkip],
    },
    Specimen {
        number: 12,
        name: "trace-event-unlocked",
        source: "golang/go#14101, mended in 08594ac7c7",
        wrong: "The execution tracer took a system call's traceback after the goroutine already counted as \
                stopped, and without the lock.",
        bites: "The collector sees it stopped and installs barriers while the tracer walks: the trampoline, \
                and no entry.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 13,
        name: "exit-keeps-barriers",
        source: "golang/go#11256, mended in 840965f8d7",
        wrong: "A goroutine that ended without returning through its frames kept its list of barriers.",
        bites: "Struct and stack are used anew, and new frames overwrite the slots. Whoever looks for the \
                trampoline there finds something else. Where nobody does before a schedule ends, what the dead \
                goroutine has left is found by itself.",
        expected: &[BarrierLost, BadTraceback, StateLeak],
    },
    Specimen {
        number: 14,
        name: "scan-from-sched-sp",
        source: "golang/go#11049, mended in 7529314ed3",
        wrong: "The distances between barriers were counted from the saved scheduling SP, which is zero in a \
                system call.",
        bites: "Every frame is far enough from zero, so every frame gets a barrier, in a list that has room \
                for a few.",
        expected: &[BarrierOverflow],
    },
    Specimen {
        number: 15,
        name: "bulk-write-skips-unwind",
        source: "golang/go#11084, mended in 306f8f11ad",
        wrong: "A bulk move wrote pointers into a frame above a barrier, with neither a write barrier nor an \
                unwind.",
        bites: "Mark termination scans again only up to the lowest barrier that was not hit, and never sees \
                what was written above it.",
        expected: &[LiveObjectFreed],
    },
    Specimen {
        number: 16,
        name: "unwind-leaves-trampolines",
        source: "Go 306f8f11ad",
        wrong: "Unwinding only moved the position, and left the trampoline in the slots.",
        bites: "After a bulk move the frames live on. One returns into the trampoline, which takes the next \
                entry: that of another frame.",
        expected: &[BarrierOutOfOrder, BadTraceback],
    },
    Specimen {
        number: 17,
        name: "barrier-in-callback-frame",
        source: "golang/go#12238, mended in e2bb03f175",
        wrong: "A barrier was put into the frame through which foreign code calls back, whose return slot \
                holds a saved scheduling PC and no return address.",
        bites: "When the callback ends, the trampoline's address is carried off as that PC, and the barrier is \
                never hit and never removed.",
        expected: &[BarrierOutOfOrder, BadTraceback],
    },
    Specimen {
        number: 18,
        name: "double-scan",
        source: "golang/go#10941, mended in 3c60e6e8cf and 724f8298a8",
        wrong: "Nothing kept a goroutine that was asked to scan itself from being scanned by another meanwhile.",
        bites: "Two scans install: barriers over barriers, and a list that matches neither.",
        expected: &[BarrierLost, DoubleInstall],
    },
    Specimen {
        number: 19,
        name: "write-barriers-late",
        source: "Go 1303957dbf",
        wrong: "Barriers went in during the concurrent scan, and write barriers were switched on only after it.",
        bites: "Between the two a frame writes through a pointer into a higher one. Nobody shades what was \
                written, and nobody looks there again.",
        expected: &[LiveObjectFreed],
    },
    Specimen {
        number: 20,
        name: "shrink-ignores-guard",
        source: "Go 7387121ddb",
        wrong: "A stack was halved whenever what it used would fit, with nothing left for the guard's reserve.",
        bites: "The next function that makes no stack check runs off the end. With a barrier in every frame, \
                whose list takes half of the stack, there is that little room.",
        expected: &[StackOverflow],
    },
    Specimen {
        number: 21,
        name: "unknown-pc-dereferenced",
        source: "Go cb859021d1",
        wrong: "A walk used the result of looking up its first PC without seeing whether there was one.",
        bites: "The signal finds the thread in code of no known function.",
        expected: &[Fault],
    },
    Specimen {
        number: 22,
        name: "rate-change-keeps-timer",
        source: "Go e0f08b938a",
        wrong: "The thread that changes the profiling rate held the profiler's lock with its own timer armed.",
        bites: "The signal arrives in between, and the handler waits for the lock that its own thread holds.",
        expected: &[Deadlock],
    },
    Specimen {
        number: 23,
        name: "foreign-thread-signal",
        source: "golang/go#9456, mended in 532dee3842",
        wrong: "The handler took it for granted that the thread it interrupts is one of the runtime's.",
        bites: "A thread that the runtime did not start gets the signal, and its missing machine is used.",
        expected: &[Fault],
    },
    Specimen {
        number: 24,
        name: "switch-window-walked",
        source: "golang/go#6000 and #6015, mended in 439f9397fc",
        wrong: "A signal within a stack switch was treated like any other.",
        bites: "Between those instructions the goroutine, SP and PC belong to two stacks, and a walk joins what \
                does not belong together.",
        expected: &[BadTraceback],
    },
    Specimen {
        number: 25,
        name: "preemptible-lock",
        source: "Go 22e57c6655",
        wrong: "Holding a stack lock did not hold off preemption of the holder.",
        bites: "The holder honours a request to scan its own stack, for which it needs the lock that it has.",
        expected: &[Deadlock],
    },
    Specimen {
        number: 26,
        name: "set-next-barrier-unlocked",
        source: "golang/go#12528, a4a57bb4f9",
        wrong: "Setting where the next barrier returns to takes no lock. Its author argues that this is safe, \
                since only the goroutine's own thread does it and one word changes.",
        bites: "It does not: this one must stay silent. A verdict here would be a false alarm.",
        expected: &[],
    },
    Specimen {
        number: 27,
        name: "order-check-inverted",
        source: "Go bb6fb929d6",
        wrong: "The trampoline's check that it pops the right entry compared a wrong address, and in the wrong \
                sense: it could not fire.",
        bites: "A check that is missing does no harm alone, so this one must stay silent; and every other \
                specimen must be caught with it as well.",
        expected: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_defect_is_described_under_its_own_name() {
        for &defect in Defect::ALL {
            let specimen = specimen(defect).unwrap_or_else(|| panic!("{defect} has no specimen"));
            assert_eq!((specimen.number, specimen.name), (defect.code(), defect.name()));
        }
    }

    #[test]
    fn table_of_specimens_is_complete() {
        for (index, specimen) in SPECIMENS.iter().enumerate() {
            assert_eq!(usize::from(specimen.number), index + 1);
            assert_eq!(specimen.expected.is_empty(), specimen.number > 25, "{}", specimen.name);
            assert!(!specimen.expected.contains(&HarnessError));
            for text in [specimen.wrong, specimen.bites] {
                assert!(text.len() > 40 && text.ends_with('.') && !text.contains("  "), "{text}");
            }
            assert!(specimen.source.contains("Go") || specimen.source.contains("golang"));
        }
    }
}
