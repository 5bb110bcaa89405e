//! The target `schedule` for cargo-fuzz: every byte string is a schedule.
//!
//! ```text
//! cargo fuzz run --sanitizer none schedule           stable
//! cargo +nightly fuzz run schedule                   with AddressSanitizer
//! SIGSTORM_DEFECT=sigprof-spins cargo fuzz run ..    with a planted defect
//! ```
//!
//! What is found goes to standard error, and the process aborts: the core is corrupted
//! then, and its threads are wherever they are. libFuzzer leaves the schedule's bytes as
//! an artifact; the last line that we print is the command that runs it again.

// `cargo test --all-targets` builds this, too, and runs it: then it has nothing to test, and
// must not be the fuzzer, which would not end.
#![cfg_attr(not(test), no_main)]

use std::cell::RefCell;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{abort, exit};

use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target};
use sigstorm::executor::Harness;
use sigstorm::generate::Generator;
use sigstorm::outcome::Finding;
use sigstorm::schedule::{STEP_BYTES, Schedule};
use sigstorm::{planted, worker};
use sigstorm_runtime::Defect;

thread_local! {
    /// The process's one harness, made for the first input: by then libFuzzer has
    /// installed its handlers, and a fault that is not the core's goes on to them.
    static HARNESS: RefCell<Option<Harness>> = const { RefCell::new(None) };
}

fuzz_target!(init: { defects(); }, |bytes: &[u8]| -> () {
    let schedule = Schedule::decode(bytes);
    let run = HARNESS.with_borrow_mut(|harness| {
        harness.get_or_insert_with(start).run(&schedule, false)
    });
    if let Some(finding) = run.finding {
        report(&finding, &schedule, bytes);
        abort();
    }
});

// The engine wants the same mutation for the same seed, so each has a generator of its own.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let max_size = max_size.min(data.len());
    worker::mutate_with(&mut Generator::new(u64::from(seed), None), &mut data[..max_size], size)
});

fuzz_crossover!(|one: &[u8], other: &[u8], out: &mut [u8], seed: u32| {
    let mut generator = Generator::new(u64::from(seed), None);
    let bytes = generator.cross(&Schedule::decode(one), &Schedule::decode(other)).encode();
    let size = bytes.len().min(out.len() / STEP_BYTES * STEP_BYTES);
    out[..size].copy_from_slice(&bytes[..size]);
    size
});

/// The defects to plant. Ends the process where a name is not known.
fn defects() -> Vec<Defect> {
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

fn report(finding: &Finding, schedule: &Schedule, bytes: &[u8]) {
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
        let sum: String = sha1(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}crash-{sum}", option("-artifact_prefix=").unwrap_or_default())
    };
    let here = env::current_dir().unwrap_or_default();
    Path::new(&path).strip_prefix(here).unwrap_or(Path::new(&path)).to_owned()
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
