//! Stacks that are damaged, or made up: a walk ends, and says why.

use sigstorm_inject::remote::{End, Lost, Stack};

use crate::stacks::{Kind, Run};

/// The stack at the entry of `marker` with other values for PC, SP and RBP.
fn with(run: &mut Run, pc: Option<u64>, sp: u64, rbp: u64) -> Stack {
    let pid = run.victim.pid();
    let original = *run.victim.tracer.registers(pid).expect("held");
    let mut regs = original;
    (regs.0.rsp, regs.0.rbp) = (sp, rbp);
    regs.0.rip = pc.unwrap_or(regs.0.rip);
    run.victim.tracer.set_registers(pid, regs).expect("held");
    let stack = run.victim.tracer.stack(&run.symbols, pid, usize::MAX).expect("held");
    run.victim.tracer.set_registers(pid, original).expect("held");
    stack
}

#[track_caller]
fn lost(stack: &Stack) -> Lost {
    let End::Lost(lost) = stack.end else { panic!("{stack:x?}") };
    lost
}

fn fill(run: &mut Run, words: &[u64]) -> u64 {
    let (pid, at) = (run.victim.pid(), run.victim.address("words"));
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    run.victim.tracer.write(pid, at, &bytes).expect("it is mapped");
    at
}

#[test]
fn walk_from_a_false_stack_pointer_ends_where_memory_does() {
    let mut run = Run::to(Kind::Usual, &["inlined"], "marker");
    for sp in [0, 1, 0x1234, 0x8000_0000_0000, 1 << 63, u64::MAX - 3, u64::MAX - 7] {
        let stack = with(&mut run, None, sp, sp);
        assert_eq!((stack.frames.len(), lost(&stack)), (1, Lost::Unreadable { address: sp }), "{sp:#x}");
    }
}

#[test]
fn false_return_addresses_end_the_walk() {
    let mut run = Run::to(Kind::Usual, &["inlined"], "marker");
    for pc in [1, 0xdead_beef, 1 << 63, u64::MAX] {
        let sp = fill(&mut run, &[pc; 64]);
        let stack = with(&mut run, None, sp, 0);
        assert_eq!((stack.frames.len(), lost(&stack)), (1, Lost::NotCode { pc }));
    }
    // The stack's own address is no code.
    let at = run.victim.address("words");
    let sp = fill(&mut run, &[at; 64]);
    assert_eq!(lost(&with(&mut run, None, sp, sp)), Lost::NotCode { pc: at });
}

#[test]
fn stack_that_calls_itself_for_ever_ends_with_its_memory() {
    let mut run = Run::to(Kind::Usual, &["inlined"], "marker");
    let caller = run.stack(run.victim.pid()).frames[1].pc;
    let mut words = [caller; 2048];
    words[2046..].fill(1);
    let sp = fill(&mut run, &words);
    let stack = with(&mut run, None, sp, 0);
    assert!((100..2048).contains(&stack.frames.len()), "{} frames", stack.frames.len());
    assert_eq!(lost(&stack), Lost::NotCode { pc: 1 });
    assert!(stack.frames.windows(2).all(|pair| pair[0].sp < pair[1].sp));
}

#[test]
fn frame_pointers_that_form_a_ring_end_the_walk() {
    let mut run = Run::to(Kind::FramePointers, &["inlined"], "marker");
    let caller = run.stack(run.victim.pid()).frames[1].pc;
    let at = run.victim.address("words");
    // Two frames that point at each other.
    let sp = fill(&mut run, &[caller, at + 32, caller, 0, at + 16, caller, at + 16, caller]);
    let stack = with(&mut run, None, sp, at + 32);
    assert!(stack.frames.len() < 5, "{stack:x?}");
    assert_eq!(lost(&stack), Lost::NoRow { pc: caller });
}

#[test]
fn signal_frames_that_form_a_ring_end_the_walk() {
    let mut run = Run::to(Kind::Usual, &["calls"], "outer");
    let pid = run.victim.pid();
    let restorer = run.victim.tracer.action(pid, libc::SIGUSR1).expect("a boundary").restorer;
    let at = run.victim.address("words");
    // PC and SP of the interrupted code are those of the restorer, with the same frame.
    let mut words = [0; 64];
    (words[5 + 15], words[5 + 16]) = (at, restorer);
    fill(&mut run, &words);
    let stack = with(&mut run, Some(restorer), at, 0);
    assert_eq!((stack.frames.len(), lost(&stack)), (2, Lost::Loop { frame: at }));
    // A frame that is cut off by the end of memory.
    let end = at + (1 << 20);
    let stack = with(&mut run, Some(restorer), end, 0);
    assert!(matches!(lost(&stack), Lost::Unreadable { .. }), "{stack:x?}");
}

#[test]
fn thread_that_is_not_held_has_no_stack() {
    let run = Run::to(Kind::Usual, &["inlined"], "marker");
    let error = run.victim.tracer.stack(&run.symbols, 1, 10).expect_err("it is not traced");
    assert!(error.to_string().contains("not held"), "{error}");
}
