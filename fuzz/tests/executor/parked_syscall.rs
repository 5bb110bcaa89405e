//! Threads whose goroutine sleeps in a system call: signals arrive there, at one place; the
//! collector scans there; and whatever is chosen next, it is the same every time.

use sigstorm::outcome::{Event, Run, Verdict};
use sigstorm_runtime::unwind::functab::{corrupt, info};
use sigstorm_runtime::{CodeClass, FuncId};

use crate::boundaries;
use crate::common::{describe, harness, in_child, run_clean, schedule};

/// Where the kernel comes back to, as an event has it.
fn in_the_kernel() -> String {
    let stub = info(FuncId::Syscall);
    format!("syscall+{:#x}", stub.landing - stub.start)
}

/// The events of one actor with this text.
fn events<'a>(run: &'a Run, actor: &'a str, what: &'a str) -> impl Iterator<Item = &'a Event> {
    run.events.iter().filter(move |event| event.actor == actor && event.what == what)
}

/// Position of the first event of one actor with this text.
#[track_caller]
fn first(run: &Run, actor: &str, what: &str) -> usize {
    let found = run.events.iter().position(|event| event.actor == actor && event.what == what);
    found.unwrap_or_else(|| panic!("{actor} never: {what}"))
}

#[test]
fn signal_interrupts_the_system_call_and_is_judged_there() {
    in_child("parked_syscall::signal_interrupts_the_system_call_and_is_judged_there", "", |_| {
        let mut harness = harness(&[]);
        // By itself, by another, right after another signal, from another's system call.
        let text = "m1 g1 call small*2; syscall; signal; signal\n\
                    m2 g2 call tiny\n\
                    m1 signal; signal\n\
                    m2 syscall\n\
                    m1 signal\n\
                    m2 signal\n\
                    m1 resume\n\
                    m2 signal; resume";
        let run = run_clean(&mut harness, &schedule(text), true);
        let counts = run.counts;
        assert_eq!((counts.signals, counts.interrupted_calls, counts.tracebacks), (7, 7, 7));
        assert_eq!(counts.interrupted[usize::from(CodeClass::Stub.code()) - 1], 7);
        for (actor, times, sp) in [("m1", 5, "top-248"), ("m2", 2, "top-104")] {
            let signals: Vec<&Event> = events(&run, actor, "SIGPROF").collect();
            assert_eq!(signals.len(), times, "{actor}");
            for signal in signals {
                assert_eq!((&*signal.pc, &*signal.sp), (&*in_the_kernel(), sp), "{actor}");
            }
        }
        String::new()
    });
}

#[test]
fn system_call_can_be_made_from_every_kind_of_frame() {
    in_child("parked_syscall::system_call_can_be_made_from_every_kind_of_frame", "", |_| {
        let mut harness = harness(&[]);
        let kinds = FuncId::ALL.iter().filter(|f| f.is_callable() && !matches!(f, FuncId::Leaf));
        let frames = kinds.filter(|&&f| f != FuncId::Nosplit).map(|kind| format!("call {kind}"));
        // In a deferred call of a return, of a panic, of an exit, and once it has recovered.
        let deferred = ["ret", "panic", "exit", "panic; recover"].map(|op| format!("call deferring; {op}"));
        for way in frames.chain(deferred).chain([String::new()]) {
            let text = format!(
                "every_frame\ntrace\nm1 g1 {way}; syscall\ngc mark; scan g1\nm1 signal\n\
                 gc term\nm1 resume; signal; ret 8"
            );
            let run = run_clean(&mut harness, &schedule(&text), true);
            assert_eq!((run.counts.interrupted_calls, run.counts.events), (1, 2), "{text}");
            assert!(first(&run, "m1", "syscall.entered") < first(&run, "gc", "scan.begin"), "{text}");
            assert!(first(&run, "gc", "scan.done") < first(&run, "m1", "syscall.returned"), "{text}");
        }
        String::new()
    });
}

