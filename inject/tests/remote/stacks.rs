//! Stacks of held threads, against what the test itself saw being called.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use sigstorm_inject::remote::symbols::Symbols;
use sigstorm_inject::remote::{End, Event, Frame, Lifetime, Lost, Sent, Stack, Via, Waited};

use crate::programs::compile_shared;
use crate::victim::Victim;

/// The functions at whose every instruction stacks are read.
const WATCHED: [&str; 5] = ["leaf", "bare", "aligned", "middle", "outer"];

const PLENTY: usize = 100;

/// A way to compile the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As distributions do.
    Usual,
    Static,
    /// `.debug_frame` is the only table.
    DebugFrame,
    /// No table, but frame pointers.
    FramePointers,
    /// The linker's stubs have no rows.
    BareStubs,
}

pub fn program(kind: Kind) -> &'static Path {
    static PROGRAMS: [OnceLock<PathBuf>; 5] = [const { OnceLock::new() }; 5];
    let no_tables = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let (name, flags) = match kind {
        Kind::Usual => ("stacks", &["-fomit-frame-pointer", "-Wl,-z,lazy"][..]),
        Kind::Static => ("stacks-static", &["-fomit-frame-pointer", "-static"][..]),
        Kind::DebugFrame => ("stacks-debug", &[no_tables[0], no_tables[1], "-fomit-frame-pointer"][..]),
        Kind::FramePointers => (
            "stacks-rbp",
            &[
                no_tables[0],
                no_tables[1],
                "-g0",
                "-fno-omit-frame-pointer",
                "-O1",
                "-fno-shrink-wrap",
                "-fno-optimize-sibling-calls",
                "-DFRAME_POINTERS",
            ][..],
        ),
        Kind::BareStubs => ("stacks-stubs", &["-Wl,-z,lazy", "-Wl,--no-ld-generated-unwind-info"][..]),
    };
    PROGRAMS[kind as usize]
        .get_or_init(|| compile_shared("stacks.c", name, &[&["-O2", "-g", "-pthread"], flags].concat()))
}

/// A run of the program, and its symbols once it has loaded its libraries.
pub struct Run {
    pub victim: Victim,
    pub symbols: Symbols,
}

impl Run {
    /// Starts the program and runs to the first instruction of `function`.
    pub fn to(kind: Kind, args: &[&str], function: &str) -> Run {
        let mut victim = Victim::launch(program(kind), args, false);
        let (pid, at) = (victim.pid(), victim.address(function));
        victim.tracer.lay(pid, [at], Lifetime::OneShot).expect("it is code");
        victim.resume();
        victim.run_to(|event| matches!(event, Event::Breakpoint { address, .. } if *address == at));
        let mut symbols = Symbols::new();
        symbols.refresh(pid).expect("it lives");
        Run { victim, symbols }
    }

    pub fn stack(&self, tid: i32) -> Stack {
        self.victim.tracer.stack(&self.symbols, tid, PLENTY).expect("it is held")
    }

    /// The functions of frames.
    pub fn names(&self, frames: &[Frame]) -> Vec<String> {
        let name = |frame: &Frame| match self.symbols.function_at(frame.lookup_address()) {
            Some(id) => self.symbols.name(id).into_owned(),
            None => self.symbols.describe(frame.lookup_address()).unwrap_or_default(),
        };
        frames.iter().map(name).collect()
    }
}

/// The frames of the watched functions: return address and CFA, the innermost last.
#[derive(Debug, Default)]
struct Shadow(Vec<(u64, u64)>);

impl Shadow {
    /// Notes that the thread is at an instruction, the first of its function or not.
    fn at(&mut self, run: &Run, is_entry: bool) {
        let pid = run.victim.pid();
        let sp = run.victim.tracer.registers(pid).expect("held").sp();
        // A tail call has left its own frame already.
        let limit = if is_entry { sp + 8 } else { sp };
        while self.0.last().is_some_and(|(_, cfa)| *cfa <= limit) {
            self.0.pop();
        }
        if is_entry {
            let ra = run.victim.tracer.read_word(pid, sp).expect("a stack");
            self.0.push((ra, sp + 8));
        }
    }

