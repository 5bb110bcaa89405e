//! A thread held at *every* instruction, by a schedule's own stops: the signal that it is
//! sent arrives exactly there, and the traceback equals the shadow stack.

use sigstorm::executor::Harness;
use sigstorm::outcome::Event;
use sigstorm::schedule::{Schedule, Stop};
use sigstorm_runtime::FuncId;

use crate::boundaries::{self, Boundary};
use crate::common::{harness, in_child, run_clean, schedule};

/// Where the stop goes in a text. The step that has it comes to the function.
const HERE: &str = "@HERE";

/// Ways through a function, prologue to epilogue.
fn ways(function: FuncId) -> Vec<String> {
    let fixed = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    // Asked to scan itself while it asks what to do; it answers in its next prologue.
    const ASKED: &str = "\ngc mark; scan g1\nm1";
    match function {
        FuncId::Entry => fixed(&[
            "m1 g1 @HERE",
            "m1 g1 call small @HERE",
            "m1 g1 call small; ret @HERE",
            "m1 g1; ret @HERE",
            "m1 g1 call small; setpc; ret @HERE",
            "every_frame\nm1 g1 call small; syscall\ngc mark; scan g1\nm1 resume; ret @HERE",
        ]),
        FuncId::Syscall => fixed(&[
            "m1 g1 call small; syscall @HERE",
            "m1 g1 call small; syscall; resume @HERE",
            // Woken in the kernel: by itself, in its handler, and by another.
            "m1 g1 call small; syscall; signal; resume @HERE",
            "m1 g1 call small; syscall\nm2 g2 call tiny\nm1 resume @HERE",
            "m1 g1 call small; syscall\nm2 g2 call tiny; syscall\nm1 resume @HERE",
            "m1 g1 call nosplit; call tiny; syscall; resume @HERE",
            "every_frame\nm1 g1 call small; syscall\ngc mark; scan g1\nm1 resume @HERE",
        ]),
        FuncId::Cgocall => fixed(&[
            "m1 g1 call small; foreign @HERE",
            "m1 g1 call small; foreign; resume @HERE",
            "every_frame\nm1 g1 call small; foreign\ngc mark; scan g1\nm1 resume @HERE",
            "m1 g1 call small; foreign; callback; foreign; callback; ret; resume @HERE",
        ]),
        FuncId::Callback => fixed(&[
            "m1 g1 call small; foreign; callback @HERE",
            "m1 g1 call small; foreign; callback; call tiny @HERE",
            "m1 g1 call small; foreign; callback; call tiny; ret @HERE",
            "m1 g1 call small; foreign; callback; ret @HERE",
            // No room for it: what is below the guard is only enough for the stub.
            "every_frame\nm1 g1 call small*8; call tiny; foreign; callback @HERE",
            "every_frame\nm1 g1 call medium*2; call small*2; foreign; callback; foreign; callback @HERE",
            // Nobody recovers.
            "m1 g1 call small; foreign; callback; call small; panic @HERE",
            // Through a barrier, back to it; and with one above it.
            "every_frame\nm1 g1 call small; foreign; callback; call tiny; syscall\ngc mark; scan g1\n\
             m1 resume; ret @HERE",
            "every_frame\nm1 g1 call small; foreign; callback; call tiny; syscall\ngc mark; scan g1\n\
             m1 resume; ret; ret @HERE",
        ]),
        FuncId::Trampoline => fixed(&[
            "every_frame\nm1 g1 call small*2; syscall\ngc mark; scan g1\nm1 resume; ret @HERE",
            "every_frame\nm1 g1 call large*2; syscall\ngc mark; scan g1\nm1 resume; ret 2 @HERE",
            "m1 g1 call large*4; syscall\ngc mark; scan g1\nm1 resume; ret 4 @HERE",
        ]),
        FuncId::Gopanic | FuncId::Goexit => {
            let op = if function == FuncId::Gopanic { "panic" } else { "exit" };
            vec![
                format!("m1 g1 call deferring; call small; {op} @HERE"),
                format!("m1 g1 call deferring{ASKED} {op} @HERE"),
                format!("m1 g1 call deferring*2; {op}; ret @HERE"),
                format!("m1 g1 call deferring*2; {op}; setpc; ret @HERE"),
            ]
        }
        FuncId::SwitchIn | FuncId::SwitchOut => {
            let is_switch = |f: FuncId| matches!(f, FuncId::SwitchIn | FuncId::SwitchOut);
            let others = FuncId::ALL.iter().filter(|f| f.on_goroutine_stack() && !is_switch(**f));
            let texts = others.flat_map(|&f| ways(f));
            // The way out of it and the way in again, where that is another.
            texts.flat_map(|text| [text.clone(), text.replace(HERE, "@HERE:2")]).collect()
        }
        kind => {
            let mut ways = vec![
                format!("m1 g1 call small; call {kind} @HERE"),
                format!("m1 g1 call {kind}; call tiny @HERE"),
                format!("m1 g1 call {kind}; ret @HERE"),
                format!("m1 g1 call {kind}; call tiny; ret @HERE"),
                format!("m1 g1 call {kind}; call tiny; setpc; ret @HERE"),
                format!("m1 g1 call small\nm2 preempt g1\nm1 call {kind} @HERE"),
                format!("m1 g1 call small{ASKED} call {kind} @HERE"),
                format!(
                    "every_frame\nm1 g1 call {kind}; call tiny; syscall{} resume; ret 2 @HERE",
                    "\ngc mark; scan g1\nm1"
                ),
            ];
            if kind == FuncId::Deferring {
                // Its first return is to the call that it has deferred.
                ways.push("m1 g1 call deferring; ret 2; ret @HERE".to_owned());
                ways.push("m1 g1 call deferring; call small; panic; recover; ret @HERE".to_owned());
                ways.push(
                    "every_frame\nm1 g1 call deferring; call small; syscall\ngc mark; scan g1\n\
                     m1 resume; panic; recover; ret @HERE"
                        .to_owned(),
                );
            }
            ways
        }
    }
}

