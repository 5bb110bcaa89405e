//! The parts of a step's argument byte: operands.
//!
//! An operand takes one of a few values, so it is described by listing them, each
//! with its word in the text form. The place in the list is what the byte form
//! stores, in just enough bits; the first is what an operand that may be left out
//! of the text stands for. Kept corpora rely on the order and on the length.

use super::{Goroutine, Work};
use sigstorm_runtime::FuncId;

/// The description of an operand that both forms use, independent of the type of its values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Domain {
    /// Its name in messages, with an article.
    pub(super) what: &'static str,
    /// Its values as the text form has them.
    pub(super) words: &'static [&'static str],
}

impl Domain {
    /// How many bits of the argument it takes.
    pub(super) const fn bits(self) -> u32 {
        self.words.len().trailing_zeros()
    }

    /// The word for the value in this place; places beyond the list wrap around.
    pub(super) fn word(self, place: u8) -> &'static str {
        self.words[usize::from(place) % self.words.len()]
    }

    /// The place of the value with this word.
    pub(super) fn place(self, word: &str) -> Option<u8> {
        let place = self.words.iter().position(|&w| w == word)?;
        u8::try_from(place).ok()
    }
}

/// An operand whose values are of type `T`.
#[derive(Debug)]
pub(super) struct Operand<T: 'static> {
    /// Its names.
    pub(super) domain: Domain,
    values: &'static [T],
}

impl<T: Copy + PartialEq> Operand<T> {
    /// An operand; the lists are parallel, and as long as their bits can count.
    const fn new(what: &'static str, words: &'static [&'static str], values: &'static [T]) -> Operand<T> {
        assert!(words.len() == values.len());
        assert!(words.len().is_power_of_two() && words.len() <= 256);
        Operand { domain: Domain { what, words }, values }
    }
}

/// Slots of a frame.
pub(super) const SLOT: Operand<u8> = Operand::new("a slot", &["0", "1", "2", "3"], &[0, 1, 2, 3]);

/// Pointer fields of a heap object.
pub(super) const FIELD: Operand<u8> = Operand::new("a field", &["0", "1"], &[0, 1]);

/// Counts of frames, or of objects.
pub(super) const COUNT: Operand<u8> =
    Operand::new("a count", &["1", "2", "3", "4", "5", "6", "7", "8"], &[1, 2, 3, 4, 5, 6, 7, 8]);

/// How often a call is repeated.
pub(super) const TIMES: Operand<u8> = Operand::new("a number of calls", &["1", "2", "4", "8"], &[1, 2, 4, 8]);

/// Frame kinds that a step can call.
pub(super) const CALLEE: Operand<FuncId> = Operand::new(
    "a frame kind to call",
    &[
        FuncId::Nosplit.name(),
        FuncId::Tiny.name(),
        FuncId::Small.name(),
        FuncId::Medium.name(),
        FuncId::Large.name(),
        FuncId::Huge.name(),
        FuncId::Deferring.name(),
        FuncId::Leaf.name(),
    ],
    &[
        FuncId::Nosplit,
        FuncId::Tiny,
        FuncId::Small,
        FuncId::Medium,
        FuncId::Large,
        FuncId::Huge,
        FuncId::Deferring,
        FuncId::Leaf,
    ],
);

/// Goroutines.
pub(super) const GOROUTINE: Operand<Goroutine> = Operand::new(
    "a goroutine",
    &[Goroutine::G1.name(), Goroutine::G2.name(), Goroutine::G3.name(), Goroutine::G4.name()],
    Goroutine::ALL,
);

/// Parts of a cycle.
pub(super) const WORK: Operand<Work> = Operand::new(
    "a part of a cycle",
    &[Work::Mark.name(), Work::Term.name(), Work::Sweep.name(), Work::Stw.name()],
    Work::ALL,
);

/// Whether the profiling timer runs.
pub(super) const SWITCH: Operand<bool> = Operand::new("`on` or `off`", &["off", "on"], &[false, true]);

/// Initial stack sizes, in bytes.
pub(super) const STACK: Operand<u32> =
    Operand::new("a stack size in bytes", &["2048", "4096", "8192", "16384"], &[2048, 4096, 8192, 16384]);

/// Which old stacks are made unreadable: every nth.
pub(super) const NTH: Operand<u8> = Operand::new("a share", &["1", "2", "3", "4"], &[1, 2, 3, 4]);

/// Profiling rates, in signals a second.
pub(super) const HZ: Operand<u32> =
    Operand::new("a rate in hertz", &["100", "250", "500", "1000"], &[100, 250, 500, 1000]);

/// Samples that a machine's buffer holds.
pub(super) const BUFFER: Operand<u8> =
    Operand::new("a number of samples", &["1", "2", "4", "8"], &[1, 2, 4, 8]);

/// Puts operands into an argument byte, lowest bits first.
#[derive(Debug, Default)]
pub(super) struct Packer {
    arg: u32,
    used: u32,
}

impl Packer {
    /// Adds the value in this place of an operand's list.
    pub(super) fn put_place(&mut self, domain: Domain, place: u8) {
        self.arg |= u32::from(place) << self.used;
        self.used += domain.bits();
    }

