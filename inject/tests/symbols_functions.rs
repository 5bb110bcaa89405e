//! Functions by name: symbol tables, separate debug files, unwind tables, and patterns over all
//! spellings of a name.
#![cfg(feature = "remote")]

mod common;
#[path = "common/programs.rs"]
mod programs;

use std::path::Path;

use common::in_child;
use programs::{compile, folder, text, tool};
use sigstorm_inject::remote::symbols::{FunctionId, Object, Origin, Pattern, PatternError, Symbols};

fn open(path: &Path) -> Object {
    Object::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap_or_else(|error| panic!("{error}"))
}

/// The names of the functions of an object that match.
fn matching(object: &Object, text: &str) -> Vec<String> {
    let functions = object.functions();
    let pattern = pattern(text);
    let matches = |f: &usize| {
        functions.symbols(*f).any(|(symbol, _)| pattern.matches_symbol(symbol, functions.is_go()))
    };
    (0..functions.len()).filter(matches).map(|f| functions.name(f).into_owned()).collect()
}

#[track_caller]
fn only(object: &Object, name: &str) -> usize {
    let functions = object.functions();
    let named = |f: &usize| functions.symbols(*f).any(|(symbol, _)| symbol == name);
    let found: Vec<usize> = (0..functions.len()).filter(named).collect();
    assert_eq!(found.len(), 1, "{name}: {found:?}");
    found[0]
}

#[test]
fn functions_have_the_addresses_and_sizes_that_nm_prints() {
    let folder = folder("nm");
    let program = compile(&folder, "symbols.cc", "program", &[]);
    let object = open(&program);
    let functions = object.functions();
    let mut count = 0;
    for line in tool("nm", &["-S", text(&program)]).lines() {
        let [address, size, kind, symbol] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        if !matches!(kind, "t" | "T" | "W" | "w") {
            continue;
        }
        let number = |text| u64::from_str_radix(text, 16).expect("a number");
        let f = functions.at(number(address)).expect(symbol);
        assert_eq!(functions.all()[f].address, number(address), "{symbol}");
        assert_eq!(functions.all()[f].size, number(size), "{symbol}");
        assert!(functions.symbols(f).any(|(name, _)| name == symbol), "{symbol}");
        count += 1;
    }
    assert!(count > 15, "{count}");
    assert_eq!(functions.problems(), [] as [String; 0]);
}

#[test]
fn aliases_are_one_function_with_all_names() {
    let object = open(&compile(&folder("aliases"), "symbols.c", "program", &[]));
    let f = only(&object, "aliased");
    assert_eq!(f, only(&object, "other_name"));
    let names: Vec<&str> = object.functions().symbols(f).map(|(name, _)| name).collect();
    assert_eq!(names, ["aliased", "other_name"]);
    assert_eq!(matching(&object, "other_*"), ["aliased"]);
}

#[test]
fn cold_part_belongs_to_its_base_name() {
    let object = open(&compile(&folder("cold"), "symbols.c", "program", &[]));
    assert_eq!(matching(&object, "with_cold"), ["with_cold.cold", "with_cold"]);
    assert_eq!(matching(&object, "with_cold.cold"), ["with_cold.cold"]);
}

#[test]
fn function_without_a_size_ends_where_the_next_one_begins() {
    let object = open(&compile(&folder("sizeless"), "symbols.c", "program", &[]));
    let function = object.functions().all()[only(&object, "sizeless")];
    assert_eq!((function.origin, function.size), (Origin::Guess, 6));
    let label = object.functions().all()[only(&object, "bare_label")];
    assert_eq!((label.origin, label.address, label.size), (Origin::Guess, function.end(), 6));
}

#[test]
fn ifunc_symbol_is_marked_as_its_resolver() {
    let object = open(&compile(&folder("ifunc"), "symbols.c", "program", &[]));
    let f = only(&object, "chosen");
    let names: Vec<(&str, bool)> = object.functions().symbols(f).collect();
    assert!(names.contains(&("chosen", true)) && names.contains(&("resolve_chosen", false)), "{names:?}");
    assert!(!object.functions().all()[only(&object, "chosen_fast")].is_resolver);
}

