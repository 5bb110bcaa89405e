//! Eight threads that work with vectors, strings and maps, under a handler that adds one to an atomic
//! counter.
//!
//! The handler touches nothing that the threads use, so the signal may come at any instruction.

use std::collections::HashMap;
use std::process::exit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

const THREADS: u64 = 8;
const SIGPROF: i32 = 27;
const SA_RESTART: i32 = 0x1000_0000;

static TICKS: AtomicU64 = AtomicU64::new(0);

/// `struct sigaction` of glibc on x86-64 Linux.
#[repr(C)]
struct SigAction {
    handler: extern "C" fn(i32),
    mask: [u64; 16],
    flags: i32,
    restorer: usize,
}

extern "C" {
    fn sigaction(signal: i32, new: *const SigAction, old: *mut SigAction) -> i32;
}

extern "C" fn on_profile(_signal: i32) {
    TICKS.fetch_add(1, Ordering::Relaxed);
}

/// Counts words in texts of growing length, and returns a number that depends on every count.
#[inline(never)]
fn count_words(rounds: u64, seed: u64) -> u64 {
    let mut total = 0;
    for round in 0..rounds {
        let words: Vec<String> = (0..40).map(|i| format!("word{}", (i * seed + round) % 17)).collect();
        let text = words.join(" ");
        let mut counts: HashMap<String, u64> = HashMap::new();
        for word in text.split(' ') {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
        let mut sorted: Vec<_> = counts.into_iter().collect();
        sorted.sort();
        total += sorted.iter().zip(1..).map(|((word, n), i)| i * n * word.len() as u64).sum::<u64>();
    }
    total
}

fn main() {
    let rounds = match std::env::args().nth(1).map(|text| text.parse::<u64>()) {
        None => 4000,
        Some(Ok(rounds)) if rounds > 0 => rounds,
        Some(_) => {
            eprintln!("the argument is no number of rounds");
            exit(2);
        }
    };
    let action = SigAction { handler: on_profile, mask: [0; 16], flags: SA_RESTART, restorer: 0 };
    // SAFETY: `action` has the C library's layout and outlives the call, no old action is asked for,
    // and the handler only adds to an atomic.
    if unsafe { sigaction(SIGPROF, &action, null_mut()) } != 0 {
        eprintln!("the handler cannot be installed");
        exit(2);
    }
    let threads: Vec<_> =
        (1..=THREADS).map(|seed| thread::spawn(move || count_words(rounds, seed))).collect();
    let total: u64 = threads.into_iter().map(|thread| thread.join().expect("no thread panics")).sum();
    println!("rust-threads: {THREADS} threads, the sum is {total}");
}
