//! The plan of a probe: the program, the places, the signal and who gets it.

use std::ffi::OsString;
use std::fmt;

use nix::sys::signal::Signal;
use sigstorm_inject::remote::Origin;
use sigstorm_inject::remote::symbols::Pattern;

/// The threads that get the signal when one comes to a boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deliver {
    /// The thread at the boundary.
    #[default]
    Here,
    /// Every other thread, while the one at the boundary is held there.
    Others,
    /// The thread at the boundary, whose handler is held in turn at an instruction of its own while the others go on.
    Held,
    /// The thread at the boundary, and a second signal in its handler.
    Twice,
}

impl Deliver {
    /// All, in the order of the command's help.
    pub const ALL: [Deliver; 4] = [Deliver::Here, Deliver::Others, Deliver::Held, Deliver::Twice];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Deliver::Here => "here",
            Deliver::Others => "others",
            Deliver::Held => "held",
            Deliver::Twice => "twice",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Deliver> {
        Deliver::ALL.into_iter().find(|deliver| deliver.name() == name)
    }
}

/// A signal, and where it says that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSignal {
    /// Its number.
    pub number: i32,
    /// Its `si_code`.
    pub origin: Origin,
}

/// The names of origins on the command line.
const ORIGINS: [(&str, Origin); 4] =
    [("tkill", Origin::Tkill), ("user", Origin::User), ("timer", Origin::Timer), ("kernel", Origin::Kernel)];

impl ProbeSignal {
    /// Reads `PROF`, `SIGPROF`, `27`, each perhaps with `:tkill`, `:user`, `:timer` or `:kernel`.
    ///
    /// # Errors
    ///
    /// If there is no such signal, it cannot have a handler, or there is no such origin.
    pub fn parse(text: &str) -> Result<ProbeSignal, String> {
        let (name, origin) = text.split_once(':').unwrap_or((text, "tkill"));
        let Some((_, origin)) = ORIGINS.iter().find(|(known, _)| *known == origin) else {
            return Err(format!("`{origin}` is no origin of a signal: it is tkill, user, timer or kernel"));
        };
        let number = number(name).ok_or_else(|| {
            format!("there is no signal `{name}`: say PROF, URG, USR1, or a number from 1 to 64")
        })?;
        match number {
            libc::SIGKILL | libc::SIGSTOP => Err(format!("{} cannot have a handler", signal_name(number))),
            libc::SIGTRAP => Err("SIGTRAP is the probe's own: its breakpoints raise it".into()),
            _ => Ok(ProbeSignal { number, origin: *origin }),
        }
    }
}

impl fmt::Display for ProbeSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin =
            ORIGINS.iter().find(|(_, origin)| *origin == self.origin).map_or("tkill", |(name, _)| name);
        let name = signal_name(self.number);
        write!(f, "{}:{origin}", name.strip_prefix("SIG").unwrap_or(&name))
    }
}

fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<Signal>().ok().map(|signal| signal as i32)
}

/// A signal's name, such as `SIGPROF`; `signal 40` for one without a name.
pub fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// The plan of a probe.
#[derive(Clone, Debug)]
pub struct ProbePlan {
    /// The program, by its path or its name in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The functions at whose boundaries the signal is delivered; none for [the usual
    /// victims](super::defaults).
    pub at: Vec<Pattern>,
    /// The signal.
    pub signal: ProbeSignal,
    /// The threads that get it.
    pub deliver: Deliver,
    /// The functions in which a handler is held ([`Deliver::Held`]); none for the handler itself.
    pub handler: Vec<Pattern>,
    /// The second signal of [`Deliver::Twice`]; none for the same one.
    pub second: Option<ProbeSignal>,
    /// A process for each boundary and visit.
    pub fresh: bool,
    /// Visits of each boundary that get a signal.
    pub visits: u32,
    /// The function at whose first call the injections begin; none for as soon as the signal has a handler.
    pub from: Option<Pattern>,
    /// Seconds until the probe ends.
    pub seconds: u64,
    /// Fresh processes at a time.
    pub jobs: usize,
    /// Whether other output than undisturbed is a finding.
    pub same_output: bool,
    /// Exit statuses that are no finding.
    pub allow_exit: Vec<i32>,
    /// Whether children are probed, too.
    pub follow: bool,
    /// Whether registers that the handler edited in its frame are a finding.
    pub strict_state: bool,
    /// Where the random choices begin: which visit of a boundary gets the signal after the first round.
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number() {
        let prof = ProbeSignal { number: libc::SIGPROF, origin: Origin::Tkill };
        for text in ["PROF", "SIGPROF", "prof", "27", "PROF:tkill"] {
            assert_eq!(ProbeSignal::parse(text), Ok(prof), "{text}");
        }
        assert_eq!(ProbeSignal::parse("PROF:timer").unwrap().origin, Origin::Timer);
        assert_eq!(ProbeSignal::parse("40").unwrap().to_string(), "signal 40:tkill");
        assert_eq!(prof.to_string(), "PROF:tkill");
        for text in ["", "NONE", "0", "65", "-1", "KILL", "TRAP", "PROF:me"] {
            assert!(ProbeSignal::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_deliveries_are_read_as_they_are_written() {
        for deliver in Deliver::ALL {
            assert_eq!(Deliver::from_name(deliver.name()), Some(deliver));
        }
    }
}
