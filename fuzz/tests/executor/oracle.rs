//! The oracle is not blind: what is wrong in a core that lies to it shows.
//!
//! The shadow stack reads neither the function table nor a barrier list, so a wrong row or a
//! wrong entry must give a wrong traceback; and a lock that is held for nothing is no
//! reason to skip.

use std::thread;

use sigstorm::outcome::Verdict;
use sigstorm_inject::Trap;
use sigstorm_runtime::stack::lock::{Operation, Owner};
use sigstorm_runtime::unwind::functab::{Table, corrupt, info};
use sigstorm_runtime::{FuncId, M};

use crate::boundaries::{self, Boundary};
use crate::common::{describe, harness, in_child, schedule};
use crate::stepping::{step_through, stepped, tour};

/// Why a wrong delta at this instruction changes nothing: no walk uses it.
fn unused(all: &[Boundary], boundary: &Boundary) -> Option<&'static str> {
    match boundary.function {
        FuncId::Leaf => Some("it has no row"),
        FuncId::SwitchIn => Some("the walk starts from the saved state"),
        FuncId::Trampoline => Some("the walk acts as if it had finished"),
        FuncId::SwitchOut if boundary.address() >= info(FuncId::SwitchOut).landing => {
            Some("SP is the thread's own")
        }
        _ => boundaries::dead(all, boundary),
    }
}

/// Runs the tour with one row wrong; the first verdict.
fn with_a_wrong_row(argument: &str) -> String {
    let mut harness = stepped(|_| true);
    let all = boundaries::all(&harness);
    let boundary = all[argument.parse::<usize>().expect("an index")];
    if let Some(reason) = unused(&all, &boundary) {
        return format!("silent: {reason}");
    }
    // SAFETY: every thread waits, and this process is for this alone.
    unsafe { corrupt(boundary.address(), 8) };
    // Schedules that name the function, or what leads to it, come first.
    let word = match boundary.function {
        FuncId::Gopanic => "panic",
        FuncId::Goexit => "exit",
        function => function.name(),
    };
    let mut tour = tour();
    tour.sort_by_key(|schedule| !schedule.to_text().contains(word));
    for schedule in tour {
        let run = step_through(&mut harness, &schedule);
        if let Some(verdict) = run.verdict() {
            return verdict.name().to_owned();
        }
    }
    panic!("a wrong row at {boundary} is not noticed")
}

#[test]
fn wrong_row_of_the_function_table_is_noticed_at_every_instruction() {
    const NAME: &str = "oracle::wrong_row_of_the_function_table_is_noticed_at_every_instruction";
    if std::env::var_os("SIGSTORM_TEST_ARGUMENT").is_some() {
        in_child(NAME, "", with_a_wrong_row);
    }
    let all = boundaries::all(&harness(&[]));
    let try_all = |first: usize| {
        let verdicts = (first..all.len()).step_by(2).map(|index| {
            let verdict = in_child(NAME, &index.to_string(), with_a_wrong_row);
            let boundary = &all[index];
            let expected = [Verdict::BadTraceback.name(), Verdict::Fault.name()];
            let silent = unused(&all, boundary).is_some();
            assert!(silent || expected.contains(&verdict.as_str()), "{boundary}: {verdict}");
            assert_eq!(silent, verdict.starts_with("silent"), "{boundary}: {verdict}");
            usize::from(!silent)
        });
        verdicts.sum::<usize>()
    };
    let noticed: usize = thread::scope(|scope| {
        let halves = [scope.spawn(|| try_all(0)), scope.spawn(|| try_all(1))];
        halves.into_iter().map(|half| half.join().expect("both halves pass")).sum()
    });
    println!("{noticed} wrong rows noticed, of {} instructions", all.len());
    assert!(noticed > 200, "{noticed}");
}

/// In every frame a barrier, and a thread that is stepped through returns into them.
const WITH_BARRIERS: &str =
    "every_frame\nm1 g1 call small*4; syscall\ngc mark; scan g1\nm1 resume; ret 2; call small; ret 2";