    /// Asserts that a stack has these frames, and those of the program's start below them. Returns
    /// how the frames were found.
    #[track_caller]
    fn check(&self, run: &Run, stack: &Stack, exact: bool) -> BTreeSet<u8> {
        let names = run.names(&stack.frames);
        let callers = &stack.frames[1..];
        assert!(callers.len() > self.0.len(), "{names:?}");
        for ((ra, cfa), frame) in self.0.iter().rev().zip(callers) {
            let sp = if exact { *cfa } else { frame.sp };
            assert_eq!((frame.pc, frame.sp), (*ra, sp), "{names:?} {self:x?}");
        }
        let below: Vec<&str> = names[self.0.len()..].iter().map(String::as_str).collect();
        assert_eq!(below[..2], ["play_calls", "main"], "{names:?}");
        assert_eq!((below.last(), stack.end), (Some(&"_start"), End::Root), "{names:?}");
        callers.iter().map(|frame| frame.via as u8).collect()
    }
}

/// Runs the program with a breakpoint at every instruction of the watched functions. `each` gets the
/// stack there and says whether to deliver a signal.
fn at_every_boundary(
    kind: Kind,
    args: &[&str],
    mut each: impl FnMut(&mut Run, &Shadow, Stack) -> Option<i32>,
    mut other: impl FnMut(&mut Run, &Event),
) -> usize {
    let mut run = Run::to(kind, args, "outer");
    let pid = run.victim.pid();
    let watched = WATCHED.map(|name| (run.victim.address(name), run.victim.boundaries(name)));
    let all: BTreeSet<u64> = watched.iter().flat_map(|(_, all)| all.iter().copied()).collect();
    run.victim.tracer.lay(pid, all.iter().copied(), Lifetime::Stays).expect("it is code");
    let mut shadow = Shadow::default();
    let mut reached = BTreeSet::new();
    let mut pending = Some(run.victim.address("outer"));
    loop {
        let at = match pending.take() {
            Some(at) => at,
            None => match run.victim.next() {
                Some(Event::Breakpoint { address, .. }) if all.contains(&address) => address,
                Some(event) => {
                    other(&mut run, &event);
                    // `other` may have let it go on by delivering a signal.
                    if event.held().is_some_and(|tid| run.victim.tracer.is_held(tid)) {
                        run.victim.pass(&event);
                    }
                    continue;
                }
                None => break,
            },
        };
        reached.insert(at);
        shadow.at(&run, watched.iter().any(|(start, _)| *start == at));
        let stack = run.stack(pid);
        let regs = run.victim.tracer.registers(pid).expect("held");
        assert_eq!(stack.frames[0], Frame { pc: at, sp: regs.sp(), via: Via::Registers });
        match each(&mut run, &shadow, stack) {
            Some(signal) => {
                let sent = run.victim.tracer.deliver(pid, signal, None).expect("a boundary");
                assert_eq!(sent, Sent::Delivered);
            }
            None => run.victim.resume(),
        }
    }
    assert!(run.victim.status.is_some_and(|status| status.success()), "{:?}", run.victim.status);
    assert!(reached.len() * 10 > all.len() * 8, "{} of {} boundaries", reached.len(), all.len());
    reached.len()
}

#[test]
fn stack_is_right_at_every_instruction() {
    for (kind, via) in [(Kind::Usual, Via::Table), (Kind::Static, Via::Table), (Kind::DebugFrame, Via::Table)]
    {
        let mut ways = BTreeSet::new();
        let check = |run: &mut Run, shadow: &Shadow, stack: Stack| {
            ways.append(&mut shadow.check(run, &stack, true));
            None
        };
        at_every_boundary(kind, &["calls"], check, |_, _| {});
        assert_eq!(ways, BTreeSet::from([via as u8]), "{kind:?}");
    }
}

