//! Jump tables: where a `switch`, or an interpreter's dispatch, can lead.
//!
//! No data flow is followed. A function that jumps through a register or a table has the table's
//! address in it somewhere (`lea`, a displacement, an immediate), so each such address is tried in
//! the forms that compilers write:
//!
//! - 32-bit distances from the table's own start (position-independent C, C++ and Rust),
//! - 32-bit distances from a label in the code, whose address the function names as well (glibc's
//!   `printf`),
//! - 64-bit addresses, which the loader may have to fill in (computed `goto`, Go).
//!
//! A table ends with its first entry that is no address of code, or that lies within the function
//! without being an instruction's. Reading on into the table of another switch does no harm: its
//! entries are code as well.

use super::object::Object;
use super::relocations;

/// No table has more entries.
const MAX_ENTRIES: u64 = 4096;

/// Fewer entries are an accident sooner than a table of distances from a label.
const MIN_FROM_LABEL: usize = 4;

/// Tells of an address whether it is an instruction's of the function; `None` if it lies elsewhere.
type IsBoundary<'a> = &'a dyn Fn(u64) -> Option<bool>;

/// The places within the function that tables at some of `addresses` lead to.
pub(super) fn targets(object: &Object, addresses: &[u64], is_boundary: IsBoundary<'_>) -> Vec<u64> {
    let mut targets = all(object, addresses, is_boundary);
    targets.retain(|target| is_boundary(*target).is_some());
    targets
}

/// The places outside the function that tables at some of `addresses` lead to.
pub(super) fn leaving(object: &Object, addresses: &[u64], is_boundary: IsBoundary<'_>) -> Vec<u64> {
    let mut targets = all(object, addresses, is_boundary);
    targets.retain(|target| is_boundary(*target).is_none());
    targets
}

fn all(object: &Object, addresses: &[u64], is_boundary: IsBoundary<'_>) -> Vec<u64> {
    let image = object.image();
    let mut addresses = addresses.to_vec();
    addresses.sort_unstable();
    addresses.dedup();
    let (labels, tables): (Vec<u64>, Vec<u64>) =
        addresses.into_iter().partition(|address| is_boundary(*address) == Some(true));
    let mut targets = Vec::new();
    for table in tables.into_iter().filter(|table| image.segment(*table).is_some()) {
        let distances = image.read_up_to(table, 4 * MAX_ENTRIES).unwrap_or_default();
        let from = |base: u64| {
            let entries = distances.chunks_exact(4).map(|entry| {
                let distance = i32::from_le_bytes(entry.try_into().unwrap_or_default());
                base.wrapping_add_signed(i64::from(distance))
            });
            read(object, entries, is_boundary)
        };
        let found = from(table);
        // A single small number is an accident sooner than a table.
        if found.len() >= 2 {
            targets.extend(found);
            continue;
        }
        let word = |index| relocations::word(image, object.relocations(), table.checked_add(8 * index)?);
        let found = read(object, (0..MAX_ENTRIES).map_while(word), is_boundary);
        if !found.is_empty() {
            targets.extend(found);
            continue;
        }
        let found = labels.iter().map(|label| from(*label)).max_by_key(Vec::len).unwrap_or_default();
        if found.len() >= MIN_FROM_LABEL {
            targets.extend(found);
        }
    }
    targets
}

/// The different places that a table's entries lead to, within the function and outside.
fn read(object: &Object, entries: impl Iterator<Item = u64>, is_boundary: IsBoundary<'_>) -> Vec<u64> {
    let valid = |target: &u64| is_boundary(*target).unwrap_or_else(|| object.is_code(*target));
    let mut targets: Vec<u64> = entries.take_while(valid).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}
