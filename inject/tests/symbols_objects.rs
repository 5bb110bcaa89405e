//! Objects of a process: which are mapped, where, how they are linked, and what is no object.
#![cfg(feature = "remote")]

mod common;
#[path = "common/programs.rs"]
mod programs;

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use programs::{Running, compile, folder, text, tool};
use sigstorm_inject::remote::symbols::{Linkage, Mapped, Object, ObjectError, Pattern, Symbols};

fn own_pid() -> i32 {
    std::process::id() as i32
}

fn named<'a>(symbols: &'a Symbols, start: &str) -> &'a Mapped {
    let mut objects = symbols.objects().iter();
    objects
        .find(|mapped| mapped.object.name().starts_with(start))
        .unwrap_or_else(|| panic!("{start} is mapped"))
}

#[test]
fn own_program_libc_loader_and_vdso_are_mapped() {
    let mut symbols = Symbols::new();
    assert!(symbols.refresh(own_pid()).expect("we exist"));
    let program = symbols.objects().iter().find(|mapped| mapped.is_program).expect("a program");
    assert_eq!(program.path, std::env::current_exe().expect("our path"));
    assert_eq!(program.object.linkage(), Linkage::Pie);
    assert!(!program.object.build_id().is_empty() || !program.object.is_stripped());
    assert_eq!(named(&symbols, "libc.so").object.linkage(), Linkage::Library);
    assert_eq!(named(&symbols, "ld-linux").object.linkage(), Linkage::Library);
    let vdso = named(&symbols, "[vdso]");
    assert_eq!(vdso.object.linkage(), Linkage::Library);
    // SAFETY: The call reads the auxiliary vector.
    let header = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    assert_eq!(vdso.bias, header);
    assert_eq!(symbols.unreadable().count(), 0);
}

#[test]
fn address_of_a_function_is_found_in_its_process() {
    let mut symbols = Symbols::new();
    symbols.refresh(own_pid()).expect("we exist");
    let address = address_of_a_function_is_found_in_its_process as *const () as u64;
    let id = symbols.function_at(address).expect("our own function");
    assert!(symbols.objects()[id.object].is_program);
    assert_eq!(symbols.address(id), Some(address));
    assert_eq!(symbols.name(id), "symbols_objects::address_of_a_function_is_found_in_its_process");
    assert_eq!(
        symbols.describe(address + 1).as_deref(),
        Some("symbols_objects::address_of_a_function_is_found_in_its_process+0x1")
    );
    let mut exported = symbols.select(&[Pattern::new("libc!getpid").expect("a pattern")]).functions;
    let getpid = exported.pop().expect("libc exports it");
    assert_eq!(symbols.address(getpid), Some(libc::getpid as *const () as u64));
    assert_eq!(symbols.function_at(0), None);
    assert_eq!(symbols.describe(u64::MAX), None);
}

#[test]
fn vdso_functions_are_found_and_decoded() {
    let mut symbols = Symbols::new();
    symbols.refresh(own_pid()).expect("we exist");
    let selection = symbols.select(&[Pattern::new("vdso!*clock_gettime").expect("a pattern")]);
    assert!(!selection.functions.is_empty(), "{:?}", selection.unmatched);
    for id in selection.functions {
        let mapped = &symbols.objects()[id.object];
        assert_eq!(mapped.path, Path::new("[vdso]"));
        let code = mapped.object.decode(id.function).expect("it is code");
        assert_eq!(code.boundaries[0].offset, 0);
        let address = symbols.address(id).expect("it is mapped");
        // SAFETY: The vDSO is mapped for the process's life.
        let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, code.bytes.len()) };
        assert_eq!(code.bytes, bytes);
    }
}

#[test]
fn library_that_is_loaded_later_is_found_by_asking_again_and_others_are_kept() {
    let folder = folder("dlopen");
    let library = compile(&folder, "attacked.c", "libattacked.so", &["-shared", "-fPIC"]);
    let mut symbols = Symbols::new();
    symbols.refresh(own_pid()).expect("we exist");
    let pattern = [Pattern::new("libattacked!*").expect("a pattern")];
    let before = symbols.select(&pattern);
    assert!(before.unmatched[0].no_object, "{before:?}");
    let libc_before = named(&symbols, "libc.so").object.clone();

    let path = CString::new(text(&library)).expect("no zero byte");
    // SAFETY: The library runs nothing when it is loaded.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    assert!(symbols.refresh(own_pid()).expect("we exist"), "a library is new");
    let after = symbols.select(&pattern);
    assert!(after.matched[0] > 0, "{after:?}");
    assert!(Arc::ptr_eq(&libc_before, &named(&symbols, "libc.so").object), "libc is not read again");
    // Another thread of this test process may map memory, so a second call proves nothing here;
    // a process that stands still does.
}

