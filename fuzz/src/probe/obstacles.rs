//! Obstacles to a probe, in words for its reader: a program that ignores the signal, wants to be traced itself, is
//! set-uid, or has no symbols.

use std::os::unix::fs::MetadataExt;

use sigstorm_inject::remote::symbols::Symbols;

use super::campaign::Campaign;
use super::plan::signal_name;
use super::session::{End, Outcome, Session};

/// The bytes of a program's last line that are repeated.
const MOST_OF_A_LINE: usize = 200;

impl Session<'_> {
    /// The kernel gives a set-uid program that is traced no other rights than the tracer has.
    pub(super) fn note_set_uid(&mut self) {
        let owner = |path: &str| std::fs::metadata(path).map(|of| (of.mode(), of.uid()));
        let program = owner(&format!("/proc/{}/exe", self.tracer.pid()));
        if let (Ok((mode, uid)), Ok((_, own))) = (program, owner("/proc/self"))
            && mode & libc::S_ISUID != 0
            && uid != own
        {
            self.remarks.insert(format!(
                "the program is set-uid, but under ptrace it runs with the rights of user {own}, not {uid}: run the \
                 probe as {uid}"
            ));
        }
    }

    /// A system call of the program's start may say why no handler comes.
    pub(super) fn note_call(&mut self, tid: i32, number: u64, args: [u64; 6]) {
        let Some(pid) = self.tracer.process_of(tid).filter(|pid| *pid == self.tracer.pid()) else { return };
        let signal = self.plan.signal.number;
        // `struct sigaction` of the kernel begins with the handler.
        let action = || self.tracer.read_word(pid, args[1]).ok().map(|word| word as usize);
        match number as i64 {
            libc::SYS_rt_sigaction
                if args[0] as i32 == signal && args[1] != 0 && action() == Some(libc::SIG_IGN) =>
            {
                self.remarks.insert(format!("the program ignores {}: it sets SIG_IGN", signal_name(signal)));
            }
            libc::SYS_ptrace if args[0] == u64::from(libc::PTRACE_TRACEME) => {
                self.remarks.insert(
                    "the program asks to be traced (PTRACE_TRACEME), and is already: it may give up, or behave as \
                     under a debugger"
                        .into(),
                );
            }
            _ => {}
        }
    }
}

impl Campaign<'_> {
    /// Nothing could be injected: says how the program ended, and its last line.
    pub(super) fn note_end(&mut self, outcome: &Outcome) {
        let mut note = match outcome.end {
            End::Exited(status) => format!("before anything could be injected the program ended: {status}"),
            End::Found | End::Killed => "nothing could be injected until the program was ended".to_owned(),
        };
        let text = String::from_utf8_lossy(&outcome.output);
        if let Some(line) = text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
            note += &format!(", and printed last: {}", line.chars().take(MOST_OF_A_LINE).collect::<String>());
        }
        self.probed.notes.push(note);
    }
}

/// For objects without a full symbol table that are attacked or usually are: how to get one.
pub(super) fn missing_symbols(symbols: &Symbols, attacked: impl Fn(&std::path::Path) -> bool) -> Vec<String> {
    let objects = symbols.objects().iter();
    let wanted = objects.filter(|mapped| {
        mapped.is_program || mapped.object.name().starts_with("libc.so") || attacked(&mapped.path)
    });
    wanted.filter_map(|mapped| mapped.object.symbols_hint()).collect()
}
