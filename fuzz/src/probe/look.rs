//! Threads as the kernel shows them without stopping them: running or waiting, for how long, for which lock.

use std::fs;

/// A thread, as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The thread.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// `R` runs, `S` and `D` wait, `t` is stopped, `Z` has ended.
    pub state: char,
    /// The nanoseconds for which it has had a core.
    pub run_ns: u64,
    /// How often it was put on a core.
    pub slices: u64,
    /// The system call in which it waits.
    pub call: Option<Call>,
}

/// A system call in which a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

const FUTEX_PRIVATE: u64 = 128;
const FUTEX_CLOCK_REALTIME: u64 = 256;
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_LOCK_PI2: u64 = 13;

impl Call {
    /// The futex word for which it waits, if it waits for one; whether it has a time limit; whether only this
    /// process can wake it.
    pub fn futex(&self) -> Option<FutexWait> {
        let [address, op, _, timeout, ..] = self.args;
        let waits = matches!(
            op & !(FUTEX_PRIVATE | FUTEX_CLOCK_REALTIME),
            FUTEX_WAIT | FUTEX_LOCK_PI | FUTEX_WAIT_BITSET | FUTEX_LOCK_PI2
        );
        (self.number == libc::SYS_futex && waits).then_some(FutexWait {
            address,
            timed: timeout != 0,
            private: op & FUTEX_PRIVATE != 0,
        })
    }
}

/// A wait for a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutexWait {
    /// The word's address.
    pub address: u64,
    /// The wait has a time limit.
    pub timed: bool,
    /// Only threads of this process can wake it.
    pub private: bool,
}

/// Looks at a thread; nothing if it is gone.
pub fn thread(pid: i32, tid: i32) -> Option<Look> {
    let folder = format!("/proc/{pid}/task/{tid}");
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
    let schedstat = fs::read_to_string(format!("{folder}/schedstat")).unwrap_or_default();
    let mut numbers = schedstat.split_whitespace().map(|number| number.parse().unwrap_or(0));
    let (run_ns, _, slices) = (numbers.next().unwrap_or(0), numbers.next(), numbers.next().unwrap_or(0));
    let call = fs::read_to_string(format!("{folder}/syscall")).ok().and_then(|text| call(&text));
    Some(Look { tid, name, state: rest.chars().next()?, run_ns, slices, call })
}

/// Looks at all threads of a process, the traced ones and, while they end, those that are not any more.
pub fn threads(pid: i32) -> Vec<Look> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut looks: Vec<Look> = tids.filter_map(|tid| thread(pid, tid)).collect();
    looks.sort_by_key(|look| look.tid);
    looks
}

fn call(text: &str) -> Option<Call> {
    let mut words = text.split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    (number >= 0).then_some(Call { number, args })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_futexes_are_told_from_other_calls() {
        let of = |text: &str| call(text).and_then(|call| call.futex());
        let wait = of("202 0x7f00 0x80 0x2 0x0 0x0 0x0 0x7ffe 0x7fff\n").unwrap();
        assert_eq!(wait, FutexWait { address: 0x7f00, timed: false, private: true });
        let timed = of("202 0x7f00 0x189 0x2 0x7ffe00 0x0 0xffffffff 0x7ffe 0x7fff\n").unwrap();
        assert!(timed.timed && timed.private);
        assert_eq!(of("202 0x7f00 0x81 0x1 0x0 0x0 0x0 0x7ffe 0x7fff\n"), None, "a wake");
        assert_eq!(of("0 0x0 0x7f00 0x1 0x0 0x0 0x0 0x7ffe 0x7fff\n"), None, "read");
        assert_eq!((call("running\n"), call("-1 0x7ffe 0x7fff\n")), (None, None));
    }

    #[test]
    fn own_thread_runs() {
        let pid = std::process::id() as i32;
        let tid = nix::unistd::gettid().as_raw();
        // The kernel adds up a thread's time when it leaves its core.
        std::thread::sleep(std::time::Duration::from_millis(1));
        let look = thread(pid, tid).unwrap();
        assert!(look.state == 'R' && look.run_ns > 0, "{look:?}");
        assert!(threads(pid).iter().any(|look| look.tid == tid));
    }
}
