//! Statistics of trials of which some end before what they wait for has happened.
//!
//! Such a trial is *censored*: it says that the time is longer than its budget, not how long
//! it is. Leaving it out would flatter, so a median counts it as longer than any other, and
//! a survival curve does not fall for it.

/// The median of all trials, a censored one (`None`) as longer than any. `None` where more
/// than half are censored; where exactly half are, the longest of the others.
pub fn median(trials: &[Option<f64>]) -> Option<f64> {
    let sorted = sorted(trials);
    let n = trials.len();
    if n == 0 {
        return None;
    }
    let (lower, upper) = (sorted.get((n - 1) / 2).copied()?, sorted.get(n / 2).copied());
    Some(upper.map_or(lower, |upper| (lower + upper) / 2.0))
}

/// The shortest, and the longest if none is censored.
pub fn range(trials: &[Option<f64>]) -> (Option<f64>, Option<f64>) {
    let sorted = sorted(trials);
    let longest = sorted.last().copied().filter(|_| sorted.len() == trials.len());
    (sorted.first().copied(), longest)
}

/// The trials that are not censored, in order.
fn sorted(trials: &[Option<f64>]) -> Vec<f64> {
    let mut sorted: Vec<f64> = trials.iter().copied().flatten().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The share of trials in which it has not happened yet, at each time at which that falls:
/// every trial has the same budget, so this is the estimate of Kaplan and Meier.
pub fn survival(trials: &[Option<f64>]) -> Vec<(f64, f64)> {
    let n = trials.len() as f64;
    sorted(trials).iter().enumerate().map(|(i, &time)| (time, (n - 1.0 - i as f64) / n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_counts_what_was_never_found() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[Some(3.0), Some(1.0), Some(2.0)]), Some(2.0));
        assert_eq!(median(&[Some(1.0), Some(2.0), Some(4.0), Some(8.0)]), Some(3.0));
        assert_eq!(median(&[Some(1.0), None, Some(2.0)]), Some(2.0));
        assert_eq!(median(&[Some(1.0), None, None]), None);
        assert_eq!(median(&[None, Some(1.0), None, Some(2.0)]), Some(2.0));
        assert_eq!(median(&[None]), None);
    }

    #[test]
    fn a_range_is_open_where_a_trial_is_censored() {
        assert_eq!(range(&[Some(2.0), Some(1.0)]), (Some(1.0), Some(2.0)));
        assert_eq!(range(&[Some(2.0), None]), (Some(2.0), None));
        assert_eq!(range(&[None]), (None, None));
    }

    #[test]
    fn survival_falls_with_each_find_and_ends_with_what_is_censored() {
        assert_eq!(survival(&[Some(2.0), None, Some(1.0), None]), [(1.0, 0.75), (2.0, 0.5)]);
        assert_eq!(survival(&[Some(1.0)]), [(1.0, 0.0)]);
        assert!(survival(&[None]).is_empty());
    }
}
