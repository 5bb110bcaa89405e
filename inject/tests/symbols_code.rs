//! Functions cut into instructions, held against `objdump`; places where no breakpoint may be set;
//! lines and text of an address.
#![cfg(feature = "remote")]

#[path = "common/programs.rs"]
mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use programs::{compile, folder, text, tool};
use sigstorm_inject::remote::symbols::{Code, Kind, LeftOut, Object, Symbols};

fn open(path: &Path) -> Object {
    Object::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn find(object: &Object, name: &str) -> usize {
    let functions = object.functions();
    let named = |f: &usize| functions.symbols(*f).any(|(symbol, _)| symbol == name);
    (0..functions.len()).find(named).unwrap_or_else(|| panic!("there is {name}"))
}

fn decode(object: &Object, name: &str) -> Code {
    object.decode(find(object, name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The addresses of instructions that `objdump` prints, with their text, and those of the filler
/// that it skips over.
fn listing(path: &Path) -> BTreeMap<u64, String> {
    let listing = tool("objdump", &["-d", "-z", "--no-show-raw-insn", text(path)]);
    let line = |line: &str| {
        let (address, text) = line.split_once(":\t")?;
        Some((u64::from_str_radix(address.trim(), 16).ok()?, text.trim().to_owned()))
    };
    listing.lines().filter_map(line).collect()
}

/// Decodes all functions. Returns the numbers of boundaries, of unreached instructions, of
/// functions that were left out.
fn compare(path: &Path) -> (usize, u32, usize) {
    let object = open(path);
    let listing = listing(path);
    let (mut boundaries, mut unreached, mut left_out) = (0, 0, 0);
    for f in 0..object.functions().len() {
        let Ok(code) = object.decode(f) else {
            left_out += 1;
            continue;
        };
        for boundary in &code.boundaries {
            let address = code.address + u64::from(boundary.offset);
            assert!(
                listing.contains_key(&address),
                "{}+{:#x} is none of objdump's",
                object.functions().name(f),
                boundary.offset
            );
        }
        boundaries += code.boundaries.len();
        unreached += code.unreached;
    }
    (boundaries, unreached, left_out)
}

#[test]
fn boundaries_of_compiled_programs_are_those_that_objdump_prints() {
    let folder = folder("objdump");
    for (source, flags, odd) in [
        ("symbols.c", &["-pie", "-fPIE"][..], 2),
        ("symbols.c", &["-no-pie", "-fno-pie"][..], 2),
        ("symbols.cc", &["-pie", "-fPIE"][..], 0),
        ("symbols.cc", &["-O0"][..], 0),
    ] {
        let program = compile(&folder, source, "program", flags);
        let (boundaries, unreached, left_out) = compare(&program);
        assert!(boundaries > 200, "{source} {flags:?}: {boundaries}");
        // `data_between` and `no_instruction` are left out; a signature in `restartable` is not
        // reached.
        assert_eq!((unreached, left_out), (u32::from(odd > 0), odd), "{source} {flags:?}");
        let stripped = folder.join("stripped");
        tool("strip", &["-o", text(&stripped), text(&program)]);
        let (_, unreached, left_out) = compare(&stripped);
        assert_eq!(
            (unreached, left_out),
            (0, 0),
            "{source} {flags:?}, stripped: the odd ones have no ranges"
        );
    }
}

#[test]
fn boundaries_of_the_loader_are_those_that_objdump_prints() {
    let loader = Path::new("/lib64/ld-linux-x86-64.so.2").canonicalize().expect("the loader of x86-64");
    let (boundaries, unreached, left_out) = compare(&loader);
    assert!(boundaries > 20_000 && left_out == 0, "{boundaries} {left_out}");
    assert!(unreached < 100, "{unreached}");
}

#[test]
fn every_instruction_of_switch_goto_cold_part_and_landing_pads_is_reached() {
    let folder = folder("reached");
    for flags in
        [&["-pie", "-fPIE"][..], &["-no-pie", "-fno-pie"], &["-O3"], &["-O1", "-fcf-protection"], &["-O0"]]
    {
        let c = compile(&folder, "symbols.c", "c", flags);
        let listing = listing(&c);
        let object = open(&c);
        for name in ["with_switch", "with_goto", "with_cold", "main"] {
            let code = decode(&object, name);
            assert_eq!(code.unreached, 0, "{name} {flags:?}");
            // Nothing is left between the boundaries but filler.
            let found: BTreeSet<u64> =
                code.boundaries.iter().map(|b| code.address + u64::from(b.offset)).collect();
            let end = code.address + code.bytes.len() as u64;
            for (address, text) in listing.range(code.address..end) {
                assert!(
                    found.contains(address) || text.contains("nop") || text.contains("xchg   %ax,%ax"),
                    "{name} {flags:?}: {address:x} {text}"
                );
            }
        }
        let cc = open(&compile(&folder, "symbols.cc", "cc", flags));
        for f in 0..cc.functions().len() {
            assert_eq!(
                cc.decode(f).map(|code| code.unreached),
                Ok(0),
                "{} {flags:?}",
                cc.functions().name(f)
            );
        }
    }
    let c = open(&compile(&folder, "symbols.c", "c", &[]));
    assert!(decode(&c, "with_cold.cold").boundaries.len() > 3);
}

#[test]
fn function_with_data_among_its_code_is_left_out() {
    let object = open(&compile(&folder("data"), "symbols.c", "program", &[]));
    let left_out = object.decode(find(&object, "data_between")).expect_err("a call swallows the move");
    assert_eq!(left_out, LeftOut::DataInText { offset: 4 });
    assert_eq!(left_out.reason(), "data-in-text");
    let left_out = object.decode(find(&object, "no_instruction")).expect_err("06 is none");
    assert_eq!(left_out, LeftOut::NoInstruction { offset: 6, bytes: vec![6, 6] });
    assert!(left_out.to_string().contains("+0x6"), "{left_out}");
    assert_eq!(object.decode(usize::MAX), Err(LeftOut::Unreadable));
}

#[test]
fn jump_over_a_lock_prefix_is_no_contradiction() {
    let object = open(&compile(&folder("lock"), "symbols.c", "program", &[]));
    let code = decode(&object, "over_lock");
    let lock = code.boundaries.iter().find(|b| code.bytes[b.offset as usize] == 0xf0).expect("a prefix");
    assert_eq!(code.at(lock.offset + 1), None);
    assert_eq!(code.boundaries.len(), 5);
    let kinds: Vec<Kind> = code.boundaries.iter().map(|b| b.kind).collect();
    assert_eq!(kinds, [Kind::Plain, Kind::Jump, Kind::Plain, Kind::Plain, Kind::Return]);
}

#[test]
fn boundaries_of_restartable_sequences_are_marked() {
    let folder = folder("rseq");
    for flags in [&["-pie", "-fPIE"][..], &["-no-pie", "-fno-pie"]] {
        let object = open(&compile(&folder, "symbols.c", "program", flags));
        let code = decode(&object, "restartable");
        let marked: Vec<u32> = code.boundaries.iter().filter(|b| b.in_rseq).map(|b| b.offset).collect();
        assert_eq!(marked, [1, 6], "{flags:?}");
        // The abort handler is reached, behind a signature that is no code.
        assert_eq!(code.boundaries.last().map(|b| (b.offset, b.in_rseq)), Some((20, false)), "{flags:?}");
        assert_eq!(code.unreached, 1, "the signature");
        assert!(decode(&object, "main").boundaries.iter().all(|b| !b.in_rseq));
    }
}

#[test]
fn address_has_its_line_with_inlined_frames() {
    let source = include_str!("c/symbols.c");
    let line = |part: &str| source.lines().position(|line| line.contains(part)).map(|at| at as u32 + 1);
    let object = open(&compile(&folder("lines"), "symbols.c", "program", &["-fno-pie", "-no-pie"]));
    let address = object.functions().all()[find(&object, "aliased")].address;
    let [frame] = &object.source(address)[..] else { panic!("one frame") };
    assert_eq!(
        (frame.function.as_deref(), frame.line, frame.inlined),
        (Some("aliased"), line("int aliased(int x)"), false)
    );
    assert!(frame.file.as_deref().is_some_and(|file| file.ends_with("tests/c/symbols.c")));
    // `std::vector`'s code is inlined into `put`.
    let object = open(&compile(&folder("inlined"), "symbols.cc", "program", &[]));
    let functions = object.functions();
    let put = (0..functions.len())
        .find(|f| functions.name(*f) == "shop::Basket<int>::put(int const&)")
        .expect("a method");
    let code = object.decode(put).expect("it is code");
    let frames = code.boundaries.iter().map(|b| object.source(code.address + u64::from(b.offset)));
    let deepest = frames.max_by_key(Vec::len).expect("boundaries");
    assert!(deepest.len() > 1, "{deepest:?}");
    let (outer, inner) = deepest.split_last().expect("frames");
    assert!(!outer.inlined && inner.iter().all(|frame| frame.inlined), "{deepest:?}");
    assert!(
        outer.function.as_deref().is_some_and(|name| name.starts_with("shop::Basket<int>::put")),
        "{outer:?}"
    );
    assert_eq!(object.source(0), []);
}

#[test]
fn instruction_is_shown_with_the_names_that_it_refers_to() {
    let program = compile(&folder("text"), "symbols.c", "program", &[]);
    let symbols = Symbols::of_files([(program.as_path(), 0x5555_5555_4000)]).expect("a program");
    let object = &symbols.objects()[0].object;
    let code = decode(object, "with_switch");
    let start = code.address + symbols.objects()[0].bias;
    let mut shown = Vec::new();
    for (index, boundary) in code.boundaries.iter().enumerate() {
        let instruction = code.instruction(index, symbols.objects()[0].bias).expect("it is a boundary");
        assert_eq!(instruction.len(), usize::from(boundary.len));
        shown.push(symbols.disassemble(start + u64::from(boundary.offset)).expect("it is an instruction"));
    }
    assert!(shown.iter().any(|text| text == "jmp aliased" || text == "call aliased"), "{shown:?}");
    assert!(
        shown.iter().any(|text| text == "ja with_switch.cold+0x11" || text.contains("with_switch+0x")),
        "{shown:?}"
    );
    let main = decode(object, "main");
    let called: Vec<String> =
        main.callees().filter_map(|address| symbols.describe(address + symbols.objects()[0].bias)).collect();
    for name in ["with_switch", "data_between", "getc@plt", "fflush@plt"] {
        assert!(called.iter().any(|called| called == name), "{name}: {called:?}");
    }
    assert!(!called.iter().any(|called| called.starts_with("main")), "{called:?}");
    assert_eq!(symbols.describe(start).as_deref(), Some("with_switch"));
    assert_eq!(symbols.describe(start + 2).as_deref(), Some("with_switch+0x2"));
    assert_eq!(symbols.disassemble(1), None);
    assert_eq!(symbols.disassemble_bytes(0x1000, &[0x06]), None);
    let frames = symbols.source(start);
    assert_eq!(frames[0].function.as_deref(), Some("with_switch"));
}

#[test]
fn words_that_the_loader_fills_in_are_taken_from_relocations() {
    let program = compile(&folder("relocations"), "symbols.c", "program", &["-pie", "-fPIE"]);
    let mut bytes = std::fs::read(&program).expect("it is there");
    let number = |text: &str| usize::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number");
    let segments: Vec<[usize; 3]> = tool("readelf", &["-lW", text(&program)])
        .lines()
        .filter_map(|line| line.trim().strip_prefix("LOAD "))
        .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .map(|words| [number(&words[0]), number(&words[1]), number(&words[3])])
        .collect();
    let mut zeroed = 0;
    for line in
        tool("readelf", &["-rW", text(&program)]).lines().filter(|line| line.contains("R_X86_64_RELATIVE"))
    {
        let address = number(line.split_whitespace().next().expect("an address"));
        let inside =
            |segment: &&[usize; 3]| address.checked_sub(segment[1]).is_some_and(|offset| offset < segment[2]);
        let segment = segments.iter().find(inside).expect("it is loaded");
        let at = address - segment[1] + segment[0];
        bytes[at..at + 8].fill(0);
        zeroed += 1;
    }
    assert!(zeroed > 4, "{zeroed}");
    let (whole, zeroed) = (open(&program), Object::parse(&program, bytes).expect("a program"));
    for name in ["with_goto", "restartable"] {
        assert_eq!(decode(&whole, name), decode(&zeroed, name), "{name}");
    }
    assert_eq!(decode(&zeroed, "with_goto").unreached, 0);
}
