//! The profiler's steps: timers and the rate's lock, buffers and their reader, a thread that
//! becomes a machine and ceases to be one; and that every signal is accounted for.

use sigstorm::outcome::{Counts, Run};
use sigstorm_runtime::profiler::SkipReason;

use crate::common::{harness, in_child, run_clean, schedule};

/// A schedule and what it must come to.
type Case<'a> = (&'a str, &'a dyn Fn(&Run));

/// Runs each of these schedules and holds it to what it must come to.
fn all(cases: &[Case<'_>]) -> String {
    let mut harness = harness(&[]);
    for (text, holds) in cases {
        let run = run_clean(&mut harness, &schedule(text), true);
        let Counts { sent, signals, coalesced, .. } = run.counts;
        assert_eq!(run.counts.accounted(), sent, "{text}\n{:?}", run.counts);
        assert_eq!(signals + coalesced, sent, "{text}");
        holds(&run);
    }
    String::new()
}

/// How often an actor's event occurs.
fn times(run: &Run, actor: &str, what: &str) -> usize {
    run.events.iter().filter(|e| e.actor == actor && e.what == what).count()
}

fn skips(run: &Run, skip: SkipReason) -> u64 {
    run.counts.skips[usize::from(skip.code()) - 1]
}

/// The counts of tracebacks and of samples without a goroutine that were read.
fn read(run: &Run) -> (u64, u64) {
    (run.counts.read_tracebacks, run.counts.read_alone)
}

#[test]
fn full_buffer_drops_samples_and_counts_them() {
    in_child("profiler::full_buffer_drops_samples_and_counts_them", "", |_| {
        all(&[
            ("m1 g1 call small; signal; signal; signal", &|run| {
                assert_eq!((read(run), run.counts.dropped), ((3, 0), 0), "the end of a run reads, too");
            }),
            (
                "buffer 2\nm1 g1 call small; signal; signal; signal; signal\next read\nm1 signal\ngc read",
                &|run| {
                    assert_eq!((read(run), run.counts.dropped, run.counts.sent), ((3, 0), 2, 5));
                },
            ),
            ("buffer 1\nm1 g1 call small; signal\nm2 g2; signal; signal\ngc signal; signal", &|run| {
                assert_eq!((read(run), run.counts.dropped), ((2, 1), 2), "each machine has its own");
            }),
            // Whatever became of the walk, the sample is kept.
            (
                "buffer 1\nm1 g1 call large @ lock.release; signal\ngc mark; scan g1\nm1 resume; signal",
                &|run| {
                    assert_eq!(run.counts.sent, run.counts.signals);
                },
            ),
        ])
    });
}

#[test]
fn reader_and_handler_meet_in_a_buffer() {
    in_child("profiler::reader_and_handler_meet_in_a_buffer", "", |_| {
        all(&[
            // A sample that is being copied out still takes its place.
            (
                "buffer 1\nm1 g1 call small; signal\next read @ sample.copied\nm1 signal\next resume\n\
                 m1 signal\ngc read",
                &|run| assert_eq!((read(run), run.counts.dropped), ((2, 0), 1)),
            ),
            // A sample that is being written is not there yet.
            ("m1 g1 call small; signal; signal @ sample.written\next read\nm1 resume\ngc read", &|run| {
                assert_eq!((read(run), run.counts.dropped), ((2, 0), 0));
                assert_eq!((times(run, "ext", "sample.copied"), times(run, "gc", "sample.copied")), (1, 1));
            }),
            // A handler that interrupts the reader of its own buffer.
            ("buffer 2\ngc signal; read @ sample.copied; signal; signal; resume", &|run| {
                assert_eq!((read(run), run.counts.dropped), ((0, 2), 1));
                assert_eq!(times(run, "gc", "sample.copied"), 2, "it reads what came meanwhile");
            }),
            // While one reads, another does not; and with nothing there is nothing to do.
            ("m1 g1 signal\next read @ sample.copied\ngc read\next resume", &|run| {
                assert_eq!((times(run, "gc", "read"), times(run, "ext", "read")), (0, 1));
            }),
            ("m1 g1 call small\next read\ngc read", &|run| {
                assert_eq!((times(run, "gc", "read"), times(run, "ext", "read")), (0, 0));
            }),
        ])
    });
}

#[test]
fn handler_waits_for_the_rate_lock_and_gets_it() {
    in_child("profiler::handler_waits_for_the_rate_lock_and_gets_it", "", |_| {
        const WAITS: &str = "waits for the profiling rate's lock";
        let mut harness = harness(&[]);
        for who in ["m2", "gc", "ext"] {
            for place in ["rate.locked", "rate.changed", "rate.release"] {
                let text = format!(
                    "m1 g1 call small\n{who} hz 500 @ {place}\nm1 signal; resume\n{who} resume\nm1 resume; signal"
                );
                let run = run_clean(&mut harness, &schedule(&text), true);
                assert_eq!(times(&run, "m1", WAITS), 1, "{text}");
                assert_eq!((run.counts.tracebacks, read(&run)), (2, (2, 0)), "{text}");
            }
            // Before it has the lock, and after it has given it back, nobody waits.
            for place in ["timer.disarmed", "timer.set"] {
                let text = format!("m1 g1 call small\n{who} hz 500 @ {place}\nm1 signal");
                assert_eq!(times(&run_clean(&mut harness, &schedule(&text), true), "m1", WAITS), 0, "{text}");
            }
        }
        // A thread that changes the rate waits for a handler, too.
        let text = "m1 g1 call small; signal @ rate.locked\nm2 hz 500\nm1 resume\nm2 resume; signal";
        let run = run_clean(&mut harness, &schedule(text), true);
        assert_eq!((times(&run, "m2", WAITS), run.counts.tracebacks, run.counts.alone), (1, 1, 1));
        String::new()
    });
}

#[test]
fn thread_that_changes_the_rate_gets_no_signal_meanwhile() {
    in_child("profiler::thread_that_changes_the_rate_gets_no_signal_meanwhile", "", |_| {
        let mut harness = harness(&[]);
        for (place, sent) in [
            ("timer.disarmed", 1),
            ("rate.locked", 1),
            ("rate.changed", 1),
            ("rate.release", 1),
            ("timer.set", 2),
        ] {
            let text = format!("m1 g1 call small; hz 500 @ {place}; signal; resume; signal");
            let run = run_clean(&mut harness, &schedule(&text), true);
            assert_eq!((run.counts.sent, run.counts.tracebacks), (sent, sent), "{text}");
        }
        String::new()
    });
}

#[test]
fn other_machines_follow_a_changed_rate_late() {
    in_child("profiler::other_machines_follow_a_changed_rate_late", "", |_| {
        all(&[
            // Still armed, it finds that profiling is off; from its next operation on it is not.
            ("m1 g1 call small\nm2 rate off\nm1 signal; call small; signal", &|run| {
                assert_eq!((run.counts.sent, skips(run, SkipReason::ProfilerOff)), (1, 1));
                assert_eq!((times(run, "m1", "timer.set"), read(run)), (1, (0, 0)));
            }),
            ("m2 rate off\nm1 g1 call small\next rate on\nm1 signal; call small; signal", &|run| {
                assert_eq!((run.counts.sent, run.counts.tracebacks), (1, 1));
                assert_eq!(times(run, "m1", "timer.set"), 2);
            }),
            ("m1 rate off\ngc mark; signal\nm2 rate on\ngc signal; scan g1; term; signal", &|run| {
                assert_eq!((times(run, "gc", "timer.set"), run.counts.alone), (2, 1));
            }),
            // The handler has seen the old rate, and then it is changed: the sample is worth that.
            ("m1 g1 call small; signal @ rate.release\nm2 rate off\nm1 resume\nm2 resume", &|run| {
                assert_eq!((run.counts.tracebacks, read(run)), (1, (1, 0)));
            }),
            ("m1 hz 1000; hz 1000\ngc hz 250; hz 100", &|run| {
                assert_eq!(times(run, "m1", "hz 1000"), 1, "it is so already");
                assert_eq!(times(run, "gc", "rate.changed"), 2);
            }),
        ])
    });
}

#[test]
fn signals_sent_while_one_is_pending_are_coalesced() {
    in_child("profiler::signals_sent_while_one_is_pending_are_coalesced", "", |_| {
        all(&[
            ("m1 g1 call small; signal @ traceback.frame; pend; resume", &|run| {
                assert_eq!((run.counts.sent, run.counts.coalesced, run.counts.tracebacks), (2, 0, 2));
            }),
            ("m1 g1 call small; signal @ traceback.frame; pend; pend; pend; resume", &|run| {
                assert_eq!((run.counts.sent, run.counts.coalesced, run.counts.tracebacks), (4, 2, 2));
            }),
            // At an instruction: it arrives there, too, before that has run.
            ("m1 g1 call small @ small#3; signal @ traceback.done; pend; resume; resume", &|run| {
                let at = |e: &&sigstorm::outcome::Event| e.what == "sample: right";
                let places: Vec<&str> = run.events.iter().filter(at).map(|e| e.pc.as_str()).collect();
                assert_eq!(places.len(), 2);
                assert!(places[0] == places[1] && places[0].starts_with("small+"), "{places:?}");
            }),
            // In a handler whose beginning the executor does not see: the thread has no machine.
            ("ext signal @ handler.end; pend; pend; resume", &|run| {
                assert_eq!((run.counts.sent, run.counts.coalesced), (3, 1));
                assert_eq!(skips(run, SkipReason::ForeignThread), 2);
            }),
            // Outside of a handler nothing masks it.
            ("m1 g1 call small; pend\nm2 pend\ngc pend\next pend", &|run| {
                assert_eq!(run.counts.sent, 0);
            }),
        ])
    });
}

#[test]
fn signals_arrive_before_during_and_after_a_machines_life() {
    in_child("profiler::signals_arrive_before_during_and_after_a_machines_life", "", |_| {
        all(&[
            ("ext signal; attach; signal; signal; detach; signal", &|run| {
                assert_eq!(
                    (run.counts.sent, skips(run, SkipReason::ForeignThread), read(run)),
                    (4, 2, (0, 2))
                );
            }),
            // Neither as it has just become one nor as it is about to cease is a timer armed.
            ("ext attach @ machine.bound; signal; resume; detach @ timer.disarmed; signal; resume", &|run| {
                assert_eq!(run.counts.sent, 0);
            }),
            ("ext attach @ timer.set; signal; resume; detach @ machine.bound; signal; resume", &|run| {
                assert_eq!((run.counts.alone, skips(run, SkipReason::ForeignThread)), (1, 1));
            }),
            ("ext detach; attach; attach; detach; detach", &|run| {
                assert_eq!((times(run, "ext", "attach"), times(run, "ext", "detach")), (1, 1));
            }),
            // It changes the rate like any machine, and reads its own samples.
            (
                "ext attach; hz 500 @ rate.locked; signal; resume; signal; read @ sample.copied; signal",
                &|run| {
                    assert_eq!((run.counts.sent, read(run)), (2, (0, 2)));
                },
            ),
            ("m1 rate off\next attach; signal; rate on; signal", &|run| {
                assert_eq!((run.counts.sent, read(run)), (1, (0, 1)));
            }),
            // Nobody who stops the world waits for it.
            ("m1 g1 call small; alloc 0\next attach @ timer.set\ngc mark; term; sweep", &|run| {
                assert!(!run.events.iter().any(|e| e.what.contains("safepoint")), "{:?}", run.events);
                assert_eq!(times(run, "gc", "sweep"), 1);
            }),
        ])
    });
}
