//! Foreign calls and callbacks in a controlled run: what a signal finds there, and what a
//! thread with foreign frames on its stack can be told.

use sigstorm::outcome::{Event, Run};
use sigstorm_runtime::sched::foreign::MAX_CALLBACKS;
use sigstorm_runtime::{CodeClass, Point};

use crate::common::{harness, in_child, run_clean, schedule};

fn interrupted(run: &Run, class: CodeClass) -> u64 {
    run.counts.interrupted[usize::from(class.code()) - 1]
}

/// The outcomes of the samples that this thread took, in order.
fn samples<'a>(run: &'a Run, actor: &str) -> Vec<&'a str> {
    let of = |event: &'a Event| (event.actor == actor).then(|| event.what.strip_prefix("sample: "))?;
    run.events.iter().filter_map(of).collect()
}

/// Where a thread can be held in a foreign call and what comes of it, with whose code a signal
/// then finds.
const PLACES: &[(Point, CodeClass, &[&str])] = &[
    (Point::SyscallSaved, CodeClass::Runtime, &["foreign @ HERE"]),
    (Point::SyscallEntered, CodeClass::Runtime, &["foreign @ HERE"]),
    (Point::ForeignEntered, CodeClass::Foreign, &["foreign @ HERE"]),
    (Point::ForeignCode, CodeClass::Foreign, &["foreign @ HERE"]),
    (Point::ForeignLeft, CodeClass::Runtime, &["foreign; resume @ HERE", "foreign; callback @ HERE"]),
    (Point::SyscallExiting, CodeClass::Runtime, &["foreign; resume @ HERE"]),
    (Point::SyscallExited, CodeClass::Runtime, &["foreign; resume @ HERE"]),
    (Point::CallbackEntered, CodeClass::Runtime, &["foreign; callback @ HERE"]),
    (Point::CallbackLeaving, CodeClass::Runtime, &["foreign; callback; ret @ HERE"]),
    (Point::CallbackExited, CodeClass::Runtime, &["foreign; callback; ret @ HERE"]),
];

#[test]
fn signal_around_foreign_code_is_walked_from_the_right_place() {
    in_child("foreign::signal_around_foreign_code_is_walked_from_the_right_place", "", |_| {
        let mut harness = harness(&[]);
        for (point, class, ways) in PLACES {
            for way in *ways {
                for before in [
                    "m1 g1",
                    "m1 g1 call small",
                    "m1 g1 call small; foreign; callback; call tiny",
                    "every_frame\nm1 g1 call small*2; syscall\ngc mark; scan g1\nm1 resume",
                    "every_frame\nm1 g1 call small; foreign; callback; call tiny; foreign\n\
                     gc mark; scan g1\nm1 callback",
                ] {
                    let text = format!("{before}; {way}\nm1 signal").replace("HERE", point.name());
                    let run = run_clean(&mut harness, &schedule(&text), true);
                    let held = run.events.iter().any(|e| e.what.starts_with("held "));
                    assert!(held, "{text}");
                    assert_eq!(samples(&run, "m1"), ["right"], "{text}");
                    assert_eq!(interrupted(&run, *class), 1, "{text}");
                }
            }
        }
        String::new()
    });
}

#[test]
fn signal_in_foreign_code_needs_the_stack_lock_of_its_goroutine() {
    in_child("foreign::signal_in_foreign_code_needs_the_stack_lock_of_its_goroutine", "", |_| {
        let mut harness = harness(&[]);
        let text = "every_frame\nm1 g1 call small*2; foreign\ngc mark; scan g1 @ install.slot\nm1 signal\n\
                    gc resume\nm1 signal; callback; call tiny; signal; ret 2; signal";
        let run = run_clean(&mut harness, &schedule(text), true);
        assert_eq!(samples(&run, "m1"), ["lock-held", "right", "right", "right"]);
        assert_eq!(interrupted(&run, CodeClass::Foreign), 3);
        String::new()
    });
}

/// How many steps of these had an effect.
fn steps(harness: &mut sigstorm::executor::Harness, text: &str) -> u64 {
    run_clean(harness, &schedule(text), false).counts.steps
}

