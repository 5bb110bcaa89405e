//! Every byte string is a schedule, and none harms the healthy core.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use sigstorm::schedule::{MAX_STEPS, STEP_BYTES, Schedule};

use crate::common::{harness, in_child, run_clean, schedule};

#[test]
fn random_bytes_are_harmless_schedules() {
    in_child("harmless::random_bytes_are_harmless_schedules", "", |_| {
        let mut harness = harness(&[]);
        let mut rng = ChaCha8Rng::seed_from_u64(0x4a11);
        for round in 0..600 {
            let mut bytes = vec![0; rng.next_u32() as usize % 4_001];
            rng.fill_bytes(&mut bytes);
            if round % 2 == 0 {
                // Codes from the low end, where they are assigned.
                for step in bytes.chunks_mut(STEP_BYTES) {
                    step.iter_mut().take(2).for_each(|byte| *byte %= 24);
                }
            }
            run_clean(&mut harness, &Schedule::decode(&bytes), round % 3 == 0);
        }
        String::new()
    });
}

#[test]
fn longest_schedules_are_harmless() {
    in_child("harmless::longest_schedules_are_harmless", "", |_| {
        let mut harness = harness(&[]);
        for fill in 0..=255u8 {
            // The same step over and over, an end of it and beyond.
            let bytes = vec![fill; MAX_STEPS * STEP_BYTES + 13];
            let run = run_clean(&mut harness, &Schedule::decode(&bytes), false);
            assert!(run.counts.steps <= MAX_STEPS as u64);
        }
        String::new()
    });
}

/// Each once gave an alarm, nearly all false ones. A stop at an instruction is elsewhere
/// in other builds, and then these are schedules like any other.
const ALARMS: &[&str] = &[
    // A reader came to a sample that was written, and whose handler had not ended.
    "m1 signal; signal @ sigprof#157\ngc read",
    // A bulk move was held with its words moved, and another put something into the mailbox.
    "m1 call nosplit; bulk 1 @ bulk_move#141\nm2 alloc 0; send 0\ngc mark\nm1 call nosplit\ngc term\n\
     m2 alloc 0; send 0",
    // One was putting something into the mailbox while another moved that onto its stack.
    "m1 collect mark; alloc 2; send 2 @ wb.shade\nm2 call nosplit; bulk 1 @ bulk_move#143",
    "gc mark\nm2 alloc 3; send 3 @ wb.shade\nm1 call nosplit; bulk 1 @ bulk_move#147\nm2 alloc 0",
    // The goroutine to be scanned ended and was made anew while the one that had asked waited.
    "m1 call nosplit\nm2 syscall\ngc mark\nm1 park; call nosplit; panic @ gopanic#11\nm2 ref 0 = up 1 slot 0; scan g3\n\
     m1 call nosplit; scan g2 @ scan.frame\nm2 call nosplit\nm1 call nosplit; call nosplit",
    // A prologue under foreign frames answers that the goroutine is to go, and it stays.
    "m1 call deferring; foreign; callback; call deferring; foreign; foreign\ngc preempt g1",
    "m1 call deferring; signal @ rate.locked; foreign\ngc preempt g1\nm1 foreign; callback",
    "m1 call deferring; foreign; callback @ enter_callback#81\nm2 preempt g1",
    // A handler that had begun in the kernel came to a breakpoint, where that was blocked.
    "m1 syscall; signal @ sample_goroutine#147",
    // A frame looked for its deferred calls while a collector moved its stack.
    "every_frame; scan_shrinks\nm1 call deferring; panic; recover; call large; ret; call deferring\n\
     gc mark; term @ traceback.frame\nm1 ret",
    // The shadow stack did not know that a recovery continues from its landing.
    "m1 g1 call deferring; panic; recover; ret @ switch_out#0:2\nm1 signal",
    // g1 ends on one thread while another waits to start it anew, and its death went unseen.
    "every_frame\nm1 syscall; signal; signal; call tiny @ lock.release; panic @ status.changed\n\
     m2 call leaf*2; g1\ngc mark @ world.stop:2\n\
     m1 call small*2; rate on; call tiny; call small*4; call nosplit @ switch_in#21\n\
     gc resume; scan g2 @ install.entry\n\
     m1 signal @ scan.asked; signal @ handler.end; signal; signal @ traceback.done; signal\n\
     m1 signal\ngc term\nm1 signal; signal @ bulk.done\n\
     gc shrink g2; scan g3; scan g2\n\
     m2 syscall @ syscall.exited; signal @ traceback.done; signal\ngc scan g2\nm1 signal\n\
     m2 call tiny; signal; yield; rate off; call small*2; alloc 0",
];

#[test]
fn schedules_of_past_false_alarms_give_none() {
    in_child("harmless::schedules_of_past_false_alarms_give_none", "", |_| {
        let mut harness = harness(&[]);
        for text in ALARMS {
            run_clean(&mut harness, &schedule(text), true);
        }
        String::new()
    });
}

/// A stop in the loop of the system call's stub let a signal in that was on its way to the wait.
/// It takes a stop in the last instructions of the handler, which are elsewhere in each build.
#[test]
fn signal_sent_before_the_wait_in_the_kernel_arrives_in_it() {
    in_child("harmless::signal_sent_before_the_wait_in_the_kernel_arrives_in_it", "", |_| {
        let mut harness = harness(&[]);
        for index in 0..256 {
            let text = format!("m1 syscall; signal; signal @ on_sigprof#{index}; syscall @ syscall#13");
            run_clean(&mut harness, &schedule(&text), true);
        }
        String::new()
    });
}

/// Two moved the mailbox at once: one of them had begun to wait for the world before the other began.
/// It takes a stop between two words, of which no point tells.
#[test]
fn thread_that_waits_to_move_the_mailbox_is_not_overtaken() {
    in_child("harmless::thread_that_waits_to_move_the_mailbox_is_not_overtaken", "", |_| {
        let mut harness = harness(&[]);
        for index in 0..1024 {
            let text = format!(
                "m2 g2 call nosplit\nm1 g1 call tiny; alloc 0; send 0; syscall; ret; collect mark @ gc.phase\n\
                 m2 bulk 1\nm1 resume; bulk 1 @ bulk_move#{index}\nm2 resume"
            );
            run_clean(&mut harness, &schedule(&text), true);
        }
        String::new()
    });
}
