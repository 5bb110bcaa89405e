//! A real signal at every instruction in turn: a thread that comes onto a goroutine's
//! stack is single-stepped until it is back on its own, and takes SIGPROF at each step.
//! The oracle judges every one of these samples as it judges any other.
//!
//! The breakpoint at the switch is the process's only one, so the schedules here have no
//! stops at instructions.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use sigstorm::executor::{Harness, signal_here};
use sigstorm::generate::Generator;
use sigstorm::outcome::Run;
use sigstorm::schedule::{Schedule, Stop};
use sigstorm_inject::{Trap, set_breakpoint};
use sigstorm_runtime::unwind::functab::info;
use sigstorm_runtime::{CodeClass, FuncId, marked_code};

use crate::boundaries;
use crate::common::{describe, harness, in_child, schedule};

/// The trap handler's data and notes.
struct Stepper {
    start: usize,
    end: usize,
    switch_in: usize,
    /// The kernel's entry, and what comes after it.
    kernel: (usize, usize),
    /// A flag for each byte of the marked code: was a signal taken before it?
    seen: Vec<AtomicBool>,
    signals: AtomicU64,
    each: fn(&mut Trap<'_>) -> bool,
}

static STEPPER: OnceLock<Stepper> = OnceLock::new();

/// A harness whose threads are stepped through the marked code. `each` is called at every
/// instruction, in the trap handler, and says whether the signal is sent.
pub fn stepped(each: fn(&mut Trap<'_>) -> bool) -> Harness {
    let mut harness = harness(&[]);
    harness.wait_in_kernel(false);
    let (start, end) = marked_code();
    let seen = (start..end).map(|_| AtomicBool::new(false)).collect();
    let switch_in = info(FuncId::SwitchIn).start;
    // The kernel comes back to behind the system call's `syscall`, which is two bytes.
    let kernel = info(FuncId::Syscall).landing;
    let kernel = (kernel - 2, kernel);
    // SAFETY: two bytes of the stub's code.
    assert_eq!(unsafe { (kernel.0 as *const [u8; 2]).read() }, [0x0f, 0x05], "`syscall`");
    let stepper = Stepper { start, end, switch_in, kernel, seen, signals: AtomicU64::new(0), each };
    assert!(STEPPER.set(stepper).is_ok(), "a process has one stepper");
    // SAFETY: `on_trap` allocates nothing, locks nothing and panics nowhere. The executor's
    // own handler, which it replaces, only serves stops at instructions.
    unsafe { sigstorm_inject::install_trap_handler(on_trap, &[libc::SIGPROF]) }.expect("a trap handler");
    harness
}

/// Runs a schedule with every thread stepped, its stops at instructions left out.
pub fn step_through(harness: &mut Harness, schedule: &Schedule) -> Run {
    let stepper = STEPPER.get().expect("a stepper");
    // SAFETY: an instruction of the marked code, which the harness keeps writable; every
    // thread waits, and those that are to run get the baton from this one.
    unsafe { set_breakpoint(stepper.switch_in) };
    harness.run(&without_instructions(schedule), false)
}

/// Does so with one that the healthy core must survive.
#[track_caller]
fn step_clean(harness: &mut Harness, schedule: &Schedule) -> Run {
    let run = step_through(harness, schedule);
    if let Some(finding) = &run.finding {
        panic!("a false alarm\n{}\n{schedule}", describe(finding));
    }
    run
}

fn without_instructions(schedule: &Schedule) -> Schedule {
    let mut schedule = schedule.clone();
    for step in &mut schedule.steps {
        step.stop = step.stop.filter(|stop| matches!(stop, Stop::Point { .. }));
    }
    schedule
}

/// How many signals were sent from the trap handler.
fn signals() -> u64 {
    STEPPER.get().map_or(0, |stepper| stepper.signals.load(Ordering::Relaxed))
}

fn seen(boundary: &boundaries::Boundary) -> bool {
    let stepper = STEPPER.get().expect("a stepper");
    stepper.seen[boundary.address() - stepper.start].load(Ordering::Relaxed)
}

fn on_trap(trap: &mut Trap<'_>) {
    let Some(stepper) = STEPPER.get() else { return };
    let pc = trap.pc();
    if pc < stepper.start || stepper.end <= pc {
        // Back on its own stack, in Rust.
        trap.set_single_step(false);
        // SAFETY: as where it was armed first; this thread holds the baton.
        unsafe { set_breakpoint(stepper.switch_in) };
        return;
    }
    // The trap flag is lost for one instruction on the way back from the kernel.
    let enters = pc == stepper.kernel.0;
    trap.set_single_step(!enters);
    if enters {
        // SAFETY: as above; the next instruction of the same thread.
        unsafe { set_breakpoint(stepper.kernel.1) };
    }
    // It arrives before the next instruction, as this handler returns.
    if (stepper.each)(trap) && signal_here().is_ok() {
        stepper.seen[pc - stepper.start].store(true, Ordering::Relaxed);
        stepper.signals.fetch_add(1, Ordering::Relaxed);
    }
}

/// Schedules that between them come to every instruction.
pub fn tour() -> Vec<Schedule> {
    let kinds: Vec<FuncId> = FuncId::ALL.iter().copied().filter(|f| f.is_callable()).collect();
    let mut texts = vec![
        // The first frame, a system call, the last return.
        "m1 g1; ret".to_owned(),
        "m1 g1 syscall; resume; call small; syscall; resume; ret 8".to_owned(),
        // Deferred calls on return, in a panic, in a nested one, in an exit; with a recovery.
        "m1 g1 call deferring; defer; ret 8".to_owned(),
        "m1 g1 call deferring; call large; panic; recover; ret; ret 8".to_owned(),
        "m1 g1 call deferring; call deferring; call small; panic; panic; recover; ret; ret 8".to_owned(),
        "m1 g1 call deferring; call small; exit; ret 8".to_owned(),
        // Foreign calls and callbacks, nested ones, with a panic that is recovered there and one
        // that is stopped; with a stack that must grow for the callback, and with barriers.
        "m1 g1 call small; foreign; resume; ret 8".to_owned(),
        "m1 g1 foreign; callback; call small; foreign; callback; ret; resume; ret 8; resume; ret".to_owned(),
        "m1 g1 call deferring; foreign; callback; call deferring; panic; recover; ret 2; resume; ret 8".to_owned(),
        "m1 g1 call deferring; foreign; callback; call deferring; panic; ret; ret; resume; ret 8".to_owned(),
        "every_frame\nm1 g1 call tiny*8; call tiny*4; foreign; callback; foreign; callback; foreign; callback; \
         ret; resume; ret; resume; ret; resume; ret 8"
            .to_owned(),
        "every_frame\nm1 g1 call small; foreign; callback; call tiny; foreign\ngc mark; scan g1\n\
         m1 callback; call small; ret 8; resume; ret 8; resume; ret 8"
            .to_owned(),
        "every_frame\nm1 g1 call small; foreign\ngc mark\nm1 callback\ngc scan g1\nm1 foreign; callback; ret 8; \
         resume; ret 8; resume; ret 8"
            .to_owned(),
        // The same with a stack that must grow for the panic's own frame, and for every kind's.
        "every_frame\nm1 g1 call deferring; call tiny*8; call tiny*8; panic; recover; ret; ret 8".to_owned(),
        // Asked to scan itself in a panic's prologue, and in an exit's.
        "m1 g1 call deferring\ngc mark; scan g1\nm1 panic; recover; ret; ret 8".to_owned(),
        "m1 g1 call deferring\ngc mark; scan g1\nm1 exit; ret".to_owned(),
        // A deferred call that has replaced its caller's PC.
        "m1 g1 call deferring; panic; setpc; ret".to_owned(),
        "m1 g1 call deferring; exit; setpc; ret".to_owned(),
        // Let go in a prologue, and gone on with by another thread.
        "m1 g1 call deferring\nm2 preempt g1\nm1 panic\nm2 g1 recover; ret; ret 8".to_owned(),
    ];
    for kind in &kinds {
        // Asked to scan itself, then to stop for termination; and back through barriers.
        texts.push(format!(
            "every_frame\nm1 g1 call small\ngc mark; scan g1\nm1 call {kind}; syscall\n\
             gc term\nm1 resume; ret 8"
        ));
        texts.push(format!(
            "every_frame\nm1 g1 call {kind}*2; syscall\ngc mark; scan g1\nm1 resume; ret 2; call {kind}; ret 8"
        ));
        // A caller whose PC is replaced, through a barrier and without one.
        texts.push(format!("m1 g1 call {kind}; call tiny; setpc; ret; ret 8"));
        texts.push(format!(
            "every_frame\nm1 g1 call {kind}*2; syscall\ngc mark; scan g1\nm1 resume; setpc; ret; setpc; ret 8"
        ));
        // Let go in its prologue; the other thread comes back through barriers.
        texts.push(format!(
            "every_frame\nm1 g1 call small*2\nm2 preempt g1\nm1 call {kind}; yield\ngc mark; scan g1\n\
             m2 g1 ret; ret 8"
        ));
        // A stack that grows under it.
        texts.push(format!("every_frame\nm1 g1 call {kind}*8; call {kind}*8; call {kind}*4; ret 8"));
        // From every other.
        for caller in &kinds {
            texts.push(format!("m1 g1 call {caller}; call {kind}; ret 8"));
        }
    }
    texts.iter().map(|text| schedule(text)).collect()
}

#[test]
fn traceback_at_every_instruction_equals_the_shadow_stack() {
    let said = in_child("stepping::traceback_at_every_instruction_equals_the_shadow_stack", "", |_| {
        let mut harness = stepped(|_| true);
        let all = boundaries::all(&harness);
        let (mut taken, mut tracebacks, mut skips) = (0, 0, 0);
        for schedule in tour() {
            let run = step_clean(&mut harness, &schedule);
            taken += run.counts.signals;
            tracebacks += run.counts.tracebacks;
            skips += run.counts.skips.iter().sum::<u64>();
            // Each of them came, each was judged, and only the leaf has a reason to skip.
            let leaf = run.counts.interrupted[usize::from(CodeClass::Foreign.code()) - 1];
            assert_eq!(run.counts.skips.iter().sum::<u64>(), leaf, "{schedule}");
        }
        assert_eq!(taken, signals(), "a signal was lost, or came by another way");
        assert_eq!(taken, tracebacks + skips, "a sample was not judged");
        format!("{taken} signals\n{}", boundaries::assert_all(&all, seen))
    });
    println!("{said}");
}

#[test]
fn traceback_anywhere_in_random_schedules_equals_the_shadow_stack() {
    let said =
        in_child("stepping::traceback_anywhere_in_random_schedules_equals_the_shadow_stack", "", |_| {
            let mut harness = stepped(|_| true);
            let mut generator = Generator::new(0x57e9, None);
            let mut rng = ChaCha8Rng::seed_from_u64(0x57e9);
            let mut tracebacks = 0;
            for _ in 0..100 {
                let mut schedule = generator.schedule();
                schedule.steps.truncate(10 + rng.next_u32() as usize % 40);
                tracebacks += step_clean(&mut harness, &schedule).counts.tracebacks;
            }
            assert!(signals() > 10_000 && tracebacks > 10_000, "{} signals, {tracebacks} right", signals());
            format!("{} signals, {tracebacks} tracebacks", signals())
        });
    println!("{said}");
}