#[test]
fn static_and_position_independent_programs_are_told_apart_and_found_in_their_processes() {
    let folder = folder("linkage");
    let kinds: [(&str, &[&str], Linkage); 4] = [
        ("pie", &["-pie", "-fPIE"], Linkage::Pie),
        ("fixed", &["-no-pie", "-fno-pie"], Linkage::Executable),
        ("static", &["-static", "-no-pie", "-fno-pie"], Linkage::Static),
        ("static-pie", &["-static-pie", "-fPIE"], Linkage::StaticPie),
    ];
    for (name, flags, linkage) in kinds {
        let program = compile(&folder, "symbols.c", name, flags);
        let running = Running::start(&program);
        let mut symbols = Symbols::new();
        assert!(symbols.refresh(running.pid()).expect("it runs"), "{name}");
        assert!(!symbols.refresh(running.pid()).expect("it runs"), "{name}: nothing has changed");
        let mapped = symbols.objects().iter().find(|mapped| mapped.is_program).expect("a program");
        assert_eq!(mapped.object.linkage(), linkage, "{name}");
        assert_eq!(mapped.object.linkage().is_position_independent(), mapped.bias != 0, "{name}");
        for (address, function) in running.printed.iter().zip(["aliased", "main"]) {
            let id = symbols.function_at(*address).expect("a function");
            assert_eq!(
                (symbols.name(id).as_ref(), symbols.address(id)),
                (function, Some(*address)),
                "{name}"
            );
        }
        // The same as a list of files.
        let listed =
            Symbols::of_files([(program.as_path(), mapped.code[0].start & !0xfff)]).expect("it is a program");
        assert_eq!(listed.objects().len(), 1);
        let selection = symbols.select(&[Pattern::new("chosen").expect("a pattern")]);
        let [(_, chosen)] = selection.resolved[..] else { panic!("{name}: {selection:?}") };
        assert_eq!(symbols.name(chosen), "chosen_fast", "{name}: the function that the loader chose");
        assert_eq!(selection.functions, [chosen]);
        let unknown = listed.select(&[Pattern::new("chosen").expect("a pattern")]);
        assert_eq!(
            (unknown.functions.len(), unknown.left_out.len(), unknown.matched[0]),
            (0, 1, 1),
            "{name}"
        );
    }
}

#[test]
fn program_that_was_deleted_or_replaced_is_read_all_the_same() {
    let folder = folder("deleted");
    let program = compile(&folder, "symbols.c", "gone", &[]);
    let running = Running::start(&program);
    std::fs::remove_file(&program).expect("it is ours");
    std::fs::write(&program, "another file of the same name").expect("it is ours");
    let mut symbols = Symbols::new();
    symbols.refresh(running.pid()).expect("it runs");
    let mapped = symbols.objects().iter().find(|mapped| mapped.is_program).expect("a program");
    assert!(mapped.deleted);
    assert_eq!(mapped.path, program);
    let id = symbols.function_at(running.printed[0]).expect("a function");
    assert_eq!(symbols.name(id), "aliased");
}

#[test]
fn file_that_is_no_object_of_this_machine_is_refused_with_the_reason() {
    let folder = folder("refused");
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("it is ours");
        let error = Object::open(&path).expect_err(name);
        error.to_string().replace(text(&folder), "")
    };
    let program = std::fs::read(compile(&folder, "symbols.c", "whole", &[])).expect("it is there");
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = program.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        bytes
    };
    assert_eq!(refused("script", b"#!/bin/sh\n"), "/script is no ELF file: it begins with [23, 21, 2f, 62]");
    assert_eq!(refused("empty", b""), "/empty is no ELF file: it begins with []");
    assert_eq!(refused("head", &program[..10]), "/head is damaged or cut short: it ends within its header");
    let is32 = refused("i386", &with(&[(4, 1), (18, 3)]));
    assert_eq!(is32, "/i386 is 32-bit x86 code; only x86-64 can be read");
    assert_eq!(refused("arm", &with(&[(18, 183)])), "/arm is AArch64 code; only x86-64 can be read");
    assert_eq!(
        refused("s390", &with(&[(5, 2), (18, 0), (19, 22)])),
        "/s390 is big-endian S/390 code; only x86-64 can be read"
    );
    assert_eq!(
        refused("object", &with(&[(16, 1)])),
        "/object is a relocatable object, neither a program nor a shared library"
    );
    assert_eq!(
        refused("core", &with(&[(16, 4)])),
        "/core is a core dump, neither a program nor a shared library"
    );
    let cut = refused("cut", &program[..4096]);
    assert!(cut.starts_with("/cut is damaged or cut short: the segment at 0x"), "{cut}");
    let missing = Object::open(&folder.join("missing")).expect_err("it is missing");
    assert!(matches!(missing, ObjectError::Unreadable { .. }), "{missing}");
    let directory = Object::open(&folder).expect_err("it is a folder");
    assert!(directory.to_string().contains("no regular file"), "{directory}");
    let gone = Symbols::new().refresh(i32::MAX).expect_err("no such process");
    assert!(gone.to_string().starts_with("the mappings of process 2147483647 cannot be read: "), "{gone}");
}

#[test]
fn object_without_section_headers_has_its_exported_functions() {
    let folder = folder("sections");
    let library = compile(&folder, "attacked.c", "lib.so", &["-shared", "-fPIC"]);
    let whole = Object::open(&library).expect("a library");
    let mut bytes = std::fs::read(&library).expect("it is there");
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    let bare = Object::parse(Path::new("bare.so"), bytes).expect("it can be loaded");
    let exported = tool("nm", &["-D", "--defined-only", text(&library)]);
    let mut count = 0;
    for line in exported.lines() {
        let [address, "T", name] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        let address = u64::from_str_radix(address, 16).expect("an address");
        let f = bare.functions().at(address).expect(name);
        assert!(bare.functions().symbols(f).any(|(symbol, _)| symbol == name), "{name}");
        let same = whole.functions().at(address).expect(name);
        assert_eq!(bare.functions().all()[f].size, whole.functions().all()[same].size);
        count += 1;
    }
    assert!(count > 0, "{exported}");
}
