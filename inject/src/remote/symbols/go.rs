//! Go's function table (`.gopclntab`), which `strip` leaves in place.
//!
//! The table begins with a magic number that names its layout. From Go's `debug/gosym` and
//! `cmd/link`:
//!
//! | magic | Go | functions | names |
//! |---|---|---|---|
//! | `0xfffffffb` | 1.2 to 1.15 | pairs of words (PC, offset), from the table's start | from the table's start |
//! | `0xfffffffa` | 1.16, 1.17 | pairs of words (PC, offset), after a header with offsets | from the header's first offset |
//! | `0xfffffff0` | 1.18, 1.19 | pairs of 32-bit numbers (PC less the text's start, offset) | same |
//! | `0xfffffff1` | since 1.20 | same | same |
//!
//! A function's record begins with its PC in the same form, then the offset of its name. One more
//! PC ends the table. Since Go 1.26 the header's text start is 0, and the caller says where the
//! text starts.

/// A function of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFunction {
    /// The address of its first byte.
    pub start: u64,
    /// The address of the next function: padding counts to the function before it.
    pub end: u64,
    /// The name with its package, such as `runtime.mallocgc`.
    pub name: String,
}

/// Why a table is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoTableError {
    /// The first word is none of the known magic numbers.
    #[error("Go's function table begins with {magic:#010x}, a layout that is not known")]
    Magic {
        /// The table's first word.
        magic: u32,
    },
    /// The header is for another machine.
    #[error("Go's function table is for {pointer}-byte pointers")]
    Pointer {
        /// The size that the header names.
        pointer: u8,
    },
    /// An offset leads out of the table.
    #[error("Go's function table is cut short at {at}")]
    Short {
        /// The part that is not all there.
        at: &'static str,
    },
}

/// Reads Go's function table.
///
/// `text` is the address of `runtime.text`, for headers that do not have it.
///
/// # Errors
///
/// If the layout is unknown, or the functions' list is not all there. A function whose record or
/// name is not there is left out.
pub fn go_functions(table: &[u8], text: u64) -> Result<Vec<GoFunction>, GoTableError> {
    let short = |at| GoTableError::Short { at };
    let magic = u32_at(table, 0).ok_or(short("its header"))?;
    let pointer = *table.get(7).ok_or(short("its header"))?;
    let wide = match magic {
        0xffff_fffb | 0xffff_fffa => true,
        0xffff_fff0 | 0xffff_fff1 => false,
        _ => return Err(GoTableError::Magic { magic }),
    };
    if pointer != 8 {
        return Err(GoTableError::Pointer { pointer });
    }
    let header = |index: usize| u64_at(table, 8 + 8 * index).ok_or(short("its header"));
    let count = usize::try_from(header(0)?).map_err(|_| short("its list of functions"))?;
    let part = |offset: u64| {
        let offset = usize::try_from(offset).ok();
        offset.and_then(|offset| table.get(offset..)).ok_or(short("its header's offsets"))
    };
    // The base of PCs, the names, and the list with the records.
    let (base, names, list, records) = match magic {
        0xffff_fffb => (0, table, part(16)?, table),
        0xffff_fffa => (0, part(header(2)?)?, part(header(6)?)?, part(header(6)?)?),
        _ => {
            let start = match header(2)? {
                0 => text,
                start => start,
            };
            (start, part(header(3)?)?, part(header(7)?)?, part(header(7)?)?)
        }
    };
    let width = if wide { 8 } else { 4 };
    let number = |bytes: &[u8], at: usize| match wide {
        true => u64_at(bytes, at),
        false => u32_at(bytes, at).map(u64::from),
    };
    let size = count.checked_mul(2 * width).and_then(|size| size.checked_add(width));
    if size.is_none_or(|size| size > list.len()) {
        return Err(short("its list of functions"));
    }
    let function = |index: usize| {
        let entry = 2 * width * index;
        let start = base.wrapping_add(number(list, entry)?);
        let record = usize::try_from(number(list, entry + width)?).ok()?;
        let end = base.wrapping_add(number(list, entry + 2 * width)?);
        let name = u32_at(records, record.checked_add(width)?)?;
        let name = names.get(name as usize..)?;
        let name = &name[..name.iter().position(|byte| *byte == 0)?];
        let name = String::from_utf8_lossy(name).into_owned();
        (start < end && !name.is_empty()).then_some(GoFunction { start, end, name })
    };
    Ok((0..count).filter_map(function).collect())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
