//! `probe.json`: a finding's injection, to be done again.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};
use sigstorm_inject::remote::symbols::Pattern;

use super::finding::{Group, Kind, Site};
use super::plan::{Deliver, ProbePlan, ProbeSignal};

/// The contents of `probe.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replay {
    /// The version of sigstorm that wrote it.
    pub sigstorm: String,
    /// The program, by its path or its name in `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The signal, as `--signal` takes it.
    pub signal: String,
    /// The threads that get it, as `--deliver` takes it.
    pub deliver: String,
    /// The functions in which the handler is held.
    #[serde(default)]
    pub handler: Vec<String>,
    /// The second signal, if it is another.
    #[serde(default)]
    pub second: Option<String>,
    /// The function at whose first call injections begin.
    #[serde(default)]
    pub from: Option<String>,
    /// Whether edited registers are a finding.
    #[serde(default)]
    pub strict_state: bool,
    /// Exit statuses that are none.
    #[serde(default)]
    pub allow_exit: Vec<i32>,
    /// Whether children are probed, too.
    #[serde(default)]
    pub follow: bool,
    /// The kind of the finding.
    pub kind: Kind,
    /// The boundary.
    pub site: Option<Site>,
}

impl Replay {
    /// Of a finding.
    pub fn new(plan: &ProbePlan, group: &Group) -> Replay {
        let text = |word: &OsStr| String::from_utf8_lossy(word.as_bytes()).into_owned();
        Replay {
            sigstorm: env!("CARGO_PKG_VERSION").into(),
            program: text(&plan.program),
            args: plan.args.iter().map(|arg| text(arg)).collect(),
            signal: plan.signal.to_string(),
            deliver: plan.deliver.name().into(),
            handler: plan.handler.iter().map(|pattern| pattern.text().to_owned()).collect(),
            second: plan.second.map(|second| second.to_string()),
            from: plan.from.as_ref().map(|from| from.text().to_owned()),
            strict_state: plan.strict_state,
            allow_exit: plan.allow_exit.clone(),
            follow: plan.follow,
            kind: group.first.kind,
            site: group.first.site.clone(),
        }
    }

    /// Reads a file's contents.
    ///
    /// # Errors
    ///
    /// If it is no such file, with what is wrong.
    pub fn parse(text: &str) -> Result<Replay, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The plan that does it again.
    ///
    /// # Errors
    ///
    /// If a signal, a pattern or a word is unknown.
    pub fn plan(&self) -> Result<ProbePlan, String> {
        let pattern = |text: &String| Pattern::new(text).map_err(|error| error.to_string());
        let word = |text: &String| OsString::from_vec(text.clone().into_bytes());
        Ok(ProbePlan {
            program: word(&self.program),
            args: self.args.iter().map(word).collect(),
            at: Vec::new(),
            signal: ProbeSignal::parse(&self.signal)?,
            deliver: Deliver::from_name(&self.deliver)
                .ok_or_else(|| format!("`{}` is no way to deliver", self.deliver))?,
            handler: self.handler.iter().map(pattern).collect::<Result<_, _>>()?,
            second: self.second.as_deref().map(ProbeSignal::parse).transpose()?,
            fresh: true,
            visits: 1,
            from: self.from.as_ref().map(pattern).transpose()?,
            seconds: 60,
            jobs: 1,
            same_output: false,
            allow_exit: self.allow_exit.clone(),
            follow: self.follow,
            strict_state: self.strict_state,
            seed: 1,
        })
    }
}