#[test]
fn stripped_program_has_ranges_from_its_unwind_table_and_says_how_to_get_symbols() {
    let folder = folder("stripped");
    let program = compile(&folder, "symbols.c", "program", &["-rdynamic", "-Wl,--build-id=sha1"]);
    let whole = open(&program);
    assert_eq!(whole.symbols_hint(), None);
    let stripped = folder.join("stripped");
    tool("strip", &["-o", text(&stripped), text(&program)]);
    let object = open(&stripped);
    assert!(object.is_stripped() && object.debug_file().is_none());
    let hint = object.symbols_hint().expect("it is stripped");
    let id: String = object.build_id().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(hint.contains("find-dbgsym-packages") && hint.contains(&id) && id.len() == 40, "{hint}");
    // Exported names stay; `complain` is static, and stays as a range.
    only(&object, "with_switch");
    let functions = object.functions();
    let complain = whole.functions().all()[only(&whole, "complain")];
    let f = functions.at(complain.address).expect("a range");
    let range = functions.all()[f];
    assert_eq!((range.address, range.size, range.origin), (complain.address, complain.size, Origin::Unwind));
    assert!(!range.is_named());
    let name = functions.name(f).into_owned();
    let (below, offset) = name.split_once("+0x").expect("a name and an offset");
    let offset = u64::from_str_radix(offset, 16).expect("an offset");
    let below = if below == "stripped" { 0 } else { functions.all()[only(&object, below)].address };
    assert_eq!(below + offset, complain.address, "{name}");
    // A place in it counts from the same name.
    let inside = functions.describe(complain.address + 1).expect("inside");
    assert!(inside.ends_with(&format!("+{:#x}", offset + 1)), "{inside}");
    // A glob over the name below does not mean it; everything does.
    let symbols = Symbols::of_files([(stripped.as_path(), 0x10000)]).expect("a program");
    let id = FunctionId { object: 0, function: f };
    assert!(symbols.select(&[pattern("*")]).functions.contains(&id));
    assert!(!symbols.select(&[pattern("_*"), pattern("a*")]).functions.contains(&id));
    assert!(symbols.select(&[pattern(&name)]).functions.contains(&id));
}

#[test]
fn separate_debug_file_is_found_by_its_link_and_checked() {
    let folder = folder("debuglink");
    let program = compile(&folder, "symbols.c", "program", &["-Wl,--build-id=none"]);
    let debug = folder.join("program.debug");
    tool("objcopy", &["--only-keep-debug", text(&program), text(&debug)]);
    tool("strip", &[text(&program)]);
    let link = format!("--add-gnu-debuglink={}", text(&debug));
    tool("objcopy", &[&link, text(&program)]);
    let object = open(&program);
    assert_eq!(object.debug_file(), Some(debug.canonicalize().expect("it is there").as_path()));
    assert!(!object.is_stripped());
    let f = only(&object, "complain");
    let source = object.source(object.functions().all()[f].address);
    assert!(source[0].file.as_deref().is_some_and(|file| file.ends_with("symbols.c")), "{source:?}");
    // Another file of that name is not the program's.
    let mut bytes = std::fs::read(&debug).expect("it is there");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&debug, bytes).expect("it is ours");
    assert_eq!(open(&program).debug_file(), None);
}

#[test]
fn separate_debug_file_is_found_by_build_id() {
    in_child("separate_debug_file_is_found_by_build_id", || {
        let folder = folder("build-id");
        let program = compile(&folder, "symbols.c", "program", &["-Wl,--build-id=sha1", "-gz=zlib"]);
        let object = open(&program);
        let id: String = object.build_id().iter().map(|byte| format!("{byte:02x}")).collect();
        let cached = folder.join("cache").join(&id);
        std::fs::create_dir_all(&cached).expect("a folder");
        tool("objcopy", &["--only-keep-debug", text(&program), text(&cached.join("debuginfo"))]);
        tool("strip", &[text(&program)]);
        assert_eq!(open(&program).debug_file(), None);
        // SAFETY: This process has one other thread, which waits for this one.
        unsafe { std::env::set_var("DEBUGINFOD_CACHE_PATH", folder.join("cache")) };
        let object = open(&program);
        assert_eq!(object.debug_file(), Some(cached.join("debuginfo").as_path()));
        let f = only(&object, "complain");
        let source = object.source(object.functions().all()[f].address);
        assert_eq!(source[0].function.as_deref(), Some("complain"), "its DWARF is compressed");
    });
}

