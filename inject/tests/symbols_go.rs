//! Go's function table: tables of every layout that Go has had since 1.5, made here byte by byte;
//! and a program that Go itself builds. That last test needs Go, and is ignored unless it is asked for:
//! `cargo test -p sigstorm-inject --features remote --test symbols_go -- --ignored`.
#![cfg(feature = "remote")]

#[path = "common/programs.rs"]
mod programs;

use std::path::Path;

use programs::{folder, text, tool};
use sigstorm_inject::remote::symbols::{GoFunction, GoTableError, Object, Pattern, go_functions};

const MAGICS: [u32; 4] = [0xffff_fffb, 0xffff_fffa, 0xffff_fff0, 0xffff_fff1];
const TEXT: u64 = 0x40_1000;

fn functions() -> Vec<GoFunction> {
    [(0x00, 0x40, "runtime.text"), (0x40, 0x140, "runtime.mallocgc"), (0x140, 0x150, "main.(*T[...]).Put")]
        .map(|(start, end, name)| GoFunction { start: TEXT + start, end: TEXT + end, name: name.to_owned() })
        .to_vec()
}

/// A table as Go's linker of that time would write it. `text` is the start that the header has.
fn table(magic: u32, functions: &[GoFunction], text: u64) -> Vec<u8> {
    let wide = magic >= 0xffff_fffa;
    let (width, words) = match magic {
        0xffff_fffb => (8, 1),
        0xffff_fffa => (8, 7),
        _ => (4, 8),
    };
    let header = 8 + 8 * words;
    let mut names = vec![0];
    let mut name_offsets = Vec::new();
    for function in functions {
        name_offsets.push(names.len() as u32);
        names.extend_from_slice(function.name.as_bytes());
        names.push(0);
    }
    let list_size = 2 * width * functions.len() + width;
    let record_size = width + 4;
    // Old: everything counts from the table's start. New: names first, then list and records.
    let (names_at, list_at) =
        if words == 1 { (header + list_size, header) } else { (header, header + names.len()) };
    let records_base = if words == 1 { 0 } else { list_at };
    let records_at = if words == 1 { names_at + names.len() } else { list_at + list_size };
    let pc = |address: u64| if wide { address } else { address - TEXT };
    let mut list = Vec::new();
    let mut records = Vec::new();
    let put = |into: &mut Vec<u8>, number: u64| into.extend_from_slice(&number.to_le_bytes()[..width]);
    for (function, name) in functions.iter().zip(&name_offsets) {
        put(&mut list, pc(function.start));
        put(&mut list, (records_at - records_base + records.len()) as u64);
        put(&mut records, pc(function.start));
        let name = if words == 1 { names_at as u32 + name } else { *name };
        records.extend_from_slice(&name.to_le_bytes());
    }
    put(&mut list, pc(functions.last().map_or(TEXT, |f| f.end)));
    assert_eq!((list.len(), records.len()), (list_size, record_size * functions.len()));
    let mut table = magic.to_le_bytes().to_vec();
    table.extend_from_slice(&[0, 0, 1, 8]);
    let mut words: Vec<u64> = vec![functions.len() as u64; words];
    if words.len() > 1 {
        let first = words.len() - 5;
        if words.len() == 8 {
            words[2] = text;
        }
        words[first..]
            .copy_from_slice(&[names_at, names_at, names_at, names_at, list_at].map(|at| at as u64));
    }
    words.iter().for_each(|word| table.extend_from_slice(&word.to_le_bytes()));
    if words.len() == 1 {
        table.extend(list);
        table.extend(names);
    } else {
        table.extend(names);
        table.extend(list);
    }
    table.extend(records);
    table
}

#[test]
fn tables_of_all_layouts_are_read() {
    for magic in MAGICS {
        assert_eq!(go_functions(&table(magic, &functions(), TEXT), 0), Ok(functions()), "{magic:#x}");
        assert_eq!(go_functions(&table(magic, &[], TEXT), 0), Ok(vec![]), "{magic:#x}");
    }
    // Since Go 1.26 the header has no text start.
    assert_eq!(go_functions(&table(0xffff_fff1, &functions(), 0), TEXT), Ok(functions()));
}

