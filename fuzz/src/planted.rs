//! The defects that an engine is told to plant: `SIGSTORM_DEFECT=a,b`.

use sigstorm_runtime::Defect;

/// The name of the variable.
pub const VARIABLE: &str = "SIGSTORM_DEFECT";

/// A name that is no defect's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no defect `{name}`; there are: {}", known())]
pub struct UnknownDefect {
    name: String,
}

fn known() -> String {
    Defect::ALL.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ")
}

/// The defects that a comma-separated list names.
///
/// # Errors
/// Says which name is unknown, and which there are.
pub fn parse(list: &str) -> Result<Vec<Defect>, UnknownDefect> {
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| Defect::from_name(name).ok_or_else(|| UnknownDefect { name: name.to_owned() }))
        .collect()
}

/// The defects that the environment names; none where it names none.
///
/// # Errors
/// As for [`parse`].
pub fn from_environment() -> Result<Vec<Defect>, UnknownDefect> {
    std::env::var(VARIABLE).map_or(Ok(Vec::new()), |list| parse(&list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_and_unknown_ones_refused() {
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(
            parse("sigprof-spins, install-unlocked"),
            Ok(vec![Defect::SigprofSpins, Defect::InstallUnlocked])
        );
        let error = parse("sigprof-spins,nonsense").unwrap_err().to_string();
        assert!(error.contains("`nonsense`") && error.contains("copystack-unlocked"), "{error}");
    }
}
