//! The contents of the frames' slots, and whether memory agrees.
//!
//! A slot is known by its frame and number; where it lies follows from the frames' sizes and
//! the top of the stack. So a stack that has moved must hold the same values, and in those that
//! point into it the new addresses.

use super::shadow_stack::{Pending, SavedAt, ShadowStack, Value, info};
use sigstorm_runtime::gc::mutator::SLOTS;

impl ShadowStack {
    /// The value of a slot that points to slot `to` of the frame `up` levels above the innermost.
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
    /// there. With `all` every frame is looked at, else the innermost. A frame on its way in
    /// or out has no slots for certain, and is left out.
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
        let being_written = |index: usize| match self.being_written {
            Some(written) if written.frame == index => written.slots,
            _ => 0,
        };
        (first..sure).filter(|&index| info(self.frames[index].function).slots != 0).all(|index| {
            let unsure = being_written(index);
            (0..SLOTS).filter(|&slot| unsure >> slot & 1 == 0).all(|slot| {
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
    fn two_frames() -> ShadowStack {
        let mut stack = ShadowStack::new();
        stack.start();
        stack.settled();
        stack.pending = Pending::Call(FuncId::Small);
        stack.called();
        let value = stack.points_to(1, 1);
        stack.frame(0).expect("a frame").slots[2] = value;
        stack
    }

    #[test]
    fn pointers_into_the_stack_move_along_with_it() {
        let stack = two_frames();
        // The entry's frame pointer is the word below the top, and its slots lie below that.
        let outer = |top: usize| top - 8 - 8 * 2;
        let inner = |top: usize| top - stack.slot(1, 2);
        for top in [TOP, TOP + 0x4000] {
            let memory = |address: usize| if address == inner(top) { outer(top) } else { 0 };
            assert!(stack.slots_hold(|_| None, top, true, memory));
            let stale = |address: usize| if address == inner(top) { outer(TOP - 0x800) } else { 0 };
            assert!(!stack.slots_hold(|_| None, top, true, stale), "it points to where the stack was");
            let kept = |address: usize| memory(address) | usize::from(address == outer(top)) << 4;
            assert!(!stack.slots_hold(|_| None, top, true, kept), "a slot that was never written");
            assert!(stack.slots_hold(|_| None, top, false, kept), "that is not the innermost frame's");
        }
    }

    #[test]
    fn frame_that_is_returning_is_not_judged() {
        let mut stack = two_frames();
        assert!(!stack.slots_hold(|_| None, TOP, false, |_| 0));
        stack.pending = Pending::Return;
        assert!(stack.slots_hold(|_| None, TOP, false, |_| 0));
    }

    #[test]
    fn slots_that_are_being_written_are_not_judged() {
        let mut stack = two_frames();
        stack.begins_to_write(1, 0b10);
        assert_eq!(stack.roots(), 0);
        // Slot 1 of the outer frame holds whatever it likes, until it is written.
        let address = TOP - stack.slot(0, 1);
        let inner = TOP - stack.slot(1, 2);
        let memory = |at: usize| {
            if at == address {
                0x50
            } else if at == inner {
                address
            } else {
                0
            }
        };
        assert!(stack.slots_hold(|_| None, TOP, true, memory));
        stack.written();
        assert!(!stack.slots_hold(|_| None, TOP, true, memory));
    }

    #[test]
    fn objects_are_known_by_their_index() {
        let mut stack = ShadowStack::new();
        stack.start();
        stack.settled();
        stack.frame(0).expect("a frame").slots[0] = Value::Object(3);
        let at = TOP - stack.slot(0, 0);
        // Objects of 16 bytes, from zero.
        let object = |address: usize| Some(address / 16);
        let first = |word: usize| move |address: usize| if address == at { word } else { 0 };
        assert!(stack.slots_hold(object, TOP, false, first(0x30)));
        assert!(!stack.slots_hold(object, TOP, false, first(0x20)));
        assert!(!stack.slots_hold(|_| None, TOP, false, first(0x30)));
    }
}