#[test]
fn foreign_frames_bind_a_goroutine_to_its_thread() {
    in_child("foreign::foreign_frames_bind_a_goroutine_to_its_thread", "", |_| {
        let mut harness = harness(&[]);
        let before = "m1 g1 call deferring; foreign; callback";
        for refused in
            ["yield", "exit", "run g2", "bulk 1", "ref 0 = up 1 slot 0", "up 1 slot 0 = 0", "callback"]
        {
            assert_eq!(steps(&mut harness, &format!("{before}; {refused}")), 4, "{refused}");
        }
        for allowed in ["panic", "syscall", "foreign", "bulk 2", "call huge", "alloc 0"] {
            assert_eq!(steps(&mut harness, &format!("{before}; {allowed}")), 5, "{allowed}");
        }
        // Nobody takes it.
        assert_eq!(steps(&mut harness, &format!("{before}\nm2 g1")), 4);
        // In foreign code it can only be told to call back in; whatever else is to return.
        assert_eq!(steps(&mut harness, "m1 g1 foreign; callback; ret; callback; ret; yield; yield"), 8);
        let deep = "; callback; foreign".repeat(MAX_CALLBACKS);
        let deepest = 2 + 2 * MAX_CALLBACKS as u64;
        assert_eq!(steps(&mut harness, &format!("m1 g1 foreign{deep}; callback; callback")), deepest);
        assert_eq!(steps(&mut harness, &format!("m1 g1 foreign{deep}; resume; ret; resume")), deepest + 3);
        String::new()
    });
}

#[test]
fn panic_is_stopped_by_the_callback_that_it_began_in() {
    in_child("foreign::panic_is_stopped_by_the_callback_that_it_began_in", "", |_| {
        let mut harness = harness(&[]);
        // Above the callback somebody has deferred a call, which is not for it.
        let text =
            "m1 g1 call deferring; foreign; callback; call deferring; call small; panic; signal; ret; signal";
        let run = run_clean(&mut harness, &schedule(text), true);
        assert_eq!(samples(&run, "m1"), ["right", "right"]);
        let landed: Vec<&str> =
            run.events.iter().filter(|e| e.what == "recover.switched").map(|e| e.pc.as_str()).collect();
        assert_eq!(landed.len(), 1);
        assert!(landed[0].starts_with("callback+"), "{landed:?}");
        String::new()
    });
}

#[test]
fn goroutine_that_waits_for_its_scan_is_shrunk_while_its_thread_works_for_it() {
    in_child(
        "foreign::goroutine_that_waits_for_its_scan_is_shrunk_while_its_thread_works_for_it",
        "",
        |_| {
            let mut harness = harness(&[]);
            // M1: G1 is about to scan itself, and waits. GC: scans it instead, and shrinks it.
            let text = "stack 8192; unreadable 1\nm1 g1 call small\ngc mark; scan g1\n\
                        m1 call tiny @ status.changed\ngc resume; shrink g1 @ copystack.bounds\n\
                        m1 signal\ngc resume\nm1 signal; resume; signal; ret 2; signal";
            let run = run_clean(&mut harness, &schedule(text), true);
            assert_eq!(samples(&run, "m1"), ["lock-held", "right", "right", "right"]);
            let at = |what: &str| run.events.iter().position(|e| e.what == what).expect("an event");
            assert!(at("held @ status.changed") < at("copystack.begin"));
            let copy = &run.events[at("copystack.begin")];
            assert_eq!((copy.actor.as_str(), copy.goroutine), ("gc", 1));
            String::new()
        },
    );
}

#[test]
fn handler_of_a_thread_without_a_machine_masks_its_signal_and_leaves_no_stop_behind() {
    in_child(
        "foreign::handler_of_a_thread_without_a_machine_masks_its_signal_and_leaves_no_stop_behind",
        "",
        |_| {
            let mut harness = harness(&[]);
            // `signal` has no effect on a thread in its handler; `pend` leaves one pending. The stop with what resumes the
            // handler is not reached there, and M1, which comes by, must not find it.
            for (second, sent) in [("signal", 1), ("pend", 2)] {
                let text = format!(
                    "ext signal @ handler.end; {second}; resume @ deferring#9; attach\nm1 call deferring*2; ret"
                );
                let run = run_clean(&mut harness, &schedule(&text), true);
                assert_eq!(run.counts.sent, sent, "{second}");
                assert_eq!(samples(&run, "ext").len() as u64, sent, "{second}");
                assert!(run.events.iter().any(|e| e.actor == "m1" && e.what == "ret"), "{:?}", run.events);
            }
            String::new()
        },
    );
}