#[test]
fn allocator_of_libc_has_inner_functions_with_its_debug_package_and_a_hint_without() {
    let mut symbols = Symbols::new();
    symbols.refresh(std::process::id() as i32).expect("we exist");
    let libc = symbols.objects().iter().find(|m| m.object.name() == "libc.so.6").expect("glibc");
    let inner = pattern("libc!_int_malloc");
    let id: String = libc.object.build_id().iter().map(|byte| format!("{byte:02x}")).collect();
    let installed = Path::new("/usr/lib/debug/.build-id").join(&id[..2]).join(format!("{}.debug", &id[2..]));
    let selection = symbols.select(std::slice::from_ref(&inner));
    if installed.exists() || tool("nm", &[text(libc.object.path())]).contains("_int_malloc") {
        assert_eq!(selection.functions.len(), 1, "{selection:?}");
        let code = libc.object.decode(selection.functions[0].function).expect("it is code");
        assert!(code.boundaries.len() > 100 && code.unreached == 0, "{}", code.boundaries.len());
    } else {
        assert!(selection.unmatched[0].to_string().contains("libc6-dbg"), "{}", selection.unmatched[0]);
    }

    // A copy with another build id has no debug file, whatever is installed.
    let copy = folder("libc").join("libc.so.6");
    let mut bytes = std::fs::read(libc.object.path()).expect("we may read it");
    let at = bytes.windows(20).position(|window| window == libc.object.build_id()).expect("its build id");
    bytes[at..at + 20].fill(0xee);
    std::fs::write(&copy, bytes).expect("it is ours");
    tool("strip", &[text(&copy)]);
    let symbols = Symbols::of_files([(copy.as_path(), 0x7000_0000)]).expect("a library");
    let selection = symbols.select(&[inner, pattern("libc!malloc")]);
    assert_eq!(selection.matched, [0, 1]);
    let message = selection.unmatched[0].to_string();
    assert_eq!(
        message.lines().collect::<Vec<_>>()[1..],
        ["libc.so.6 is stripped: Debian's package libc6-dbg has its symbols"],
        "{message}"
    );
}

#[test]
fn memcpy_of_libc_stands_for_the_variant_that_this_machine_uses() {
    let mut symbols = Symbols::new();
    symbols.refresh(std::process::id() as i32).expect("we exist");
    let selection = symbols.select(&[pattern("libc!memcpy")]);
    assert_eq!(selection.unmatched, []);
    let [(resolver, chosen)] = selection.resolved[..] else { panic!("{selection:?}") };
    assert_ne!(resolver, chosen);
    // SAFETY: The name is a string, and the handle means all objects.
    let used = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"memcpy".as_ptr()) };
    assert_eq!(symbols.address(chosen), Some(used as u64));
}

#[test]
fn cpp_names_match_with_and_without_arguments_and_templates() {
    let object = open(&compile(&folder("cpp"), "symbols.cc", "program", &[]));
    let full = "shop::Basket<int>::put(int const&)";
    for spelling in [
        full,
        "shop::Basket<int>::put",
        "shop::Basket::put",
        "put",
        "shop::*<int>::p?t",
        "_ZN4shop6BasketIiE3putERKi",
    ] {
        let names = matching(&object, spelling);
        assert!(names.iter().any(|name| name == full), "{spelling}: {names:?}");
    }
    assert_eq!(matching(&object, "shop::Basket<int>::put").len(), 1);
    assert_eq!(matching(&object, "shop::Basket::put").len(), 2);
    assert_eq!(matching(&object, "shop::Basket::operator<").len(), 1);
    assert_eq!(matching(&object, "operator<").len(), 1);
    assert!(matching(&object, "~Guard").iter().all(|name| name == "shop::Guard::~Guard()"));
    assert_eq!(matching(&object, "shop::catches(int)").len(), 2, "with its cold part");
    assert_eq!(matching(&object, "catch"), [""; 0]);
}

struct Wares<T>(T);

trait Sell {
    fn sell(&self) -> u32;
}

impl<T: Copy + Into<u32>> Sell for Wares<T> {
    #[inline(never)]
    fn sell(&self) -> u32 {
        std::hint::black_box(self.0.into()) + 1
    }
}