#[test]
fn collector_scans_a_goroutine_that_sleeps_in_the_kernel() {
    in_child("parked_syscall::collector_scans_a_goroutine_that_sleeps_in_the_kernel", "", |_| {
        let mut harness = harness(&[]);
        // Barriers are there when the signal comes, and not any more when the next one does.
        let run = run_clean(
            &mut harness,
            &schedule(
                "every_frame\nm1 g1 call small*2; syscall\ngc mark; scan g1\nm1 signal\n\
                 gc term\nm1 signal\nm1 resume; ret 2",
            ),
            true,
        );
        let installed = first(&run, "gc", "install.slot");
        let met = first(&run, "m1", "traceback.barrier");
        let removed = first(&run, "gc", "remove.done");
        let returned = first(&run, "m1", "syscall.returned");
        assert!(installed < met && met < removed && removed < returned);
        assert_eq!((run.counts.interrupted_calls, run.counts.tracebacks), (2, 2));

        // The walk is held half-way: the collector waits for its lock, and goes on after it.
        let run = run_clean(
            &mut harness,
            &schedule(
                "every_frame\nm1 g1 call small*2; syscall\ngc mark\nm1 signal @ traceback.frame:2\n\
                 gc scan g1\nm1 resume; resume; ret 2",
            ),
            true,
        );
        let waits = first(&run, "gc", "waits for the stack lock");
        assert!(waits < first(&run, "m1", "sample: right"));
        assert!(first(&run, "m1", "sample: right") < first(&run, "gc", "install.slot"));

        // The collector is held half-way: there is no walk, for that reason.
        let run = run_clean(
            &mut harness,
            &schedule(
                "every_frame\nm1 g1 call small*2; syscall\ngc mark; scan g1 @ install.slot\n\
                 m1 signal; resume\ngc resume\nm1 ret 2",
            ),
            true,
        );
        let skipped = &run.events[first(&run, "m1", "sample: lock-held")];
        assert_eq!((&*skipped.pc, &*skipped.lock), (&*in_the_kernel(), "gc: install"));
        // It is back from the kernel, and has to wait for the collector to let go.
        assert!(first(&run, "m1", "syscall.returned") < first(&run, "m1", "waits for the scan bit"));
        String::new()
    });
}

#[test]
fn thread_held_on_its_way_back_from_the_kernel_is_deterministic() {
    const NAME: &str = "parked_syscall::thread_held_on_its_way_back_from_the_kernel_is_deterministic";
    let said = in_child(NAME, "", |_| {
        let mut harness = harness(&[]);
        let all = boundaries::all(&harness);
        let functions = [FuncId::Syscall, FuncId::SwitchIn, FuncId::SwitchOut, FuncId::Small];
        let mut held = 0;
        for boundary in functions.iter().flat_map(|&f| boundaries::of(&all, f)) {
            for hit in [1, 2, 5] {
                // M1 sleeps or is about to, as M2 is held in the very loop that leads there.
                let here = boundary.stop(hit);
                let text = format!(
                    "m1 g1 call small; syscall\nm2 g2 call small; syscall; resume {here}\n\
                     m1 signal; signal\nm2 resume; syscall\nm1 signal\nm2 signal\n\
                     m1 resume {here}\nm2 signal\nm1 signal; resume; ret\nm2 resume {here}\nm2 signal; ret"
                );
                let schedule = schedule(&text);
                let run = run_clean(&mut harness, &schedule, true);
                held += run.events.iter().filter(|event| event.what.starts_with("held ")).count();
                for _ in 0..20 {
                    let again = run_clean(&mut harness, &schedule, true);
                    assert_eq!((again.trace_hash, again.counts), (run.trace_hash, run.counts), "{text}");
                }
            }
        }
        assert!(held > 100, "{held}");
        format!("held {held} times")
    });
    println!("{said}");
}

#[test]
fn wrong_row_at_the_return_from_the_kernel_is_noticed() {
    in_child("parked_syscall::wrong_row_at_the_return_from_the_kernel_is_noticed", "", |_| {
        let mut harness = harness(&[]);
        // SAFETY: every thread waits, and this process is for this alone.
        unsafe { corrupt(info(FuncId::Syscall).landing, 8) };
        let text = "m1 g1 call small; syscall\nm2 g2 call small; signal\nm1 signal";
        let run = harness.run(&schedule(text), true);
        let finding = run.finding.as_ref().expect("a wrong traceback");
        assert_eq!(run.verdict(), Some(Verdict::BadTraceback), "{}", describe(finding));
        assert_eq!((run.counts.tracebacks, finding.step), (1, 6));
        String::new()
    });
}

#[test]
fn system_calls_are_traced_only_with_the_trace_option() {
    in_child("parked_syscall::system_calls_are_traced_only_with_the_trace_option", "", |_| {
        let mut harness = harness(&[]);
        let text = "m1 g1 call small*2; syscall; resume; syscall @ trace.begin\n\
                    m1 signal; resume; resume @ trace.event\ngc mark\nm1 signal; resume; ret 8";
        let run = run_clean(&mut harness, &schedule(text), true);
        assert_eq!((run.counts.events, events(&run, "m1", "trace.event").count()), (0, 0));

        let run = run_clean(&mut harness, &schedule(&format!("trace\n{text}")), true);
        assert_eq!((run.counts.events, events(&run, "m1", "trace.event").count()), (4, 4));
        // The tracer's own thread is interrupted in it: the lock is a reason that was true.
        assert_eq!(events(&run, "m1", "sample: lock-held").count(), 2);
        assert!(events(&run, "m1", "sample: lock-held").all(|event| event.lock == "m1: trace"));
        for (index, event) in events(&run, "m1", "trace.event").enumerate() {
            let saved = info(FuncId::Syscall);
            let pc = [saved.after_next_op, saved.after_morestack][index % 2] - saved.start;
            assert_eq!(event.pc, format!("syscall+{pc:#x}"));
        }
        String::new()
    });
}
