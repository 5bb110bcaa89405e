//! What the frames' slots hold, and whether memory agrees.
//!
//! A slot is known by its frame and number; where it lies follows from the frames' sizes and
//! the top of the stack. So a stack that has moved must hold the same values, and in those that
//! point into it the new addresses.

use super::{Pending, SavedAt, Truth, Value, info};
use sigstorm_runtime::heap::Heap;
use sigstorm_runtime::mutator::SLOTS;

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

    /// Whether a word of memory is this value, on a stack with this top.
    pub fn is_held(&self, value: Value, heap: &Heap, top: usize, found: usize) -> bool {
        match value {
            Value::Nil => found == 0,
            Value::Object(object) => heap.index(found) == Some(usize::from(object)),
            Value::Up { frame, slot } => found == top - self.slot(usize::from(frame), usize::from(slot)),
        }
    }

    /// Whether the memory below `top`, of which `read` gives a word, holds what the frames wrote
    /// there. With `all` every frame is looked at, else the innermost. What is on its way in or
    /// out has no slots for certain, and is left out.
    pub fn slots_hold(&self, heap: &Heap, top: usize, all: bool, read: impl Fn(usize) -> usize) -> bool {
        let unsure = self.pending == Pending::Return || self.saved_at == SavedAt::Start;
        let sure = self.len.saturating_sub(usize::from(unsure));
        let first = if all { 0 } else { sure.saturating_sub(1) };
        (first..sure).filter(|&index| info(self.frames[index].function).slots != 0).all(|index| {
            (0..SLOTS).all(|slot| {
                self.is_held(self.frames[index].slots[slot], heap, top, read(top - self.slot(index, slot)))
            })
        })
    }
}