/// One way, with the thread held at `boundary` and sent a signal there.
fn held_at(way: &str, boundary: &Boundary) -> (Schedule, Stop) {
    let stop = boundary.stop(if way.contains("@HERE:2") { 2 } else { 1 });
    let text = way.replace("@HERE:2", HERE).replace(HERE, &format!("{stop}"));
    (schedule(&format!("{text}\nm1 signal\nm1 resume")), stop)
}

/// Runs the way; returns whether the thread reached the boundary, and was seen there and nowhere else.
fn interrupts(harness: &mut Harness, way: &str, boundary: &Boundary) -> bool {
    let (schedule, stop) = held_at(way, boundary);
    let run = run_clean(harness, &schedule, true);
    assert!(run.notes.is_empty(), "{:?}\n{schedule}", run.notes);
    let held = format!("held {stop}");
    let Some(at) = run.events.iter().position(|e| e.actor == "m1" && e.what == held) else { return false };
    let is_sample = |e: &&Event| e.actor == "m1" && e.what.starts_with("sample: ");
    let sample = run.events[at..].iter().find(is_sample).unwrap_or_else(|| panic!("no sample\n{schedule}"));
    assert_eq!(sample.pc, boundary.place(), "the signal arrived elsewhere\n{schedule}");
    let expected = if boundary.function == FuncId::Leaf { "unknown-code" } else { "right" };
    assert_eq!(sample.what, format!("sample: {expected}"), "{boundary}\n{schedule}");
    true
}

#[test]
fn signal_at_any_instruction_gives_the_right_traceback() {
    let said = in_child("every_instruction::signal_at_any_instruction_gives_the_right_traceback", "", |_| {
        let mut harness = harness(&[]);
        let all = boundaries::all(&harness);
        let mut reached = vec![0; all.len()];
        for (index, boundary) in all.iter().enumerate() {
            for way in ways(boundary.function) {
                reached[index] += u32::from(interrupts(&mut harness, &way, boundary));
            }
        }
        let times =
            |boundary: &Boundary| all.iter().position(|b| b == boundary).map_or(0, |index| reached[index]);
        let said = boundaries::assert_all(&all, |boundary| times(boundary) != 0);
        format!("{} samples at {said}", reached.iter().sum::<u32>())
    });
    println!("{said}");
}

#[test]
fn stop_whose_instruction_has_changed_is_not_reached() {
    in_child("every_instruction::stop_whose_instruction_has_changed_is_not_reached", "", |_| {
        let mut harness = harness(&[]);
        let region = harness.region();
        let check = region.boundaries(usize::from(FuncId::Small.code()))[3].check;
        for (given, is_right) in [(check, true), (check ^ 1, false)] {
            let text = format!("m1 g1 call small @ small#3/{given:x}\nm1 signal; resume");
            let run = run_clean(&mut harness, &schedule(&text), true);
            let held = run.events.iter().any(|event| event.what.starts_with("held "));
            assert_eq!(held, is_right);
            assert_eq!(run.unreached, if is_right { vec![] } else { vec![1] });
        }
        String::new()
    });
}