#[test]
fn stack_is_found_by_frame_pointers_where_there_are_no_tables() {
    let mut ways = BTreeSet::new();
    let check = |run: &mut Run, shadow: &Shadow, stack: Stack| {
        // This function aligns its stack before it saves RBP.
        if run.names(&stack.frames[..1]) != ["aligned"] {
            ways.append(&mut shadow.check(run, &stack, false));
        }
        None
    };
    at_every_boundary(Kind::FramePointers, &["calls"], check, |_, _| {});
    let expected = [Via::Entry, Via::FramePointer, Via::Table].map(|via| via as u8);
    assert_eq!(ways, BTreeSet::from(expected), "the C library has tables");
}

/// The interrupted stack as it must appear below a handler's frames.
fn interrupted(stack: &Stack) -> Vec<Frame> {
    let mut frames = stack.frames.clone();
    frames[0].via = Via::Signal;
    frames
}

#[test]
fn stack_in_a_handler_ends_with_the_interrupted_one() {
    for (kind, args) in [
        (Kind::Usual, &["calls"][..]),
        (Kind::Usual, &["calls", "alternate"]),
        (Kind::Static, &["calls", "alternate"]),
        (Kind::DebugFrame, &["calls"]),
    ] {
        // The stacks that were interrupted, the outermost first.
        let stacks = std::cell::RefCell::new(Vec::<Vec<Frame>>::new());
        let mut seen = [0; 4];
        let interrupt = |run: &mut Run, _: &Shadow, stack: Stack| {
            if stacks.borrow().is_empty() {
                let (pid, marker) = (run.victim.pid(), run.victim.address("marker"));
                run.victim.tracer.lay(pid, [marker], Lifetime::Stays).expect("it is code");
            }
            *stacks.borrow_mut() = vec![interrupted(&stack)];
            Some(libc::SIGUSR1)
        };
        let check = |run: &mut Run, event: &Event| {
            let Some(tid) = event.held() else { return };
            let stack = run.stack(tid);
            let names = run.names(&stack.frames);
            let expected = stacks.borrow().last().cloned().unwrap_or_default();
            let handlers = stack.frames.len() - expected.len();
            assert_eq!(stack.frames[handlers..], expected, "{event:?} {names:?}");
            assert_eq!(stack.end, End::Root, "{names:?}");
            match event {
                Event::HandlerEntered { .. } => {
                    seen[0] += 1;
                    assert_eq!((handlers, &*names[0]), (2, "on_signal"));
                }
                Event::Breakpoint { .. } => {
                    assert_eq!(
                        (handlers, &names[..3]),
                        (4, &["marker", "handled", "on_signal"].map(String::from)[..])
                    );
                    if stacks.borrow().len() == 1 {
                        seen[1] += 1;
                        stacks.borrow_mut().push(interrupted(&stack));
                        let sent = run.victim.tracer.deliver(tid, libc::SIGUSR2, None);
                        assert_eq!(sent.expect("a boundary"), Sent::Delivered);
                    } else {
                        seen[2] += 1;
                        let signals = stack.frames.iter().filter(|frame| frame.is_interrupted());
                        assert_eq!(signals.count(), 2);
                    }
                }
                Event::HandlerReturned { .. } => {
                    seen[3] += 1;
                    assert_eq!(handlers, 1, "the restorer alone");
                    stacks.borrow_mut().pop();
                }
                other => panic!("{other:?}"),
            }
        };
        let reached = at_every_boundary(kind, args, interrupt, check);
        assert!(seen[1] >= reached && seen[0] == 2 * seen[1], "{seen:?} of {reached}");
        assert!(seen[2] == seen[1] && seen[3] == seen[0], "{seen:?}");
    }
}

