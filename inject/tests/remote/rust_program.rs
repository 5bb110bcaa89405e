//! A Rust program: this test itself, started again under the tracer, its threads and all.

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};

use sigstorm_inject::Context;
use sigstorm_inject::remote::{Event, Lifetime, Origin, Sent};

use crate::attacked::mix;
use crate::victim::{Victim, boundaries};

const NAME: &str = "rust_program::signal_lands_at_every_boundary_of_a_rust_program";

attacked!(traced, "traced_rust");

unsafe extern "C" {
    static __start_traced_rust: u8;
    static __stop_traced_rust: u8;
}

/// Tells the tracer where `traced` lies.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn rust_marker(start: usize, end: usize) {
    std::hint::black_box((start, end));
}

static SEEN: [AtomicUsize; 4096] = [const { AtomicUsize::new(0) }; 4096];
static COUNT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_usr1(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: It is the handler's third argument.
    let context = unsafe { Context::from_raw(context) };
    let at = COUNT.fetch_add(1, Ordering::SeqCst);
    if let Some(slot) = SEEN.get(at) {
        slot.store(context.pc(), Ordering::SeqCst);
    }
}

/// The traced program: eight threads run the function, and the handler writes down where it was.
fn victim() {
    // SAFETY: All-zero bytes are a valid sigaction; the handler stores into atomics.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_usr1 as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    rust_marker(&raw const __start_traced_rust as usize, &raw const __stop_traced_rust as usize);
    let run = || (0..20).fold(0u64, |sum, n| sum.wrapping_mul(31) ^ traced(b"aZ%z%q") ^ n);
    let sums: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    println!("\nsums {sums:x?}");
    let count = COUNT.load(Ordering::SeqCst);
    let mut seen: Vec<usize> = SEEN[..count].iter().map(|pc| pc.load(Ordering::SeqCst)).collect();
    seen.sort_unstable();
    println!("seen {seen:x?}");
}

#[test]
fn signal_lands_at_every_boundary_of_a_rust_program() {
    if env::var_os("SIGSTORM_REMOTE_VICTIM").is_some() {
        victim();
        return;
    }
    // SAFETY: Other threads of this test read variables through std, which has a lock for them.
    unsafe { env::set_var("SIGSTORM_REMOTE_VICTIM", "1") };
    let program = env::current_exe().expect("our own path");
    let args = [NAME, "--exact", "--nocapture", "--test-threads=1"];
    let plain = std::process::Command::new(&program).args(args).output().expect("it runs");
    let mut victim = Victim::launch(&program, &args, false);
    // SAFETY: As above.
    unsafe { env::remove_var("SIGSTORM_REMOTE_VICTIM") };
    let (pid, marker) = (victim.pid(), victim.address("rust_marker"));
    victim.tracer.lay(pid, [marker], Lifetime::OneShot).expect("it is code");
    victim.resume();
    let event = victim.run_to(|event| matches!(event, Event::Breakpoint { .. }));
    let regs = victim.tracer.registers(event.held().expect("held")).expect("held").0;
    let all = boundaries(&victim.tracer, pid, "traced", regs.rdi, regs.rsi);
    victim.tracer.lay(pid, all.iter().copied(), Lifetime::Stays).expect("it is code");
    victim.pass(&event);
    let (mut sent, mut returned) = (Vec::new(), 0);
    let mut hits = 0;
    victim.run(|victim, event| match event {
        Event::Breakpoint { tid, address, .. } => {
            hits += 1;
            // Each boundary several times, on any thread.
            if hits % 7 == 0 && sent.len() < 4096 {
                let result =
                    victim.tracer.deliver(*tid, libc::SIGUSR1, Some(Origin::Tkill)).expect("a boundary");
                assert_eq!(result, Sent::Delivered);
                sent.push(*address);
            }
        }
        Event::HandlerReturned { .. } => returned += 1,
        Event::NotHandled { .. } | Event::HandlerLeft { .. } => panic!("{event:?}"),
        _ => {}
    });
    assert_eq!(returned, sent.len());
    let (reached, hits_before) = (sent.iter().collect::<std::collections::BTreeSet<_>>().len(), hits);
    assert!(reached > 20 && hits_before > 5_000, "{reached} boundaries, {hits_before} hits");
    sent.sort_unstable();
    let output = victim.output();
    let seen = output.lines().find_map(|line| line.strip_prefix("seen ")).expect("it says so");
    assert_eq!(seen, format!("{sent:x?}"));
    let sums = |text: &str| text.lines().find(|line| line.starts_with("sums ")).map(str::to_owned);
    assert_eq!(sums(&output), sums(&String::from_utf8_lossy(&plain.stdout)));
    assert!(victim.status.is_some_and(|status| status.success()));
}
