//! The orders of a child: one argument of JSON.
//!
//! The structs here are the only form in which options travel. The parent fills one in, the child
//! reads it back; neither an argument vector nor a second command line repeats their fields.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sigstorm_runtime::Defect;

use crate::storm::StormOptions;

/// All that a child is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The process id of its parent, without which it ends.
    pub parent: u32,
    /// Its task.
    pub task: Task,
}

/// The task of a child, with its options.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Explore schedules for a hunt.
    Worker(WorkerOptions),
    /// Run schedules from standard input.
    Runner(RunnerOptions),
    /// Run a storm.
    Stormer(StormOptions),
    /// Sweep schedules up to the first violation.
    Sweeper(SweeperOptions),
}

impl Task {
    /// Its name: the hidden command that does it.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Worker(_) => "worker",
            Task::Runner(_) => "runner",
            Task::Stormer(_) => "stormer",
            Task::Sweeper(_) => "sweeper",
        }
    }

    /// The folder that it shares with its parent; a runner has none.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Task::Worker(options) => Some(&options.dir),
            Task::Runner(_) => None,
            Task::Stormer(options) => Some(&options.dir),
            Task::Sweeper(options) => Some(&options.dir),
        }
    }
}

/// The options of a worker. The default explores on the first core without an end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerOptions {
    /// Where it finds `stats` and `current`, and leaves what it finds.
    #[serde(with = "path")]
    pub dir: PathBuf,
    /// The core it is pinned to, counted among the allowed ones, round and round.
    pub core: usize,
    /// Where its random choices begin.
    pub seed: u64,
    /// The schedules' length, if it is fixed.
    pub steps: Option<usize>,
    /// How many schedules it may run.
    pub runs: Option<u64>,
    /// How many seconds it may take.
    pub seconds: Option<u64>,
    /// The corpus folder, which workers share.
    #[serde(with = "optional_path")]
    pub corpus: Option<PathBuf>,
    /// Random schedules, without an engine and its feedback.
    pub random: bool,
    /// The defects planted in the core. The canary of the first is looked at.
    #[serde(with = "defect_names")]
    pub defects: Vec<Defect>,
}

/// The options of a runner.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunnerOptions {
    /// The core it is pinned to, counted among the allowed ones; the nearest where none is named.
    pub core: Option<usize>,
    /// The defects planted in the core.
    #[serde(with = "defect_names")]
    pub defects: Vec<Defect>,
}

/// The options of a sweeper.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SweeperOptions {
    /// Where it finds `stats`, and leaves what it finds.
    #[serde(with = "path")]
    pub dir: PathBuf,
    /// The core that its runs take.
    pub core: usize,
    /// The folder of the schedules.
    #[serde(with = "path")]
    pub schedules: PathBuf,
    /// The defects planted in the core; a mutant needs none.
    #[serde(with = "defect_names")]
    pub defects: Vec<Defect>,
}

/// Defects, by their names.
pub(crate) mod defect_names {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use sigstorm_runtime::Defect;

    pub fn serialize<S: Serializer>(defects: &[Defect], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(defects.iter().map(|defect| defect.name()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Defect>, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let unknown = |name: &str| D::Error::custom(format!("there is no defect `{name}`"));
        names.iter().map(|name| Defect::from_name(name).ok_or_else(|| unknown(name))).collect()
    }
}

/// A path: a string, or its bytes where they are no UTF-8.
pub(crate) mod path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => path.as_os_str().as_bytes().serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into(),
            Form::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

mod optional_path {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Form(#[serde(with = "super::path")] PathBuf);

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.clone().map(Form).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Form>::deserialize(deserializer)?.map(|Form(path)| path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storm::{Clock, Delay};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn sent(task: Task) -> Task {
        let json = serde_json::to_string(&Orders { parent: 7, task }).unwrap();
        let orders: Orders = serde_json::from_str(&json).unwrap();
        assert_eq!(orders.parent, 7);
        orders.task
    }

    #[test]
    fn a_worker_gets_the_options_that_it_was_given() {
        let corpus = Path::new(OsStr::from_bytes(b"\xff/corpus")).to_path_buf();
        let options = WorkerOptions {
            dir: "/tmp/a b".into(),
            core: 3,
            seed: u64::MAX,
            steps: Some(40),
            runs: None,
            seconds: Some(9),
            corpus: Some(corpus.clone()),
            random: true,
            defects: vec![Defect::SigprofSpins, Defect::InstallUnlocked],
        };
        let Task::Worker(got) = sent(Task::Worker(options)) else { panic!("another task") };
        assert_eq!((got.dir, got.core, got.seed), ("/tmp/a b".into(), 3, u64::MAX));
        assert_eq!((got.steps, got.runs, got.seconds, got.random), (Some(40), None, Some(9), true));
        assert_eq!(
            (got.corpus, got.defects),
            (Some(corpus), vec![Defect::SigprofSpins, Defect::InstallUnlocked])
        );
    }

    #[test]
    fn a_storm_gets_the_options_that_it_was_given() {
        let delay = Delay { probability: 0.1, micros: 3 };
        let options = StormOptions { clock: Clock::Cpu, delay, cores: vec![1, 2], ..StormOptions::default() };
        let Task::Stormer(got) = sent(Task::Stormer(options)) else { panic!("another task") };
        assert_eq!((got.clock, got.delay, got.cores), (Clock::Cpu, delay, vec![1, 2]));
    }

    #[test]
    fn orders_with_an_unknown_defect_are_refused() {
        let json = r#"{"parent":1,"task":{"runner":{"core":null,"defects":["nonsense"]}}}"#;
        let error = serde_json::from_str::<Orders>(json).unwrap_err().to_string();
        assert!(error.contains("`nonsense`"), "{error}");
    }
}
