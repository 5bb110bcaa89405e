//! The scratch copy of the workspace, in which a mutant can be chosen at run time.
//!
//! A piece `A` for which the list has `B` becomes `if crate::mutants::on(7) { B } else { A }`.
//! Pieces that overlap cannot be in one copy, so there may be several, one after the other;
//! they share their build folder, so that only the core and what is linked to it is built again.

use super::list::Mutant;
use super::sources;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names the mutant.
pub const VARIABLE: &str = "SIGSTORM_MUTANT";

/// The parts that are copied, from the repository's root.
const PARTS: [&str; 5] = ["Cargo.toml", "Cargo.lock", "runtime", "inject", "fuzz"];
/// Folders in them that are not copied: they are large, and no source.
const NOT: [&str; 6] = ["target", "corpus", "artifacts", "coverage", "afl", "mutants"];

/// The module that the copy has beside the core's own files.
const MODULE: &str = r#"//! Which mutant this process runs.

use core::sync::atomic::{AtomicU32, Ordering};

static CHOSEN: AtomicU32 = AtomicU32::new(0);

/// Returns whether it is this one.
#[inline]
pub fn on(number: u32) -> bool {
    CHOSEN.load(Ordering::Relaxed) == number
}

// Before anything else runs: a choice when it is first asked for would be code that only one run
// in the process executes, and a sweep expects the same of every run.
#[used]
#[unsafe(link_section = ".init_array")]
static CHOOSE: extern "C" fn() = choose;

extern "C" fn choose() {
    // SAFETY: a name that ends in zero; no thread changes the environment.
    let value = unsafe { libc::getenv(c"SIGSTORM_MUTANT".as_ptr()) };
    if !value.is_null() {
        // SAFETY: the environment's strings end in zero.
        let digits = unsafe { core::ffi::CStr::from_ptr(value) }.to_bytes();
        let number = digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
        CHOSEN.store(number, Ordering::Relaxed);
    }
}
"#;

/// Mutants that can be built together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The mutants.
    pub mutants: Vec<Mutant>,
    /// The core's files that differ, by name.
    files: BTreeMap<String, String>,
}

/// A piece of a file and the mutants that have something else there.
struct Piece<'a> {
    start: usize,
    end: usize,
    mutants: Vec<&'a Mutant>,
}

/// Which mutants are built together, and how the files look then.
///
/// # Errors
/// Where one of them is not to be found in the core: the list is out of date.
pub fn batches(root: &Path, mutants: &[Mutant]) -> Result<Vec<Batch>> {
    let mut texts = BTreeMap::new();
    let mut troubles = Vec::new();
    for mutant in mutants {
        let path = sources(root).join(&mutant.file);
        if !texts.contains_key(&mutant.file) {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.insert(mutant.file.clone(), text);
        }
        if let Err(error) = mutant.locate(&texts[&mutant.file]) {
            troubles.push(format!("mutant {}, {}: {error}", mutant.number, mutant.place()));
        }
    }
    if !troubles.is_empty() {
        bail!("the list of mutants is out of date:\n{}", troubles.join("\n"));
    }
    let mut batches: Vec<Vec<&Mutant>> = vec![Vec::new()];
    for mutant in mutants.iter().filter(|mutant| !mutant.build) {
        let text = &texts[&mutant.file];
        let fits = |batch: &Vec<&Mutant>| batch.iter().all(|other| agree(text, other, mutant));
        match batches.iter_mut().find(|batch| fits(batch)) {
            Some(batch) => batch.push(mutant),
            None => batches.push(vec![mutant]),
        }
    }
    batches.extend(mutants.iter().filter(|mutant| mutant.build).map(|mutant| vec![mutant]));
    batches.retain(|batch| !batch.is_empty());
    Ok(batches.iter().map(|batch| rewritten(&texts, batch)).collect())
}

/// The piece of a mutant, from its first byte to its end.
fn span(text: &str, mutant: &Mutant) -> (usize, usize) {
    // It was located before.
    let start = mutant.locate(text).unwrap_or(0);
    (start, start + mutant.find.len())
}

/// Returns whether two mutants can be in one copy: their pieces are the same, or do not overlap.
fn agree(text: &str, one: &Mutant, other: &Mutant) -> bool {
    if one.file != other.file {
        return true;
    }
    let (a, b) = (span(text, one), span(text, other));
    a == b || a.1 <= b.0 || b.1 <= a.0
}

