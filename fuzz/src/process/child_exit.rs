//! The end of a child, and its meaning.
//!
//! A child that finds something says so before it ends. One that ends otherwise did not
//! get that far: the core has faulted in a way that its own handlers did not survive, which
//! is a finding about the schedule that was being run; or somebody killed it, which is not.

use crate::outcome::{Finding, Verdict};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The meaning of an unexpected end. `running` tells whether it was running a schedule;
/// `log` is the end of what it said.
pub fn judge(status: ExitStatus, running: bool, log: Vec<String>) -> Finding {
    let signal = status.signal().map(|number| Signal::try_from(number).ok());
    let from_outside = match signal {
        // The kernel and the core send none of these.
        Some(Some(Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT)) => {
            true
        }
        _ => false,
    };
    let how = describe(status);
    let (verdict, summary) = match (from_outside, running) {
        (true, _) => (
            Verdict::HarnessError,
            format!("the process {how}, from outside (a lack of memory? see `dmesg`)"),
        ),
        (false, true) => (Verdict::Fault, format!("the process {how} while it ran this schedule")),
        (false, false) => (Verdict::HarnessError, format!("the process {how} while it ran no schedule")),
    };
    Finding::new(verdict, summary, log)
}

/// How it ended: "died of SIGSEGV", "exited with status 3".
pub fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(number), _) => match Signal::try_from(number) {
            Ok(signal) => format!("died of {signal}"),
            Err(_) => format!("died of signal {number}"),
        },
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => format!("ended: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: i32, running: bool) -> (String, String) {
        let finding = judge(ExitStatus::from_raw(status), running, vec!["last words".into()]);
        assert_eq!(finding.evidence, ["last words"]);
        (finding.verdict, finding.summary)
    }

    #[test]
    fn crash_is_a_fault_of_the_schedule_that_ran() {
        let (verdict, summary) = judged(11, true);
        assert_eq!((verdict.as_str(), summary.contains("SIGSEGV")), ("fault", true));
        let (verdict, summary) = judged(71 << 8, true);
        assert_eq!((verdict.as_str(), summary.contains("status 71")), ("fault", true));
        assert_eq!(judged(6, false).0, "harness-error");
        assert!(judged(40, true).1.contains("signal 40"));
    }

    #[test]
    fn kill_from_outside_is_a_harness_error() {
        assert_eq!(judged(9, true).0, "harness-error");
        assert_eq!(judged(15, true).0, "harness-error");
    }
}
