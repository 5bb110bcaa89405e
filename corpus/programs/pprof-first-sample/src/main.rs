//! pprof 0.15.0's first sample builds its unwinder: it allocates, in the handler.
//!
//! Two threads allocate, so that the C library locks its arenas. The profiler runs, but so slowly that the timer brings
//! no sample. A first sample that comes while its own thread holds an arena's lock waits for that lock for ever.

use std::hint::black_box;

fn allocate(rounds: usize) -> usize {
    (0..rounds).map(|n| black_box(vec![n; 1 + n % 50]).len()).sum()
}

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(20_000, |text| text.parse().expect("a number"));
    let guard = pprof::ProfilerGuardBuilder::default().frequency(1).build().expect("the profiler starts");
    let other = std::thread::spawn(move || allocate(rounds));
    let sum = allocate(rounds) + other.join().expect("it does not panic");
    drop(guard);
    println!("{sum} words in two threads");
}
