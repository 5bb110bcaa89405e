//! The example finds its planted mistake, and raises no false alarm.

mod common;

#[path = "../examples/seqlock_handler.rs"]
mod seqlock_handler;

use common::in_child;

#[test]
fn example_finds_the_careless_writer_and_clears_the_careful_one() {
    in_child("example_finds_the_careless_writer_and_clears_the_careful_one", || {
        seqlock_handler::main().expect("its own assertions hold");
    });
}
