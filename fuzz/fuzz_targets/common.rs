//! The targets that run schedules share the harness, the mutations, and the report of a finding.

use std::cell::RefCell;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{abort, exit};

use libfuzzer_sys::{fuzz_crossover, fuzz_mutator};
use sigstorm::executor::Harness;
use sigstorm::generate::Generator;
use sigstorm::outcome::{Finding, Run};
use sigstorm::planted;
use sigstorm::schedule::{Schedule, checks};
use sigstorm_runtime::Defect;

thread_local! {
    /// The process's one harness, made for the first input: by then libFuzzer has
    /// installed its handlers, and a fault that is not the core's goes on to them.
    static HARNESS: RefCell<Option<Harness>> = const { RefCell::new(None) };
}

/// Runs a schedule. After a finding this must not be called again.
pub fn run(schedule: &Schedule) -> Run {
    HARNESS.with_borrow_mut(|harness| harness.get_or_insert_with(start).run(schedule, false))
}

/// Runs the schedule that an input's bytes are, and returns it. Ends the process where that finds something.
pub fn run_input(bytes: &[u8]) -> Schedule {
    let schedule = Schedule::decode(bytes);
    if let Some(finding) = run(&schedule).finding {
        report(&finding, &schedule, bytes);
    }
    schedule
}

/// The defects to plant. Ends the process where a name is not known.
pub fn defects() -> Vec<Defect> {
    planted::from_environment().unwrap_or_else(|error| {
        eprintln!("{}: {error}", planted::VARIABLE);
        exit(2)
    })
}

fn start() -> Harness {
    Harness::new(sigstorm_inject::nearest(), &defects()).unwrap_or_else(|error| {
        eprintln!("harness error: {error}");
        abort()
    })
}

/// Says what was found, and ends the process: the core is corrupted. `bytes` is the input, which
/// libFuzzer then keeps.
pub fn report(finding: &Finding, schedule: &Schedule, bytes: &[u8]) -> ! {
    eprintln!("\n{}: {}", finding.verdict, finding.summary);
    for lines in [&finding.evidence, &finding.dump] {
        lines.iter().for_each(|line| eprintln!("  {line}"));
    }
    eprintln!("\n{schedule}");
    let mut command = format!("cargo run --release -- replay '{}'", artifact(bytes).display());
    for defect in defects() {
        command += &format!(" --defect {defect}");
    }
    eprintln!("Run it again:\n  {command}\n");
    abort()
}

/// Where these bytes are, or will be once libFuzzer has handled the abort: in the file
/// that it was given to run, or in `PREFIXcrash-SHA1`.
fn artifact(bytes: &[u8]) -> PathBuf {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let given = arguments.iter().find(|file| std::fs::read(file).is_ok_and(|content| content == bytes));
    let option = |name: &str| arguments.iter().rev().find_map(|argument| argument.strip_prefix(name));
    let path = if let Some(file) = given {
        file.clone()
    } else if let Some(file) = option("-exact_artifact_path=") {
        file.to_owned()
    } else {
        named(bytes, option("-artifact_prefix=").unwrap_or_default())
    };
    let here = env::current_dir().unwrap_or_default();
    Path::new(&path).strip_prefix(here).unwrap_or(Path::new(&path)).to_owned()
}

/// As libFuzzer names an artifact.
fn named(bytes: &[u8], prefix: &str) -> String {
    let sum: String = sha1(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}crash-{sum}")
}

/// Leaves a schedule that is not the input itself where the input's artifact will be, for
/// `replay` and `collect`. Its bytes.
#[allow(dead_code, reason = "not every target makes schedules of its own")]
pub fn keep(schedule: &Schedule) -> Vec<u8> {
    // Its stop says which instruction it means: another build may have another one there.
    let checked = HARNESS.with_borrow(|harness| {
        let region = harness.as_ref().map(Harness::region)?;
        Some(checks::with_checks(schedule, region))
    });
    let bytes = checked.as_ref().unwrap_or(schedule).encode();
    let path = artifact(&bytes);
    if let Err(error) = std::fs::write(&path, &bytes) {
        eprintln!("{} cannot be written: {error}", path.display());
    }
    bytes
}

unsafe extern "C" {
    /// `fuzzer::ComputeSHA1` of the libFuzzer that is linked in: by this it names artifacts.
    #[link_name = "_ZN6fuzzer11ComputeSHA1EPKhmPh"]
    fn compute_sha1(data: *const u8, size: usize, out: *mut u8);
}

fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut sum = [0; 20];
    // SAFETY: it reads so many bytes and writes twenty, the digest's size.
    unsafe { compute_sha1(bytes.as_ptr(), bytes.len(), sum.as_mut_ptr()) };
    sum
}

// The engine wants the same mutation for the same seed, so each has a generator of its own.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let max_size = max_size.min(data.len());
    Generator::new(u64::from(seed), None).next_bytes(&mut data[..max_size], size)
});

fuzz_crossover!(|one: &[u8], other: &[u8], out: &mut [u8], seed: u32| {
    Generator::new(u64::from(seed), None).cross_bytes(one, other, out)
});
