//! The shadow heap: what the program has written into objects and into the mailbox.

use sigstorm_runtime::gc::heap::{FIELDS, MAILBOX, OBJECTS};

use super::shadow_stack::Value;

/// The values of the objects' fields and of the mailbox.
#[derive(Debug)]
pub struct ShadowHeap {
    /// Fields of every object.
    pub fields: [[Value; FIELDS]; OBJECTS],
    /// The global root.
    pub mailbox: [Value; MAILBOX],
}

impl Default for ShadowHeap {
    fn default() -> Self {
        Self::new()
    }
}

impl ShadowHeap {
    /// An empty heap.
    pub const fn new() -> Self {
        ShadowHeap { fields: [[Value::Nil; FIELDS]; OBJECTS], mailbox: [Value::Nil; MAILBOX] }
    }

    /// Empties the mailbox. The fields of an object are set as it is allocated.
    pub fn clear(&mut self) {
        self.mailbox = [Value::Nil; MAILBOX];
    }

    /// Every object that can be reached from `roots` and the mailbox.
    pub fn reachable(&self, roots: u64) -> u64 {
        let mailbox = self.mailbox.iter().filter_map(|v| v.object());
        let mut todo = mailbox.fold(roots, |set, index| set | 1 << index);
        let mut seen = 0;
        while todo != 0 {
            let index = todo.trailing_zeros() as usize;
            seen |= 1 << index;
            for field in self.fields[index].iter().filter_map(|v| v.object()) {
                todo |= 1 << field;
            }
            todo &= !seen;
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_reached_through_cycles() {
        let mut heap = ShadowHeap::new();
        heap.fields[1] = [Value::Object(2), Value::Nil];
        heap.fields[2] = [Value::Object(1), Value::Object(3)];
        heap.mailbox[0] = Value::Object(9);
        assert_eq!(heap.reachable(1 << 1), 0b10_0000_1110);
        assert_eq!(heap.reachable(0), 1 << 9);
    }
}