fn rewritten(texts: &BTreeMap<String, String>, mutants: &[&Mutant]) -> Batch {
    let mut files = BTreeMap::new();
    for (name, text) in texts {
        let mut pieces: BTreeMap<usize, Piece> = BTreeMap::new();
        for mutant in mutants.iter().filter(|mutant| mutant.file == *name) {
            let (start, end) = span(text, mutant);
            pieces.entry(start).or_insert(Piece { start, end, mutants: Vec::new() }).mutants.push(mutant);
        }
        let mut out = String::with_capacity(text.len() * 2);
        let mut done = 0;
        for piece in pieces.values() {
            out += &text[done..piece.start];
            out += &choice(&text[piece.start..piece.end], &piece.mutants);
            done = piece.end;
        }
        out += &text[done..];
        files.insert(name.clone(), out);
    }
    Batch { mutants: mutants.iter().map(|&mutant| mutant.clone()).collect(), files }
}

/// The piece, and what stands there for each mutant.
fn choice(right: &str, mutants: &[&Mutant]) -> String {
    if let [mutant] = mutants
        && mutant.build
    {
        return mutant.replace.clone();
    }
    let mut text = String::new();
    for mutant in mutants {
        text += &format!("if crate::mutants::on({}) {{ {} }} else ", mutant.number, mutant.replace);
    }
    text += &format!("{{ {right} }}");
    if mutants.first().is_some_and(|mutant| mutant.is_statement()) { text } else { format!("({text})") }
}

/// Writes a batch's copy of the workspace into `scratch` and builds it: its binary.
pub fn build(root: &Path, scratch: &Path, batch: &Batch) -> Result<PathBuf> {
    let source = scratch.join("source");
    for part in PARTS {
        copy(&root.join(part), &source.join(part), &NOT)?;
    }
    let core = sources(&source);
    for (name, text) in &batch.files {
        put(&core.join(name), text.as_bytes())?;
    }
    put(&core.join("mutants.rs"), MODULE.as_bytes())?;
    let lib = fs::read_to_string(core.join("lib.rs")).context("the core has no lib.rs")?;
    put(&core.join("lib.rs"), format!("{lib}\npub mod mutants;\n").as_bytes())?;
    let target = scratch.join("build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "sigstorm", "--bin", "sigstorm"])
        .current_dir(&source)
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .context("cannot run cargo")?;
    if !built.status.success() {
        let numbers: Vec<_> = batch.mutants.iter().map(|mutant| mutant.number.to_string()).collect();
        let said = String::from_utf8_lossy(&built.stderr);
        bail!("mutants {} do not compile:\n{said}", numbers.join(", "));
    }
    // The next build replaces it while this one may still run.
    let binary =
        scratch.join(format!("sigstorm-{}", batch.mutants.first().map_or(0, |mutant| mutant.number)));
    fs::copy(target.join("release/sigstorm"), &binary).context("cannot copy the binary")?;
    Ok(binary)
}

/// Copies a file, or a folder with what is in it but for these, and writes only what differs:
/// what was not written is not built again.
fn copy(from: &Path, to: &Path, not: &[&str]) -> Result<()> {
    if !from.is_dir() {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        return put(to, &bytes);
    }
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if !not.iter().any(|not| name == *not) {
            copy(&entry.path(), &to.join(&name), &[])?;
        }
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::list;
    use super::*;

    fn mutants(pieces: &[(&str, &str)]) -> Vec<Mutant> {
        let list: String = pieces
            .iter()
            .map(|(find, replace)| {
                format!("[[mutant]]\nfile = 'a.rs'\nfind = '{find}'\nreplace = '{replace}'\n")
            })
            .collect();
        list::parse(&list).unwrap()
    }

    fn written(text: &str, pieces: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(sources(dir.path())).unwrap();
        fs::write(sources(dir.path()).join("a.rs"), text).unwrap();
        let batches = batches(dir.path(), &mutants(pieces)).unwrap();
        batches.into_iter().map(|batch| batch.files["a.rs"].clone()).collect()
    }

    #[test]
    fn a_piece_becomes_a_choice() {
        let written = written("f(1 < 2); g();", &[("1 < 2", "true"), ("g();", ""), ("1 < 2", "false")]);
        assert_eq!(
            written,
            [
                "f((if crate::mutants::on(1) { true } else if crate::mutants::on(3) { false } else { 1 < 2 })); \
              if crate::mutants::on(2) {  } else { g(); }"
            ]
        );
    }

    #[test]
    fn pieces_that_overlap_are_built_one_after_the_other() {
        assert_eq!(written("a + b + c", &[("a + b", "a"), ("b + c", "c"), ("c", "d")]).len(), 2);
    }

    #[test]
    fn a_list_that_is_out_of_date_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(sources(dir.path())).unwrap();
        fs::write(sources(dir.path()).join("a.rs"), "a").unwrap();
        let error = batches(dir.path(), &mutants(&[("b", "c")])).unwrap_err().to_string();
        assert!(error.contains("mutant 1, a.rs: `b` is not there"), "{error}");
    }
}