#[test]
fn waiting_thread_shows_what_it_waits_in_down_to_its_start() {
    for kind in [Kind::Usual, Kind::Static] {
        let mut run = Run::to(kind, &["mutex"], "marker");
        let pid = run.victim.pid();
        let thread = |run: &Run| run.victim.tracer.threads(pid).into_iter().find(|tid| *tid != pid);
        let waits = |tid: i32| {
            let call = std::fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
            call.split(' ').next() == Some(&*libc::SYS_futex.to_string())
        };
        // It may not have run yet, or its start may be an event still to come.
        let tid = loop {
            if let Some(tid) = thread(&run).filter(|tid| waits(*tid)) {
                break tid;
            }
            let soon = Some(Duration::from_millis(10));
            match run.victim.tracer.next_event(soon).expect("no error") {
                Waited::Event(event) => run.victim.pass(&event),
                Waited::TimedOut => {}
                other => panic!("{other:?}"),
            }
        };
        run.victim.tracer.interrupt(tid).expect("it waits");
        run.victim.run_to(|event| *event == Event::Interrupted { tid });
        let stack = run.stack(tid);
        let names = run.names(&stack.frames);
        let place = |wanted: &str| {
            let found = names.iter().position(|name| name.contains(wanted));
            found.unwrap_or_else(|| panic!("no {wanted} in {names:?}"))
        };
        let lock = place("mutex_lock");
        assert!(lock <= 3, "{names:?}");
        assert_eq!(names[lock + 1..lock + 3], ["contend", "contender"], "{names:?}");
        assert_eq!(stack.end, End::Root, "{names:?}");
        assert!((lock + 4..=lock + 5).contains(&names.len()), "start_thread and clone: {names:?}");
        run.victim.resume();
        run.victim.tracer.resume(tid).expect("it is held");
        run.victim.run(|_, _| {});
        assert!(run.victim.status.is_some_and(|status| status.success()));
    }
}

/// Where a function's callees led.
#[derive(Debug, Default)]
struct Walked {
    steps: u32,
    /// How callers were found.
    ways: BTreeSet<u8>,
    functions: BTreeSet<String>,
    objects: BTreeSet<String>,
}

/// Steps from the first instruction of `function` until it has returned, and asserts that each stack
/// ends with `function` and its callers.
fn step_through(kind: Kind, args: &[&str], function: &str) -> Walked {
    let mut run = Run::to(kind, args, function);
    let pid = run.victim.pid();
    let sp = run.victim.tracer.registers(pid).expect("held").sp();
    let outside = run.stack(pid).frames[1..].to_vec();
    let mut walked = Walked::default();
    while run.victim.tracer.registers(pid).expect("held").sp() <= sp {
        let stack = run.stack(pid);
        let names = run.names(&stack.frames);
        assert_eq!(stack.end, End::Root, "step {}: {names:?}", walked.steps);
        let inside = stack.frames.len() - outside.len();
        assert_eq!(stack.frames[inside..], outside, "step {}: {names:?}", walked.steps);
        assert_eq!(names[inside - 1], function, "step {}: {names:?}", walked.steps);
        walked.ways.extend(stack.frames[1..].iter().map(|frame| frame.via as u8));
        walked.functions.insert(names[0].clone());
        let place = run.symbols.find(stack.frames[0].pc).expect("an object");
        walked.objects.insert(run.symbols.objects()[place.object].object.name());
        run.victim.tracer.step(pid).expect("held");
        run.victim.run_to(|event| matches!(event, Event::Stepped { .. }));
        walked.steps += 1;
    }
    walked
}

#[test]
fn stack_is_right_at_every_step_through_a_stub_and_the_lazy_resolver() {
    for (kind, entries) in [(Kind::Usual, false), (Kind::BareStubs, true)] {
        let walked = step_through(kind, &["lazy", "123"], "lazily");
        assert!(walked.steps > 500, "the loader looked the function up: {walked:?}");
        let resolver = walked.functions.iter().any(|name| name.starts_with("_dl_runtime_resolve"));
        assert!(resolver && walked.functions.contains("_dl_fixup"), "{walked:?}");
        assert_eq!(walked.ways.contains(&(Via::Entry as u8)), entries, "the stub's rows");
        assert!(!walked.ways.contains(&(Via::FramePointer as u8)));
    }
}

#[test]
fn stack_is_right_at_every_step_through_the_kernels_own_object() {
    let walked = step_through(Kind::Usual, &["clock"], "clocked");
    assert!(walked.objects.contains("[vdso]"), "{walked:?}");
    assert_eq!(walked.ways, BTreeSet::from([Via::Table as u8]));
}