#[test]
fn damaged_table_is_an_error_or_has_fewer_functions() {
    for magic in MAGICS {
        let whole = table(magic, &functions(), TEXT);
        for len in 0..whole.len() {
            match go_functions(&whole[..len], 0) {
                Ok(found) => assert!(
                    found.len() < 3 && found.iter().all(|f| functions().contains(f)),
                    "{magic:#x} {len}"
                ),
                Err(error) => {
                    assert!(matches!(error, GoTableError::Short { .. }), "{magic:#x} {len}: {error}")
                }
            }
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let _ = go_functions(&bytes, 0);
            }
        }
    }
    let mut unknown = table(MAGICS[0], &functions(), TEXT);
    unknown[0] = 1;
    assert_eq!(go_functions(&unknown, 0), Err(GoTableError::Magic { magic: 0xffff_ff01 }));
    let mut narrow = table(MAGICS[3], &functions(), TEXT);
    narrow[7] = 4;
    assert_eq!(go_functions(&narrow, 0), Err(GoTableError::Pointer { pointer: 4 }));
}

/// An assembly program with a table in the newest layout, whose text start is an address.
const PROGRAM: &str = r#"
    .text
    .byte 0xcc
go_text:
first: push %rbp
    pop %rbp
    ret
    .byte 0xcc, 0xcc
second: mov $1, %eax
    ret
end:
    .globl main
    .type main, @function
main: xor %eax, %eax
    ret
    .size main, . - main
    .section .gopclntab, "aw"
table:
    .long 0xfffffff1
    .byte 0, 0, 1, 8
    .quad 2, 0, go_text, names - table, 0, 0, 0, list - table
names: .asciz "runtime.first"
second_name: .asciz "example.org/shop.(*Basket[...]).Put"
list:
    .long first - go_text, record1 - list, second - go_text, record2 - list, end - go_text
record1: .long first - go_text, 0
record2: .long second - go_text, second_name - names
    .section .note.GNU-stack, ""
"#;

#[test]
fn stripped_program_with_a_go_table_has_its_names() {
    let folder = folder("go-table");
    std::fs::write(folder.join("go.s"), PROGRAM).expect("it is ours");
    for flags in ["-pie", "-no-pie"] {
        let program = folder.join("program");
        tool("cc", &[flags, "-o", text(&program), text(&folder.join("go.s"))]);
        tool("strip", &[text(&program)]);
        let object = Object::open(&program).expect("a program");
        let functions = object.functions();
        assert_eq!(functions.problems(), [] as [String; 0]);
        assert!(functions.is_go() && object.symbols_hint().is_none());
        let matching = |pattern: &str| {
            let pattern = Pattern::new(pattern).expect("a pattern");
            let matches =
                |f: &usize| functions.symbols(*f).any(|(symbol, _)| pattern.matches_symbol(symbol, true));
            (0..functions.len()).filter(matches).collect::<Vec<_>>()
        };
        let first = matching("runtime.*");
        assert_eq!(first.len(), 1);
        // Two bytes of padding are no instructions of the function.
        let code = object.decode(first[0]).expect("it is code");
        assert_eq!((code.bytes.len(), code.boundaries.len(), code.unreached), (5, 3, 0), "{flags}");
        let second = matching("shop.*.Put");
        assert_eq!(second.len(), 1);
        for spelling in
            ["Put", "(*Basket).Put", "shop.(*Basket).Put", "example.org/shop.(*Basket\\[...\\]).Put"]
        {
            assert_eq!(matching(spelling), second, "{spelling}");
        }
        let address = functions.all()[second[0]].address;
        assert_eq!(
            functions.describe(address + 5).as_deref(),
            Some("example.org/shop.(*Basket[...]).Put+0x5")
        );
    }
}

#[test]
#[ignore = "needs Go"]
fn program_of_the_installed_go_has_its_functions() {
    let folder = folder("go");
    let source = folder.join("main.go");
    std::fs::write(&source, "package main\n\nfunc main() { println(len(make([]byte, 10))) }\n")
        .expect("it is ours");
    let program = folder.join("program");
    tool("go", &["build", "-o", text(&program), text(&source)]);
    let count = |path: &Path| {
        let object = Object::open(path).expect("a program");
        let functions = object.functions();
        let pattern = Pattern::new("runtime.mallocgc").expect("a pattern");
        let f = (0..functions.len())
            .find(|f| functions.symbols(*f).any(|(symbol, _)| pattern.matches_symbol(symbol, true)))
            .expect("the allocator");
        assert!(object.decode(f).expect("it is code").boundaries.len() > 100);
        functions.len()
    };
    let whole = count(&program);
    tool("strip", &[text(&program)]);
    assert!(whole > 1000 && count(&program) * 10 > whole * 9);
}
