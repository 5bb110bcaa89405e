//! Check values: whether this build still has the instruction that a stop was meant for.
//!
//! A stop names an instruction by function and index. After a change of the function the same
//! index is another instruction, and a run that stops there shows nothing of what it was kept
//! for. So whatever is kept carries a check value for each such stop ([`with_checks`]), and
//! a run's user is told where a value does not fit this build ([`doubts`]). A value
//! that is there is never replaced: it says which instruction was meant.

use super::{Schedule, Step, Stop};
use sigstorm_inject::Region;
use sigstorm_runtime::FuncId;
use std::fmt;

/// Why a step's stop may not be where it was meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The step's index.
    pub step: usize,
    /// The step.
    pub what: Step,
    /// Why.
    pub why: Why,
}

/// The mistake in a stop at an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its check value is not that of the instruction in this build: no thread is held.
    Changed,
    /// It has a check value, and the function has so few instructions: no thread is held.
    Gone {
        /// The number of the function's instructions.
        count: usize,
    },
    /// It has no check value, and the function has so few instructions, which are counted round
    /// and round.
    Beyond {
        /// The number of the function's instructions.
        count: usize,
        /// The one that is taken.
        taken: usize,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}, `{}`: ", self.step, self.what)?;
        match self.why {
            Why::Changed => write!(
                f,
                "this build has another instruction there than was meant, so the thread is not held"
            ),
            Why::Gone { count } => {
                write!(f, "this build's function has {count} instructions, so the thread is not held")
            }
            Why::Beyond { count, taken } => write!(
                f,
                "this build's function has {count} instructions; the thread is held at #{taken} instead"
            ),
        }
    }
}

/// The number of a function in the region of the marked code, whose functions are in the order of
/// [`FuncId::ALL`].
fn number(function: FuncId) -> usize {
    FuncId::ALL.binary_search(&function).unwrap_or(usize::MAX)
}

/// The schedule with a check value in each stop at an instruction that had none: that of the
/// instruction at which a run of this build stops. Indexes beyond a function are counted round and
/// round, as runs do. Check values that are there stay, right or wrong.
pub fn with_checks(schedule: &Schedule, region: &Region) -> Schedule {
    let mut schedule = schedule.clone();
    for step in &mut schedule.steps {
        let Some(Stop::Instr { function, index, check: check @ None, .. }) = &mut step.stop else { continue };
        let boundaries = region.boundaries(number(*function));
        let taken = usize::from(*index) % boundaries.len().max(1);
        if let Some(boundary) = boundaries.get(taken) {
            // Below 65,536: it is not above the index.
            *index = taken as u16;
            *check = Some(boundary.check);
        }
    }
    schedule
}

/// The stops that this build cannot take as they were meant, in the order of the steps.
pub fn doubts(schedule: &Schedule, region: &Region) -> Vec<Doubt> {
    let doubt = |(step, what): (usize, &Step)| {
        let Some(Stop::Instr { function, index, check, .. }) = what.stop else { return None };
        let boundaries = region.boundaries(number(function));
        let (index, count) = (usize::from(index), boundaries.len());
        let why = match (check, boundaries.get(index)) {
            (Some(check), Some(boundary)) if check == boundary.check => return None,
            (Some(_), Some(_)) => Why::Changed,
            (Some(_), None) => Why::Gone { count },
            (None, Some(_)) => return None,
            (None, None) => Why::Beyond { count, taken: index % count.max(1) },
        };
        Some(Doubt { step, what: *what, why })
    };
    schedule.steps.iter().enumerate().filter_map(doubt).collect()
}

/// How many stops at instructions have no check value.
pub fn unchecked(schedule: &Schedule) -> usize {
    let is_unchecked = |step: &&Step| matches!(step.stop, Some(Stop::Instr { check: None, .. }));
    schedule.steps.iter().filter(is_unchecked).count()
}

/// A number for the marked code of a build: the same for the same instructions, wherever they lie.
pub fn fingerprint(region: &Region) -> u32 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for (number, function) in region.functions().iter().enumerate() {
        hash = function.name.bytes().fold(hash, step);
        hash = region.boundaries(number).iter().fold(hash, |hash, b| step(step(hash, b.check), b.len));
    }
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::region;

    fn parse(statements: &str) -> Schedule {
        Schedule::parse(&format!("# sigstorm schedule 1\n{statements}")).unwrap()
    }

    /// The right check value of an instruction of this build.
    fn check(region: &Region, function: FuncId, index: usize) -> u8 {
        region.boundaries(number(function))[index].check
    }

    #[test]
    fn stops_without_check_values_get_those_of_this_build() {
        let region = region().unwrap();
        let schedule = parse("m1 ret @ trampoline#4; signal @ traceback.begin; resume @ lock#2:3");
        let checked = with_checks(&schedule, &region);
        let (one, other) = (check(&region, FuncId::Trampoline, 4), check(&region, FuncId::Lock, 2));
        let expected = format!(
            "m1 ret @ trampoline#4/{one:02x}; signal @ traceback.begin; resume @ lock#2:3/{other:02x}"
        );
        assert_eq!(checked, parse(&expected));
        assert_eq!((unchecked(&schedule), unchecked(&checked)), (2, 0));
        assert_eq!(doubts(&checked, &region), []);
    }

    #[test]
    fn wrong_check_values_are_doubted_and_never_replaced() {
        let region = region().unwrap();
        let wrong = check(&region, FuncId::Trampoline, 4) ^ 1;
        let schedule = parse(&format!("m1 ret\nm1 ret @ trampoline#4/{wrong:02x}\nm1 ret @ land#60000/00"));
        assert_eq!(with_checks(&schedule, &region), schedule);
        let doubts = doubts(&schedule, &region);
        let count = region.count(number(FuncId::Land));
        let whys: Vec<_> = doubts.iter().map(|doubt| (doubt.step, doubt.why)).collect();
        assert_eq!(whys, [(1, Why::Changed), (2, Why::Gone { count })]);
        assert!(doubts[0].to_string().starts_with("step 1, `m1 ret @ trampoline#4/"), "{}", doubts[0]);
    }

    #[test]
    fn indexes_beyond_a_function_are_doubted_and_counted_round() {
        let region = region().unwrap();
        let count = region.count(number(FuncId::Leaf));
        let beyond = parse(&format!("m1 call leaf @ leaf#{}", 2 * count + 3));
        let why = Why::Beyond { count, taken: 3 };
        assert_eq!(doubts(&beyond, &region)[0].why, why);
        let right = check(&region, FuncId::Leaf, 3);
        assert_eq!(with_checks(&beyond, &region), parse(&format!("m1 call leaf @ leaf#3/{right:02x}")));
    }

    #[test]
    fn a_fingerprint_is_of_the_instructions_alone() {
        assert_eq!(fingerprint(&region().unwrap()), fingerprint(&region().unwrap()));
        let one = |function: FuncId| {
            let all = region().unwrap();
            Region::decode(&[all.functions()[number(function)]]).unwrap()
        };
        assert_ne!(fingerprint(&one(FuncId::Small)), fingerprint(&one(FuncId::Tiny)));
    }
}