/// Steps through a schedule while `each` meddles with the core, and gives the verdict.
fn meddled(text: &str, each: fn(&mut Trap<'_>) -> bool) -> String {
    let mut harness = stepped(each);
    let run = step_through(&mut harness, &schedule(text));
    let Some(finding) = &run.finding else { return "nothing".to_owned() };
    eprintln!("{}", describe(finding));
    finding.verdict.clone()
}

/// Takes the stack lock of goroutine `index` for nothing, unless it is held.
fn lock_for_nothing(index: usize, owner: Owner) {
    let lock = M::of_thread().map(|m| &m.runtime.goroutines()[index].lock);
    if let Some(lock) = lock.filter(|lock| lock.owner().is_none()) {
        lock.try_acquire(owner).expect("a free lock, and the baton");
    }
}

#[test]
fn untampered_runtime_gives_no_verdict() {
    let verdict =
        in_child("oracle::untampered_runtime_gives_no_verdict", "", |_| meddled(WITH_BARRIERS, |_| true));
    assert_eq!(verdict, "nothing");
}

/// Makes the entry after the next wrong: another return address.
fn redirect(pc: usize) {
    if let Some(g) = M::of_thread().and_then(M::current)
        && g.barriers.pending() > 1
    {
        // SAFETY: the thread stands in its trap handler; this process is for it alone.
        unsafe { g.barriers.corrupt(g.barriers.position() + 1, pc) };
    }
}

#[test]
fn barrier_entry_that_stops_every_walk_is_noticed() {
    let verdict = in_child("oracle::barrier_entry_that_stops_every_walk_is_noticed", "", |_| {
        meddled(WITH_BARRIERS, |_| {
            redirect(info(FuncId::Huge).after_call);
            true
        })
    });
    assert_eq!(verdict, Verdict::BadTraceback.name());
}

// The next four are walks that succeed: only the shadow stack knows better.

#[test]
fn barrier_entry_with_another_return_address_is_noticed() {
    let verdict = in_child("oracle::barrier_entry_with_another_return_address_is_noticed", "", |_| {
        meddled(WITH_BARRIERS, |_| {
            redirect(info(FuncId::Small).after_next_op);
            true
        })
    });
    assert_eq!(verdict, Verdict::BadTraceback.name());
}

#[test]
fn another_return_address_in_a_frame_is_noticed() {
    let verdict = in_child("oracle::another_return_address_in_a_frame_is_noticed", "", |_| {
        meddled("m1 g1 call small; call tiny; ret", |trap| {
            if trap.pc() == info(FuncId::Tiny).start {
                // SAFETY: the return slot, at the callee's first instruction.
                unsafe { (trap.sp() as *mut usize).write(info(FuncId::Small).after_next_op) };
            }
            true
        })
    });
    assert_eq!(verdict, Verdict::BadTraceback.name());
}

/// The verdict on a walk of nothing but `small` frames that leaves out the second.
fn leaving_one_out(text: &str) -> String {
    let mut harness = harness(&[]);
    let small = info(FuncId::Small);
    let delta = small.size + 8;
    assert_eq!(Table::get().row(small.after_next_op).delta(), delta);
    let leaves_one_out = delta ^ (delta + small.size + 16);
    // SAFETY: every thread waits, and this process is for this alone.
    unsafe { corrupt(small.after_next_op, leaves_one_out as u16) };
    let finding = harness.run(&schedule(text), false).finding.expect("a finding");
    assert!(finding.summary.contains("not the right ones"), "{}", describe(&finding));
    finding.verdict
}

#[test]
fn row_that_leaves_out_a_frame_is_noticed() {
    let verdict = in_child("oracle::row_that_leaves_out_a_frame_is_noticed", "", |_| {
        leaving_one_out("m1 g1 call small*4; signal")
    });
    assert_eq!(verdict, Verdict::BadTraceback.name());
}

#[test]
fn left_out_frame_is_noticed_by_sp_alone_beyond_the_depth_limit() {
    let verdict =
        in_child("oracle::left_out_frame_is_noticed_by_sp_alone_beyond_the_depth_limit", "", |_| {
            // Deeper than a sample: as many frames as there should be, and every PC is right.
            leaving_one_out(&format!("m1 g1 call small; {}signal", "call small*8; ".repeat(9)))
        });
    assert_eq!(verdict, Verdict::BadTraceback.name());
}

#[test]
fn lock_held_for_no_operation_is_no_reason_to_skip() {
    let verdict = in_child("oracle::lock_held_for_no_operation_is_no_reason_to_skip", "", |_| {
        // As in a core that always skips: the handler finds its own goroutine's lock held.
        meddled(WITH_BARRIERS, |_| {
            lock_for_nothing(0, Owner { machine: 0, operation: Operation::Install });
            true
        })
    });
    assert_eq!(verdict, Verdict::UnjustifiedSkip.name());
}

#[test]
fn lock_that_names_another_machine_is_no_reason_to_skip() {
    let verdict = in_child("oracle::lock_that_names_another_machine_is_no_reason_to_skip", "", |_| {
        meddled(WITH_BARRIERS, |_| {
            lock_for_nothing(0, Owner { machine: 1, operation: Operation::Copystack });
            true
        })
    });
    assert_eq!(verdict, Verdict::UnjustifiedSkip.name());
}

#[test]
fn lock_that_is_never_released_is_a_deadlock() {
    let verdict = in_child("oracle::lock_that_is_never_released_is_a_deadlock", "", |_| {
        // Without signals, so that the end of the goroutine is the first to want it.
        meddled("m1 g1 call small; ret 2", |_| {
            lock_for_nothing(0, Owner { machine: 0, operation: Operation::Install });
            false
        })
    });
    assert_eq!(verdict, Verdict::Deadlock.name());
}

#[test]
fn lock_that_is_held_at_the_end_is_a_state_leak() {
    let verdict = in_child("oracle::lock_that_is_held_at_the_end_is_a_state_leak", "", |_| {
        // A goroutine that nobody runs.
        meddled("m1 g1 call small; ret 2", |_| {
            lock_for_nothing(3, Owner { machine: 0, operation: Operation::Install });
            true
        })
    });
    assert_eq!(verdict, Verdict::StateLeak.name());
}

#[test]
fn pointer_hidden_from_the_collector_is_a_live_object_freed() {
    let verdict = in_child("oracle::pointer_hidden_from_the_collector_is_a_live_object_freed", "", |_| {
        meddled("m1 g1 call small; alloc 0; call tiny; ret\ngc mark; term", |trap| {
            if trap.pc() == info(FuncId::Tiny).start {
                // SAFETY: slot 0 of the calling frame, whose frame pointer this still is.
                unsafe { ((trap.bp() - 8) as *mut usize).write(0) };
            }
            true
        })
    });
    assert_eq!(verdict, Verdict::LiveObjectFreed.name());
}

#[test]
fn machine_thread_taken_for_a_foreign_thread_is_noticed() {
    let name = "oracle::machine_thread_taken_for_a_foreign_thread_is_noticed";
    let verdict = in_child(name, "", |_| {
        meddled(WITH_BARRIERS, |_| {
            M::forget();
            true
        })
    });
    assert_eq!(verdict, Verdict::UnjustifiedSkip.name());
}

/// The verdict where `each` meddles with the samples of the calling machine, of which it has
/// some by then.
fn with_other_samples(each: fn(&M)) -> String {
    static EACH: std::sync::OnceLock<fn(&M)> = std::sync::OnceLock::new();
    assert!(EACH.set(each).is_ok());
    meddled("m1 g1 call small; signal; signal; call tiny", |trap| {
        if trap.pc() == info(FuncId::Tiny).start {
            EACH.get().zip(M::of_thread()).into_iter().for_each(|(each, m)| each(m));
        }
        false
    })
}

#[test]
fn samples_read_behind_the_harness_are_missed() {
    let verdict = in_child("oracle::samples_read_behind_the_harness_are_missed", "", |_| {
        with_other_samples(|m| assert_eq!(m.runtime.profiler().read(|_| ()), Some(2)))
    });
    assert_eq!(verdict, Verdict::StateLeak.name());
}

#[test]
fn sample_changed_in_its_buffer_is_noticed() {
    let verdict = in_child("oracle::sample_changed_in_its_buffer_is_noticed", "", |_| {
        // By the core itself, which sums it up.
        // SAFETY: the baton is this thread's, and nobody reads.
        with_other_samples(|m| unsafe { m.runtime.profiler().corrupt(m.id, false) })
    });
    assert_eq!(verdict, Verdict::BadTraceback.name());
}

#[test]
fn sample_changed_with_its_checksum_is_noticed() {
    let verdict = in_child("oracle::sample_changed_with_its_checksum_is_noticed", "", |_| {
        // SAFETY: the baton is this thread's, and nobody reads.
        with_other_samples(|m| unsafe { m.runtime.profiler().corrupt(m.id, true) })
    });
    assert_eq!(verdict, Verdict::BadTraceback.name());
}

#[test]
fn signal_that_no_step_sent_is_a_harness_error() {
    let verdict = in_child("oracle::signal_that_no_step_sent_is_a_harness_error", "", |_| {
        with_other_samples(|_| {
            sigstorm_inject::tgkill(sigstorm_inject::gettid(), libc::SIGPROF).expect("a signal");
        })
    });
    assert_eq!(verdict, Verdict::HarnessError.name());
}