    /// Adds a value, or says that the operand has no such value.
    pub(super) fn put<T: Copy + PartialEq>(&mut self, operand: &Operand<T>, value: T) -> Option<()> {
        let place = operand.values.iter().position(|&v| v == value)?;
        self.put_place(operand.domain, u8::try_from(place).ok()?);
        Some(())
    }

    /// The argument. The operands of a step fit a byte: a test of the table sees to it.
    pub(super) fn arg(&self) -> u8 {
        self.arg.to_le_bytes()[0]
    }
}

/// Takes operands out of an argument byte, lowest bits first.
#[derive(Debug)]
pub(super) struct Unpacker {
    rest: u32,
}

impl Unpacker {
    /// Starts with all of an argument.
    pub(super) fn new(arg: u8) -> Unpacker {
        Unpacker { rest: u32::from(arg) }
    }

    /// The place of the next operand's value.
    pub(super) fn take_place(&mut self, domain: Domain) -> u8 {
        let place = self.rest & ((1 << domain.bits()) - 1);
        self.rest >>= domain.bits();
        place.to_le_bytes()[0]
    }

    /// The next operand's value.
    pub(super) fn take<T: Copy + PartialEq>(&mut self, operand: &Operand<T>) -> T {
        operand.values[usize::from(self.take_place(operand.domain))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_packing() {
        let mut packer = Packer::default();
        packer.put(&SLOT, 2).unwrap();
        packer.put(&COUNT, 8).unwrap();
        packer.put(&SWITCH, true).unwrap();
        assert_eq!(packer.arg(), (1 << 5) | (7 << 2) | 2);
        let mut unpacker = Unpacker::new(packer.arg());
        assert_eq!(unpacker.take(&SLOT), 2);
        assert_eq!(unpacker.take(&COUNT), 8);
        assert!(unpacker.take(&SWITCH));
    }

    #[test]
    fn values_outside_the_list_are_refused() {
        assert!(Packer::default().put(&SLOT, 4).is_none());
        assert!(Packer::default().put(&TIMES, 3).is_none());
        assert!(Packer::default().put(&CALLEE, FuncId::Gopanic).is_none());
    }

    #[test]
    fn callable_functions_are_those_of_the_core() {
        let callable: Vec<_> = FuncId::ALL.iter().filter(|f| f.is_callable()).copied().collect();
        assert_eq!(CALLEE.values, callable);
    }

    #[test]
    fn numbers_are_spelled_as_themselves() {
        fn check<T: ToString>(operand: &Operand<T>) {
            for (word, value) in operand.domain.words.iter().zip(operand.values) {
                assert_eq!(*word, value.to_string());
            }
        }
        check(&SLOT);
        check(&FIELD);
        check(&COUNT);
        check(&TIMES);
        check(&CALLEE);
        check(&GOROUTINE);
        check(&WORK);
        check(&STACK);
        check(&NTH);
        check(&HZ);
        check(&BUFFER);
    }
}
