//! A traced process's mappings, and room between them.

use std::fs;
use std::io;
use std::ops::Range;

/// A mapping of a process, from `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub range: Range<u64>,
    /// Its permissions as the kernel writes them, such as `r-xp`.
    pub permissions: String,
    /// The offset of its first byte in the file.
    pub offset: u64,
    /// The file, or a name in brackets, or empty.
    pub path: String,
}

/// The mappings of a process, in order of address.
pub(super) fn mappings(pid: i32) -> io::Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{pid}/maps"))?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    let permissions = words.next()?.to_owned();
    let offset = number(words.next()?)?;
    let path = words.nth(2).unwrap_or("").trim_start().to_owned();
    Some(Mapping { range, permissions, offset, path })
}

/// How far from the code its scratch area lies if there is room: the program's next mappings and
/// its heap get the addresses that they have without us.
const DISTANCE: u64 = 256 << 20;
/// Beyond this a displacement of 32 bits might not reach.
const REACH: u64 = 0x7000_0000;
/// The kernel maps nothing below.
const LOWEST: u64 = 0x1_0000;
const HIGHEST: u64 = 0x7fff_ffff_f000;

/// A free place of `length` bytes (whole pages) within reach of `near`.
pub(super) fn room(mappings: &[Mapping], near: u64, length: u64) -> Option<u64> {
    let wanted = near.saturating_sub(DISTANCE).max(LOWEST) & !0xfff;
    let mut best = None;
    let mut free = LOWEST;
    let edge = mappings.iter().map(|mapping| mapping.range.clone()).chain(std::iter::once(HIGHEST..u64::MAX));
    for taken in edge {
        if taken.start > free && taken.start - free >= length {
            let place = wanted.clamp(free, taken.start - length) & !0xfff;
            let distance = place.abs_diff(wanted);
            let in_reach = place.abs_diff(near) + length < REACH;
            if place >= free && in_reach && best.is_none_or(|(_, best)| distance < best) {
                best = Some((place, distance));
            }
        }
        free = free.max(taken.end);
    }
    best.map(|(place, _)| place)
}

pub(super) fn no_room() -> io::Error {
    io::Error::other("no free addresses within two gigabytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapping_with_a_blank_in_its_path_is_parsed() {
        let line = "7f00-8000 r-xp 00002000 fe:00 1234                      /usr/lib/a b.so";
        let mapping = parse(line).expect("a line of the kernel's");
        assert_eq!((mapping.range, mapping.offset), (0x7f00..0x8000, 0x2000));
        assert_eq!((&*mapping.permissions, &*mapping.path), ("r-xp", "/usr/lib/a b.so"));
        assert_eq!(parse("7f00-8000 rw-p 00000000 00:00 0 ").map(|m| m.path), Some(String::new()));
    }

    #[test]
    fn room_is_found_within_reach_and_between_mappings() {
        let mapping = |range| Mapping { range, permissions: "r-xp".into(), offset: 0, path: String::new() };
        let low = [mapping(0x40_0000..0x50_0000)];
        assert_eq!(room(&low, 0x40_0000, 0x10_0000), Some(LOWEST));
        let high = [mapping(0x5555_5555_4000..0x5555_5556_0000), mapping(0x7fff_f7c0_0000..0x7fff_f7e0_0000)];
        assert_eq!(room(&high, 0x5555_5555_4000, 0x10_0000), Some(0x5555_5555_4000 - DISTANCE));
        let full = [mapping(0x1000..0x7fff_ffff_f000)];
        assert_eq!(room(&full, 0x5555_5555_4000, 0x10_0000), None);
    }
}
