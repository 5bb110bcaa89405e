//! What the frames' slots hold, and whether memory agrees.
//!
//! A slot is known by its frame and number; where it lies follows from the frames' sizes and
//! the top of the stack. So a stack that has moved must hold the same values, and in those that
//! point into it the new addresses.

use super::{Pending, SavedAt, Truth, Value, info};
use sigstorm_runtime::gc::mutator::SLOTS;

impl Truth {
    /// What a slot holds that points to slot `to` of the frame `up` levels above the innermost.
    pub fn points_to(&self, up: usize, to: usize) -> Value {
        let frame = self.len.saturating_sub(up + 1);
        Value::Up { frame: frame as u8, slot: to as u8 }
    }

    /// Distance from the top of the stack down to a slot of frame `index` of the chain.
    fn slot(&self, index: usize, slot: usize) -> usize {
        let frame = &self.frames[index];
        frame.body - info(frame.function).size + 8 * (slot + 1)
    }

    /// Whether a word of memory is this value, on a stack with this top; `object` says which object
    /// lies at an address.
    pub fn is_held(
        &self,
        value: Value,
        object: impl Fn(usize) -> Option<usize>,
        top: usize,
        found: usize,
    ) -> bool {
        match value {
            Value::Nil => found == 0,
            Value::Object(index) => object(found) == Some(usize::from(index)),
            Value::Up { frame, slot } => found == top - self.slot(usize::from(frame), usize::from(slot)),
        }
    }

    /// Whether the memory below `top`, of which `read` gives a word, holds what the frames wrote
    /// there. With `all` every frame is looked at, else the innermost. What is on its way in or
    /// out has no slots for certain, and is left out.
    pub fn slots_hold(
        &self,
        object: impl Fn(usize) -> Option<usize>,
        top: usize,
        all: bool,
        read: impl Fn(usize) -> usize,
    ) -> bool {
        let unsure = self.pending == Pending::Return || self.saved_at == SavedAt::Start;
        let sure = self.len.saturating_sub(usize::from(unsure));
        let first = if all { 0 } else { sure.saturating_sub(1) };
        (first..sure).filter(|&index| info(self.frames[index].function).slots != 0).all(|index| {
            (0..SLOTS).all(|slot| {
                let found = read(top - self.slot(index, slot));
                self.is_held(self.frames[index].slots[slot], &object, top, found)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigstorm_runtime::FuncId;

    const TOP: usize = 0x10_0000;

    /// Two frames, of which the inner one's slot 2 points to the outer one's slot 1.
    fn truth() -> Truth {
        let mut truth = Truth::new();
        truth.start();
        truth.settled();
        truth.calls(FuncId::Small);
        truth.called();
        let value = truth.points_to(1, 1);
        truth.frame(0).expect("a frame").slots[2] = value;
        truth
    }

    #[test]
    fn a_pointer_into_the_stack_moves_along_with_it() {
        let truth = truth();
        // The entry's frame pointer is the word below the top, and its slots lie below that.
        let outer = |top: usize| top - 8 - 8 * 2;
        let inner = |top: usize| top - truth.slot(1, 2);
        for top in [TOP, TOP + 0x4000] {
            let memory = |address: usize| if address == inner(top) { outer(top) } else { 0 };
            assert!(truth.slots_hold(|_| None, top, true, memory));
            let stale = |address: usize| if address == inner(top) { outer(TOP - 0x800) } else { 0 };
            assert!(!truth.slots_hold(|_| None, top, true, stale), "it points to where the stack was");
            let kept = |address: usize| memory(address) | usize::from(address == outer(top)) << 4;
            assert!(!truth.slots_hold(|_| None, top, true, kept), "a slot that was never written");
            assert!(truth.slots_hold(|_| None, top, false, kept), "that is not the innermost frame's");
        }
    }

    #[test]
    fn a_frame_on_its_way_out_is_left_alone() {
        let mut truth = truth();
        assert!(!truth.slots_hold(|_| None, TOP, false, |_| 0));
        truth.pending = Pending::Return;
        assert!(truth.slots_hold(|_| None, TOP, false, |_| 0));
    }

    #[test]
    fn an_object_is_known_by_its_index() {
        let mut truth = Truth::new();
        truth.start();
        truth.settled();
        truth.frame(0).expect("a frame").slots[0] = Value::Object(3);
        let at = TOP - truth.slot(0, 0);
        // Objects of 16 bytes, from zero.
        let object = |address: usize| Some(address / 16);
        let first = |word: usize| move |address: usize| if address == at { word } else { 0 };
        assert!(truth.slots_hold(object, TOP, false, first(0x30)));
        assert!(!truth.slots_hold(object, TOP, false, first(0x20)));
        assert!(!truth.slots_hold(|_| None, TOP, false, first(0x30)));
    }
}
