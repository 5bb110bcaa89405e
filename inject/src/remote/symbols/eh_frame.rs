//! Unwind tables as a source of function ranges and of landing pads.
//!
//! `.eh_frame` is loaded with the program, so it survives `strip`. An entry covers a function, or
//! the part of one that the compiler put elsewhere (`.cold`). An entry of C++ or Rust code also
//! names a table of call sites (LSDA), which names the code that runs when a call unwinds.

use std::collections::HashMap;

use gimli::{
    BaseAddresses, CieOrFde, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, Pointer, UnwindSection,
};

use super::image::Image;

/// A range of code with unwind rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The address of the table of call sites.
    pub(super) lsda: Option<u64>,
    /// The offset of the range's entry in the table.
    pub(super) entry: usize,
}

/// The ranges that an object's unwind table covers, in order of address.
pub(super) fn ranges(image: &Image) -> Vec<Range> {
    let Some((address, bytes)) = section(image) else { return Vec::new() };
    entries(image, &EhFrame::new(&bytes, LittleEndian), &bases(image, address))
}

/// The addresses that pointers in the table at `address` may be relative to.
pub(super) fn bases(image: &Image, address: u64) -> BaseAddresses {
    let at = |name: &str| image.section(name).map_or(0, |section| section.address);
    BaseAddresses::default().set_eh_frame(address).set_text(at(".text")).set_got(at(".got"))
}

/// The ranges of a table's entries, in order of address. Entries that cannot be read, or that are
/// for addresses without code in `image`, are left out.
pub(super) fn entries<'a, S>(image: &Image, table: &S, bases: &BaseAddresses) -> Vec<Range>
where
    S: UnwindSection<EndianSlice<'a, LittleEndian>>,
    S::Offset: std::hash::Hash + Eq,
{
    let mut ranges = Vec::new();
    let mut cies = HashMap::new();
    let mut entries = table.entries(bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let parsed = partial.parse(|section, bases, offset| {
            if let Some(cie) = cies.get(&offset) {
                return Ok(std::clone::Clone::clone(cie));
            }
            let cie = section.cie_from_offset(bases, offset)?;
            cies.insert(offset, cie.clone());
            Ok(cie)
        });
        let Ok(fde) = parsed else { continue };
        let (start, end) = (fde.initial_address(), fde.initial_address().saturating_add(fde.len()));
        let lsda = match fde.lsda() {
            Some(Pointer::Direct(address)) if address != 0 => Some(address),
            _ => None,
        };
        if start < end && image.code_end(start).is_some_and(|limit| end <= limit) {
            ranges.push(Range { start, end, lsda, entry: fde.offset() });
        }
    }
    ranges.sort_unstable_by_key(|range| (range.start, range.end, range.entry));
    ranges.dedup_by_key(|range| (range.start, range.end, range.lsda));
    ranges
}

/// The address and the contents of `.eh_frame`.
pub(super) fn section(image: &Image) -> Option<(u64, Vec<u8>)> {
    if let Some(section) = image.section(".eh_frame")
        && let Some(contents) = image.contents(section)
    {
        return Some((section.address, contents));
    }
    let (address, size) = image.eh_frame_hdr?;
    let header = image.read_up_to(address, size)?;
    let bases = BaseAddresses::default().set_eh_frame_hdr(address);
    let parsed = EhFrameHdr::new(&header, LittleEndian).parse(&bases, 8).ok()?;
    let Pointer::Direct(start) = parsed.eh_frame_ptr() else { return None };
    Some((start, image.read_up_to(start, 1 << 30)?))
}

/// The landing pads of a range, from its table of call sites. Empty where the table is of another
/// shape: languages may choose their own.
pub(super) fn landing_pads(image: &Image, range: &Range) -> Vec<u64> {
    let table = range.lsda.and_then(|lsda| Some((lsda, image.read_up_to(lsda, 1 << 20)?)));
    let Some((address, bytes)) = table else { return Vec::new() };
    call_sites(address, &bytes, range.start).unwrap_or_default()
}

fn call_sites(address: u64, bytes: &[u8], function: u64) -> gimli::Result<Vec<u64>> {
    use gimli::Reader;
    use gimli::constants::DW_EH_PE_omit;
    let whole = EndianSlice::new(bytes, LittleEndian);
    let mut reader = whole;
    let encoded = |reader: &mut EndianSlice<'_, LittleEndian>, encoding: u8| {
        let at = address.wrapping_add(reader.offset_from(whole) as u64);
        let value = match encoding & 0x0f {
            0x00 | 0x04 | 0x0c => reader.read_u64()?,
            0x01 => reader.read_uleb128()?,
            0x02 => u64::from(reader.read_u16()?),
            0x03 => u64::from(reader.read_u32()?),
            0x09 => reader.read_sleb128()? as u64,
            0x0a => i64::from(reader.read_i16()?) as u64,
            0x0b => i64::from(reader.read_i32()?) as u64,
            _ => return Err(gimli::Error::UnknownPointerEncoding(gimli::DwEhPe(encoding))),
        };
        Ok(if encoding & 0x70 == 0x10 { value.wrapping_add(at) } else { value })
    };
    let start_encoding = reader.read_u8()?;
    let start = match start_encoding {
        omitted if omitted == DW_EH_PE_omit.0 => function,
        encoding => encoded(&mut reader, encoding)?,
    };
    if reader.read_u8()? != DW_EH_PE_omit.0 {
        reader.read_uleb128()?;
    }
    let encoding = reader.read_u8()?;
    let size = reader.read_uleb128()?;
    let mut sites = reader.split(usize::try_from(size).map_err(|_| gimli::Error::UnsupportedOffset)?)?;
    let mut pads = Vec::new();
    while !sites.is_empty() {
        encoded(&mut sites, encoding)?;
        encoded(&mut sites, encoding)?;
        let pad = encoded(&mut sites, encoding)?;
        sites.read_uleb128()?;
        if pad != 0 {
            pads.push(start.wrapping_add(pad));
        }
    }
    pads.sort_unstable();
    pads.dedup();
    Ok(pads)
}
