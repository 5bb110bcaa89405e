//! Without their features, scheduling points and planted defects are gone: the stack lock has
//! the same instructions as one that was written without them.
//!
//! `cargo test --release -p sigstorm-runtime --test compiled_out` compares; with the features
//! it shows that the comparison can fail.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};
use sigstorm_runtime::instrument::bench_api::plain;
use sigstorm_runtime::sched::g::G;
use sigstorm_runtime::stack::lock::{self, Operation, Owner};
use sigstorm_runtime::{Config, M, Runtime};

/// More bytes than any of these functions has.
const LIMIT: usize = 4096;

type Lock = extern "C" fn(&'static M, &'static G);
type Try = extern "C" fn(&'static M, &'static G, &mut Option<Owner>);

#[inline(never)]
extern "C" fn lock_and_unlock(m: &'static M, g: &'static G) {
    drop(lock::lock(m, g, Operation::Install));
}

#[inline(never)]
extern "C" fn plain_lock_and_unlock(m: &'static M, g: &'static G) {
    drop(plain::lock(m, g, Operation::Install));
}

#[inline(never)]
extern "C" fn try_and_unlock(m: &'static M, g: &'static G, holder: &mut Option<Owner>) {
    *holder = lock::try_lock(m, g, Operation::Walk).err();
}

#[inline(never)]
extern "C" fn plain_try_and_unlock(m: &'static M, g: &'static G, holder: &mut Option<Owner>) {
    *holder = plain::try_lock(m, g, Operation::Walk).err();
}

/// Returns a function's instructions, up to the last one that a jump within it reaches.
fn instructions(start: u64) -> Vec<Instruction> {
    // SAFETY: the program's own code, of which more follows; it is only looked at. A function
    // at the very end of it is shorter than the test's own code behind it.
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, LIMIT) };
    let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
    let (mut found, mut reached) = (Vec::new(), start);
    loop {
        let instruction = decoder.decode();
        assert!(!instruction.is_invalid() && decoder.can_decode(), "the function has no end");
        found.push(instruction);
        let flow = instruction.flow_control();
        if instruction.op0_kind() == OpKind::NearBranch64 && flow != FlowControl::Call {
            let target = instruction.near_branch_target();
            // A jump further away than this leaves the function.
            if target > start && target < start + LIMIT as u64 && flow == FlowControl::ConditionalBranch {
                reached = reached.max(target);
            }
        }
        let ends = matches!(
            flow,
            FlowControl::Return
                | FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Exception
        );
        if ends && instruction.next_ip() > reached {
            return found;
        }
    }
}

/// An instruction without the place that it stands at: jumps within the function by distance,
/// everything else that is relative by where it goes.
fn normal(instruction: &Instruction, start: u64) -> String {
    let mut text = format!("{:?} {:?}", instruction.code(), instruction.op_kinds().collect::<Vec<_>>());
    for operand in 0..instruction.op_count() {
        text += &match instruction.op_kind(operand) {
            OpKind::Register => format!(" {:?}", instruction.op_register(operand)),
            OpKind::NearBranch64 => {
                let target = instruction.near_branch_target();
                match target.checked_sub(start).filter(|offset| *offset < LIMIT as u64) {
                    Some(offset) if instruction.flow_control() != FlowControl::Call => {
                        format!(" +{offset:#x}")
                    }
                    _ => format!(" {target:#x}"),
                }
            }
            OpKind::Memory => format!(
                " [{:?} {:?}*{} {:#x}]",
                instruction.memory_base(),
                instruction.memory_index(),
                instruction.memory_index_scale(),
                instruction.memory_displacement64()
            ),
            _ => format!(" {:#x}", instruction.immediate(operand)),
        };
    }
    text
}

/// Returns the parts of a function. The compiler may have merged two that are the same, so one
/// that is nothing but a jump to another is that other one.
fn code(function: usize) -> Vec<String> {
    let mut start = function as u64;
    let mut found = instructions(start);
    if found.len() == 1 && found[0].op0_kind() == OpKind::NearBranch64 {
        start = found[0].near_branch_target();
        found = instructions(start);
    }
    found.iter().map(|instruction| normal(instruction, start)).collect()
}

/// The real and the plain one of both operations, in instructions. They also are run, so that
/// what is compared is what works.
fn pairs() -> [(Vec<String>, Vec<String>); 2] {
    let runtime = Runtime::leak(Config::default()).expect("the default configuration is valid");
    let [m, other] = [0, 1].map(|id| M::leak(runtime, id));
    let g = &runtime.goroutines()[0];
    let locks: [Lock; 2] = [lock_and_unlock, plain_lock_and_unlock];
    let tries: [Try; 2] = [try_and_unlock, plain_try_and_unlock];
    for (lock_it, try_it) in locks.into_iter().zip(tries) {
        let mut holder = None;
        lock_it(m, g);
        try_it(m, g, &mut holder);
        assert_eq!((holder, g.lock.owner(), m.holds_no_lock()), (None, None, true));
        let guard = lock::lock(other, g, Operation::Copystack);
        try_it(m, g, &mut holder);
        assert_eq!(holder, Some(Owner { machine: 1, operation: Operation::Copystack }));
        drop(guard);
    }
    [locks.map(|f| code(f as usize)), tries.map(|f| code(f as usize))].map(|[real, plain]| (real, plain))
}

#[test]
#[cfg(not(any(feature = "points", feature = "defects")))]
#[cfg_attr(debug_assertions, ignore = "it compares optimised code: run it with --release")]
fn lock_without_features_has_the_same_instructions_as_the_plain_one() {
    for (real, plain) in pairs() {
        assert!(real.len() > 5, "a lock is more than that: {real:#?}");
        assert!(real.iter().any(|text| text.contains("Cmpxchg")), "an exchange is in it: {real:#?}");
        assert_eq!(real, plain);
    }
}

#[test]
#[cfg(any(feature = "points", feature = "defects"))]
fn lock_with_features_has_other_instructions() {
    for (real, plain) in pairs() {
        assert_ne!(real, plain);
    }
}
