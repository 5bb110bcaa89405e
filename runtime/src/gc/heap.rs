//! A small real heap: objects with two pointer fields, mark bits, and a mailbox that is a global
//! root.
//!
//! It is big enough that a lost mark shows, and small enough that every set of objects is one word,
//! so starting over costs nothing.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sync::word::Word;

/// Number of objects.
pub const OBJECTS: usize = 64;
/// Number of pointer fields of an object.
pub const FIELDS: usize = 2;
/// The value of a freed object's fields: no pointer, and not the value that poisons old stacks.
pub const POISON: usize = 0xdead_0b1e_dead_0b1e;
/// Number of pointers in the mailbox: as many as a frame has slots.
pub const MAILBOX: usize = 4;

#[derive(Debug)]
#[repr(C, align(16))]
struct Object {
    fields: [Word; FIELDS],
}

/// The heap.
#[derive(Debug)]
pub struct Heap {
    objects: [Object; OBJECTS],
    allocated: AtomicU64,
    marked: AtomicU64,
    grey: AtomicU64,
    /// Pointers on their way from one frame to another: a global root.
    pub(crate) mailbox: [Word; MAILBOX],
    /// Whether the mailbox was marked from in this cycle.
    pub(crate) globals_done: AtomicBool,
}

impl Heap {
    pub(crate) const fn new() -> Self {
        Heap {
            objects: [const { Object { fields: [const { Word::new(0) }; FIELDS] } }; OBJECTS],
            allocated: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            grey: AtomicU64::new(0),
            mailbox: [const { Word::new(0) }; MAILBOX],
            globals_done: AtomicBool::new(false),
        }
    }

    /// Returns the index of the object at `address`, if one begins there.
    pub fn index(&self, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(core::ptr::from_ref(&self.objects) as usize);
        let index = offset / size_of::<Object>();
        (index < OBJECTS && offset.is_multiple_of(size_of::<Object>())).then_some(index)
    }

    fn address(&self, index: usize) -> usize {
        core::ptr::from_ref(&self.objects[index]) as usize
    }

    /// Returns whether the object is marked.
    pub fn is_marked(&self, index: usize) -> bool {
        self.marked.load(Ordering::SeqCst) & 1 << index != 0
    }

    /// Returns whether the object is in use.
    pub fn is_allocated(&self, index: usize) -> bool {
        self.allocated.load(Ordering::SeqCst) & 1 << index != 0
    }

    /// Allocates an object, a black one if `black`. Returns its address, or none if the heap is full.
    pub(crate) fn allocate(&self, black: bool) -> Option<usize> {
        let mut old = self.allocated.load(Ordering::SeqCst);
        loop {
            let index = old.trailing_ones() as usize;
            if index == OBJECTS {
                return None;
            }
            if black {
                // Before a sweep can see it.
                self.marked.fetch_or(1 << index, Ordering::SeqCst);
            }
            match self.allocated.compare_exchange(old, old | 1 << index, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    self.objects[index].fields.iter().for_each(|f| f.set(0));
                    return Some(self.address(index));
                }
                Err(now) => old = now,
            }
        }
    }

    /// Returns a field of the object at `address`.
    pub(crate) fn field(&self, address: usize, field: usize) -> Option<&Word> {
        Some(&self.objects[self.index(address)?].fields[field])
    }

    /// Marks the object at `address` grey, if it is white.
    pub(crate) fn shade(&self, address: usize) {
        if let Some(index) = self.index(address)
            && self.marked.fetch_or(1 << index, Ordering::SeqCst) & 1 << index == 0
        {
            self.grey.fetch_or(1 << index, Ordering::SeqCst);
        }
    }

    /// Takes a grey object and shades the objects that it points to. Returns false if none was left.
    pub(crate) fn blacken_one(&self) -> bool {
        let grey = self.grey.load(Ordering::SeqCst);
        if grey == 0 {
            return false;
        }
        let index = grey.trailing_zeros() as usize;
        self.grey.fetch_and(!(1 << index), Ordering::SeqCst);
        for field in &self.objects[index].fields {
            self.shade(field.get());
        }
        true
    }

    /// Forgets every mark, as a cycle begins.
    pub(crate) fn unmark(&self) {
        self.marked.store(0, Ordering::SeqCst);
        self.grey.store(0, Ordering::SeqCst);
        self.globals_done.store(false, Ordering::SeqCst);
    }

    /// Frees and poisons every unmarked object. Returns how many there were.
    pub(crate) fn sweep(&self) -> u32 {
        let dead = self.allocated.load(Ordering::SeqCst) & !self.marked.load(Ordering::SeqCst);
        for index in (0..OBJECTS).filter(|i| dead & 1 << i != 0) {
            self.objects[index].fields.iter().for_each(|f| f.set(POISON));
        }
        self.allocated.fetch_and(!dead, Ordering::SeqCst);
        dead.count_ones()
    }

    pub(crate) fn reset(&self) {
        self.allocated.store(0, Ordering::SeqCst);
        self.unmark();
        self.mailbox.iter().for_each(|w| w.set(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmarked_objects_are_swept() {
        let heap = Heap::new();
        let kept = heap.allocate(false).unwrap();
        let child = heap.allocate(false).unwrap();
        let lost = heap.allocate(false).unwrap();
        heap.field(kept, 1).unwrap().set(child);
        heap.shade(kept);
        while heap.blacken_one() {}
        assert!(heap.is_marked(heap.index(child).unwrap()));
        assert_eq!(heap.sweep(), 1);
        assert!(!heap.is_allocated(heap.index(lost).unwrap()));
        assert!(heap.is_allocated(heap.index(kept).unwrap()));
    }

    #[test]
    fn full_heap_allocates_none() {
        let heap = Heap::new();
        for _ in 0..OBJECTS {
            assert!(heap.allocate(true).is_some());
        }
        assert!(heap.allocate(true).is_none());
        assert_eq!(heap.sweep(), 0);
    }

    #[test]
    fn address_inside_an_object_has_no_index() {
        let heap = Heap::new();
        let object = heap.allocate(false).unwrap();
        assert_eq!(heap.index(object), Some(0));
        assert_eq!(heap.index(object + 8), None);
        assert_eq!(heap.index(0), None);
    }
}
