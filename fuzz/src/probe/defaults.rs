//! The functions that a probe attacks where nobody names any: what signal handlers usually trip over, as far as
//! this program has it.
//!
//! A handler that allocates meets the allocator's lock; one that unwinds meets the loader's, which guards the
//! list of objects; one that prints meets stdio's. So those are the places to interrupt. A program that has none of
//! them is attacked in its own functions.

use sigstorm_inject::remote::symbols::{FunctionId, Pattern, Symbols};

use super::points::Points;

/// Functions by the reason for which they are attacked. Their direct callees in the same object are, too.
const VICTIMS: [(&str, &[&str]); 8] = [
    (
        "the allocator",
        &[
            "malloc",
            "free",
            "calloc",
            "realloc",
            "_int_malloc",
            "_int_free",
            "malloc_consolidate",
            "sysmalloc",
        ],
    ),
    (
        "the loader",
        &["dl_iterate_phdr", "_dl_fixup", "_dl_lookup_symbol_x", "__tls_get_addr", "_dl_open", "_dl_close"],
    ),
    (
        "the unwinder",
        &[
            "_Unwind_RaiseException",
            "_Unwind_Resume",
            "_Unwind_Backtrace",
            "_Unwind_ForcedUnwind",
            "_Unwind_Find_FDE",
        ],
    ),
    ("thread start and exit", &["start_thread", "pthread_create", "__nptl_deallocate_stack", "pthread_exit"]),
    ("locks", &["pthread_mutex_lock", "pthread_mutex_unlock"]),
    ("stdio", &["_IO_new_file_xsputn", "_IO_file_xsputn", "_IO_new_do_write", "fflush", "fwrite", "puts"]),
    ("Python's frames", &["_PyEval_EvalFrameDefault", "_PyFrame_Clear", "PyObject_Malloc", "PyObject_Free"]),
    (
        "Go's allocator, stacks and scheduler",
        &[
            "runtime.mallocgc",
            "runtime.newstack",
            "runtime.copystack",
            "runtime.gopanic",
            "runtime.mcall",
            "runtime.gogo",
            "runtime.morestack",
        ],
    ),
];

/// The reason for functions of the program itself.
const OWN: &str = "the program's own";

/// The functions of one choice.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Their part in the program.
    pub reason: &'static str,
    /// The functions.
    pub functions: Vec<FunctionId>,
}

/// The usual victims that a process has mapped.
pub fn victims(symbols: &Symbols) -> Vec<Chosen> {
    let mut chosen = Vec::new();
    for (reason, names) in VICTIMS {
        let patterns: Vec<Pattern> = names.iter().filter_map(|name| Pattern::new(name).ok()).collect();
        let mut functions = symbols.find_functions(&patterns);
        for id in functions.clone() {
            functions.extend(callees(symbols, id));
        }
        functions.sort_unstable();
        functions.dedup();
        if !functions.is_empty() {
            chosen.push(Chosen { reason, functions });
        }
    }
    chosen
}

/// The functions of the program's own code, for where it has none of the usual victims or reaches none.
pub fn own(symbols: &Symbols) -> Chosen {
    let mut functions = Vec::new();
    for (object, mapped) in symbols.objects().iter().enumerate().filter(|(_, mapped)| mapped.is_program) {
        let all = mapped.object.functions().all();
        // Code that runs before `main` and that nobody wrote.
        let is_start = |f: usize| matches!(&*mapped.object.functions().name(f), "_start" | "_init" | "_fini");
        let mut own: Vec<usize> = (0..all.len()).filter(|f| all[*f].is_named() && !is_start(*f)).collect();
        if own.is_empty() {
            // Stripped: its unwind tables say where functions are.
            own = (0..all.len()).collect();
        }
        functions.extend(own.into_iter().map(|function| FunctionId { object, function }));
    }
    Chosen { reason: OWN, functions }
}

/// The functions of the same object that a function calls or jumps to.
fn callees(symbols: &Symbols, id: FunctionId) -> Vec<FunctionId> {
    let mapped = &symbols.objects()[id.object];
    let Ok(code) = mapped.object.decode(id.function) else { return Vec::new() };
    let functions = mapped.object.functions();
    let entry = |target: u64| functions.at(target).filter(|f| functions.all()[*f].address == target);
    code.callees().filter_map(entry).map(|function| FunctionId { object: id.object, function }).collect()
}

/// The number of functions and boundaries by reason, for people.
pub fn by_reason(points: &Points) -> Vec<(&'static str, usize, usize)> {
    let mut counts: Vec<(&'static str, usize, usize)> = Vec::new();
    for function in points.functions() {
        let Some(reason) = function.reason else { continue };
        match counts.iter_mut().find(|(known, ..)| *known == reason) {
            Some((_, functions, boundaries)) => {
                *functions += 1;
                *boundaries += function.points.len();
            }
            None => counts.push((reason, 1, function.points.len())),
        }
    }
    counts
}