#[test]
fn rust_names_match_without_hash_and_by_type_or_trait() {
    assert_eq!(std::hint::black_box(Wares(3_u8)).sell(), 4);
    let object = open(&std::env::current_exe().expect("our path"));
    let full = matching(&object, "*Wares*Sell*::sell");
    assert_eq!(full.len(), 1, "{full:?}");
    assert!(full[0].starts_with('<') && !full[0].contains("::h"), "{full:?}");
    for spelling in
        ["sell", "symbols_functions::Wares::sell", "symbols_functions::Sell::sell", full[0].as_str()]
    {
        let names = matching(&object, spelling);
        assert_eq!(names, full, "{spelling}");
    }
    let own = matching(&object, "symbols_functions::rust_names_match_without_hash_and_by_type_or_trait");
    assert_eq!(own.len(), 1);
}

#[test]
fn pattern_without_a_match_gets_the_nearest_names() {
    let program = compile(&folder("nearest"), "symbols.cc", "program", &[]);
    let symbols = Symbols::of_files([(program.as_path(), 0)]).expect("a program");
    let message = |text: &str| symbols.select(&[pattern(text)]).unmatched[0].to_string();
    assert_eq!(message("cathces"), "`cathces` matches no function; did you mean `catches`?");
    assert!(
        message("shop::may_thraw")
            .starts_with("`shop::may_thraw` matches no function; did you mean `shop::may_throw`")
    );
    assert_eq!(message("progam!main"), "`progam!main` matches no mapped object; did you mean `program`?");
    assert_eq!(message("program!zzzzzzzzzzzzzzzz"), "`program!zzzzzzzzzzzzzzzz` matches no function");
    let everything = symbols.select(&[pattern("*")]);
    assert_eq!(everything.matched[0], symbols.objects()[0].object.functions().len());
    let both = symbols.select(&[pattern("shop::*"), pattern("prog*!shop::catches")]);
    assert_eq!(both.matched[1], 2);
    assert_eq!(both.functions.len(), both.matched[0], "each function once");
}

#[test]
fn text_that_is_no_pattern_is_refused_with_the_reason() {
    for (text, said) in [
        ("", "the pattern `` names no function"),
        ("libc!", "the pattern `libc!` names no function"),
        ("!malloc", "the pattern `!malloc` names no object"),
        ("a[b", "the pattern `a[b` is no glob: "),
        ("{a", "the pattern `{a` is no glob: "),
    ] {
        let error: PatternError = Pattern::new(text).expect_err(text);
        assert!(error.to_string().starts_with(said), "{error}");
    }
    assert_eq!(pattern("operator!=").object(), None);
    assert_eq!(pattern("ns::operator!").object(), None);
    assert_eq!(
        (pattern("libx!operator!=").object(), pattern("libx!operator!=").name()),
        (Some("libx"), "operator!=")
    );
}

#[test]
fn looking_for_a_word_first_never_loses_a_match() {
    // Each word of each demangled name, as a glob: the function itself must match.
    let object = open(&compile(&folder("needle"), "symbols.cc", "program", &["-static"]));
    let functions = object.functions();
    let mut count = 0;
    for f in (0..functions.len()).step_by(7) {
        let name = functions.name(f).into_owned();
        let Some((symbol, _)) = functions.symbols(f).next().filter(|(symbol, _)| symbol.starts_with("_Z"))
        else {
            continue;
        };
        for word in
            name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
        {
            for part in [word, &word[word.len() / 2..], &word[..word.len().div_ceil(2)]] {
                assert!(
                    pattern(&format!("*{part}*")).matches_symbol(symbol, false),
                    "*{part}* and {name} ({symbol})"
                );
                count += 1;
            }
        }
    }
    assert!(count > 1000, "{count}");
}

#[test]
#[ignore = "needs /usr/bin/python3"]
fn python_has_ranges_and_a_hint() {
    let python = Path::new("/usr/bin/python3");
    let path = python.canonicalize().expect("this test needs /usr/bin/python3");
    let object = open(&path);
    assert!(object.functions().len() > 1000);
    assert_eq!(object.is_stripped(), object.symbols_hint().is_some());
    let main = only(&object, "Py_BytesMain");
    let code = object.decode(main).expect("it is code");
    assert!(code.boundaries.len() > 3);
}
