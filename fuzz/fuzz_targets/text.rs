//! The target `text` for cargo-fuzz: the text form, both ways.
//!
//! ```text
//! cargo fuzz run --sanitizer none text corpus/text
//! ```
//!
//! Any bytes are taken three times: as a text, which is a schedule or an error that can be
//! shown; as a file, of which a command must make something; and as the byte form, which is
//! always a schedule. Whatever is a schedule must survive its text and its bytes.

#![cfg_attr(not(test), no_main)]

use libfuzzer_sys::fuzz_target;
use sigstorm::schedule::Schedule;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        match Schedule::parse(text) {
            Ok(schedule) => survives(&schedule.canonical()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    match Schedule::from_file_bytes(bytes) {
        Ok(schedule) => survives(&schedule.canonical()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    survives(&Schedule::decode(bytes));
});

fn survives(schedule: &Schedule) {
    let text = schedule.to_text();
    let again = Schedule::parse(&text).unwrap_or_else(|error| panic!("{error}\nin\n{text}"));
    assert_eq!(&again, schedule, "a text must mean the schedule that it was made from:\n{text}");
    assert_eq!(again.to_text(), text, "a schedule has one text");
    assert_eq!(&Schedule::decode(&schedule.encode()), schedule, "bytes must mean the schedule:\n{text}");
}