#[test]
fn caller_of_a_bad_pointer_is_found() {
    for address in ["0", "16", "ffffffffffff0000", "8000000000000000"] {
        let mut run = Run::to(Kind::Usual, &["bad", address], "call_bad");
        let pid = run.victim.pid();
        run.victim.resume();
        run.victim.run_to(|event| matches!(event, Event::Signal { .. }));
        let stack = run.stack(pid);
        // A call to an address that no pointer can have faults at the call itself.
        let first = usize::from(!address.starts_with('8'));
        let names = run.names(&stack.frames[first..]);
        assert_eq!(names[..3], ["call_bad", "play_bad", "main"], "{stack:x?}");
        assert_eq!(stack.end, End::Root);
        assert_eq!(stack.frames[first].via, [Via::Registers, Via::Entry][first]);
    }
}

#[test]
fn stack_of_a_context_ends_where_it_starts() {
    let run = Run::to(Kind::Usual, &["context"], "marker");
    let stack = run.stack(run.victim.pid());
    assert_eq!(run.names(&stack.frames[..2]), ["marker", "in_context"]);
    // The context began by a return to a function's first instruction, which no call precedes.
    assert_eq!(stack.end, End::Lost(Lost::NoRow { pc: stack.frames[2].pc }));
    assert_eq!(stack.frames.len(), 3);
}

#[test]
fn function_that_ends_with_a_call_is_not_taken_for_the_next_one() {
    let run = Run::to(Kind::Usual, &["last"], "marker");
    let stack = run.stack(run.victim.pid());
    let names = run.names(&stack.frames);
    assert_eq!(names[..5], ["marker", "stop_here", "last_call", "play_last", "main"]);
    assert_eq!(stack.end, End::Root);
    assert_eq!(stack.frames[2].pc, run.victim.address("behind_it"));
    assert!(run.symbols.frame_lines(&stack.frames[2])[0].starts_with("stacks!last_call+0x9"));
}

#[test]
fn stack_is_cut_at_the_depth_that_is_asked_for() {
    let run = Run::to(Kind::Usual, &["inlined"], "marker");
    let pid = run.victim.pid();
    let whole = run.stack(pid);
    assert_eq!(whole.end, End::Root);
    for depth in 0..=whole.frames.len() + 1 {
        let cut = run.victim.tracer.stack(&run.symbols, pid, depth).expect("held");
        let frames = depth.clamp(1, whole.frames.len());
        assert_eq!(cut.frames, whole.frames[..frames]);
        assert_eq!(cut.end, if frames == whole.frames.len() { End::Root } else { End::Depth });
    }
}

#[test]
fn frames_are_printed_with_inlined_functions_and_lines() {
    let run = Run::to(Kind::Usual, &["inlined"], "marker");
    let stack = run.stack(run.victim.pid());
    let lines: Vec<Vec<String>> = stack.frames.iter().map(|frame| run.symbols.frame_lines(frame)).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/stacks.c");
    let line = |text: &str| {
        let source = std::fs::read_to_string(&file).expect("the program's source");
        1 + source.lines().position(|line| line == text).expect("such a line")
    };
    let at = |text: &str| format!(" ({}:{})", file.display(), line(text));
    let [inner, outer] = &lines[1][..] else { panic!("{lines:?}") };
    assert_eq!(*inner, format!("stacks!inlined{} inlined", at("    marker(n + 1);")));
    let id = run.symbols.function_at(stack.frames[1].lookup_address()).expect("a function");
    let offset = stack.frames[1].pc - run.symbols.address(id).expect("mapped");
    assert_eq!(*outer, format!("stacks!with_inlined+{offset:#x}{}", at("    inlined(n * 3);")));
    assert!(lines.last().is_some_and(|last| last[0].starts_with("stacks!_start+0x")), "{lines:?}");
    let nowhere = Frame { pc: 16, sp: 0, via: Via::Registers };
    assert_eq!(run.symbols.frame_lines(&nowhere), ["0x10"]);
}
