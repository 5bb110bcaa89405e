//! Damaged objects: whatever the bytes, reading them ends in functions or in an error.
#![cfg(feature = "remote")]

#[path = "common/programs.rs"]
mod programs;

use std::path::Path;

use programs::{compile, folder, text, tool};
use sigstorm_inject::remote::symbols::{Object, Pattern};

/// Makes every question that an object answers. Returns whether it can be opened, and the number
/// of its functions.
fn ask_everything(bytes: Vec<u8>) -> Option<usize> {
    let object = match Object::parse(Path::new("damaged"), bytes) {
        Ok(object) => object,
        Err(error) => {
            assert!(error.to_string().starts_with("damaged "), "{error}");
            return None;
        }
    };
    let pattern = Pattern::new("*a*").expect("a pattern");
    let functions = object.functions();
    let count = functions.len();
    // A damaged size can make every function as long as the text.
    for f in (0..count).step_by(count / 8 + 1) {
        let function = functions.all()[f];
        assert!(function.size > 0);
        assert!(!functions.name(f).is_empty());
        functions.symbols(f).for_each(|(symbol, _)| _ = pattern.matches_symbol(symbol, functions.is_go()));
        assert!(functions.at(function.address).is_some());
        assert!(functions.describe(function.end() - 1).is_some());
        if let Ok(code) = object.decode(f) {
            assert!(code.boundaries.windows(2).all(|pair| pair[0].offset < pair[1].offset));
            assert!((0..code.boundaries.len()).all(|index| code.instruction(index, 0).is_some()));
        }
    }
    if let Some(function) = functions.all().first() {
        object.source(function.address);
    }
    object.symbols_hint();
    Some(count)
}

/// A small library with all that the reader looks at.
fn sample(test: &str) -> Vec<u8> {
    let folder = folder(test);
    let library = compile(&folder, "symbols.cc", "sample", &["-Wl,--build-id=sha1", "-gz=none"]);
    std::fs::read(library).expect("it is there")
}

/// A generator of numbers, the same ones each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn healthy_sample_answers_every_question() {
    let count = ask_everything(sample("healthy")).expect("it is healthy");
    assert!(count > 20, "{count}");
}

#[test]
fn object_with_any_byte_of_its_headers_damaged_is_an_error_or_is_read() {
    let bytes = sample("headers");
    let (mut refused, mut read) = (0, 0);
    // The ELF header and the program headers, each byte in turn.
    for at in 0..0x40 + 14 * 0x38 {
        for value in [0xff, bytes[at] ^ 1] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            match ask_everything(damaged) {
                None => refused += 1,
                Some(_) => read += 1,
            }
        }
    }
    assert!(refused > 50 && read > 50, "{refused} {read}");
}

#[test]
fn object_with_damaged_section_headers_is_read() {
    let bytes = sample("sections");
    let start = u64::from_le_bytes(bytes[0x28..0x30].try_into().expect("8 bytes")) as usize;
    let mut numbers = Numbers(1);
    for _ in 0..150 {
        let mut damaged = bytes.clone();
        for _ in 0..3 {
            let at = start + numbers.below(bytes.len() - start);
            damaged[at] = numbers.below(256) as u8;
        }
        assert!(ask_everything(damaged).is_some(), "a process runs without section headers");
    }
}

#[test]
fn object_with_bytes_damaged_anywhere_is_an_error_or_is_read() {
    let bytes = sample("anywhere");
    let mut numbers = Numbers(2);
    for round in 0..150 {
        let mut damaged = bytes.clone();
        for _ in 0..1 << (round % 12) {
            let at = numbers.below(bytes.len());
            damaged[at] = numbers.below(256) as u8;
        }
        ask_everything(damaged);
    }
}

#[test]
fn object_with_damaged_unwind_and_exception_tables_is_read() {
    let folder = folder("tables");
    let library = compile(&folder, "symbols.cc", "sample", &[]);
    let bytes = std::fs::read(&library).expect("it is there");
    let headers = tool("readelf", &["-SW", text(&library)]);
    let mut numbers = Numbers(3);
    let mut tables = 0;
    for name in [
        ".eh_frame",
        ".eh_frame_hdr",
        ".gcc_except_table",
        ".symtab",
        ".dynsym",
        ".strtab",
        ".rela.dyn",
        ".dynamic",
        ".debug_line",
        ".debug_info",
        ".debug_abbrev",
    ] {
        let found = headers.lines().find_map(|line| {
            let mut words = line.split_once(']')?.1.split_whitespace();
            (words.next() == Some(name)).then(|| words.skip(2).take(2).map(str::to_owned).collect::<Vec<_>>())
        });
        let Some(place) = found else { continue };
        let number = |text: &str| usize::from_str_radix(text, 16).expect("a number");
        let (offset, size) = (number(&place[0]), number(&place[1]));
        tables += 1;
        for _ in 0..25 {
            let mut damaged = bytes.clone();
            for _ in 0..4 {
                damaged[offset + numbers.below(size)] =
                    [0, 0xff, 0x80, 1, numbers.below(256) as u8][numbers.below(5)];
            }
            assert!(ask_everything(damaged).is_some(), "{name}");
        }
    }
    assert!(tables >= 10, "{headers}");
}

#[test]
fn object_cut_short_anywhere_is_an_error_or_is_read() {
    let bytes = sample("cut");
    let mut numbers = Numbers(4);
    let mut refused = 0;
    for round in 0..150 {
        let len = if round < 100 { round } else { numbers.below(bytes.len()) };
        refused += usize::from(ask_everything(bytes[..len].to_vec()).is_none());
    }
    assert!(refused > 100, "{refused}");
}
