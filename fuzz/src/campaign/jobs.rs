//! Many small campaigns, several at a time, each job on its core.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::Result;

/// The progress of jobs, as it is told to who watches.
#[derive(Debug)]
pub enum Told<'a, T, R> {
    /// A job has begun with this one.
    Began {
        /// The job's number, from 0.
        job: usize,
        /// The one it works on.
        item: &'a T,
    },
    /// A job has ended one; without a result where it was broken off.
    Ended {
        /// The job's number, from 0.
        job: usize,
        /// The result.
        result: Option<&'a R>,
    },
}

enum Message<R> {
    Began(usize, usize),
    Ended(usize, Box<Result<Option<R>>>),
}

/// Runs `try_one` on all items, in their order, in as many jobs as there are cores, until `stop` is set. An
/// item whose result is `None` was broken off, and is left out. Children that `try_one` starts must end
/// with it: it runs on a job's own thread.
///
/// # Errors
/// The first error of `try_one`, which ends the other jobs, too, by `stop`.
pub fn run_all<T: Sync, R: Send>(
    items: &[T],
    cores: &[usize],
    stop: &AtomicBool,
    try_one: impl Fn(&T, usize) -> Result<Option<R>> + Sync,
    mut watch: impl FnMut(Told<'_, T, R>),
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let (mut all, mut failure) = (Vec::new(), None);
    thread::scope(|scope| {
        for (job, &core) in cores.iter().enumerate().take(items.len()) {
            let (sender, next, try_one) = (sender.clone(), &next, &try_one);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some(item) = items.get(index) else { break };
                    // A send fails only where the other side has panicked.
                    let _ = sender.send(Message::Began(job, index));
                    let result = try_one(item, core);
                    let _ = sender.send(Message::Ended(job, Box::new(result)));
                }
            });
        }
        drop(sender);
        for message in receiver {
            match message {
                Message::Began(job, index) => watch(Told::Began { job, item: &items[index] }),
                Message::Ended(job, result) => match *result {
                    Ok(result) => {
                        watch(Told::Ended { job, result: result.as_ref() });
                        all.extend(result);
                    }
                    Err(error) => {
                        stop.store(true, Ordering::SeqCst);
                        failure.get_or_insert(error);
                    }
                },
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_items_are_tried_and_those_broken_off_are_left_out() {
        let (items, stop) = ([1, 2, 3, 4], AtomicBool::new(false));
        let (mut began, mut ended) = (0, 0);
        let even = |item: &i32, core: usize| Ok((item % 2 == 0).then_some((*item, core)));
        let mut all = run_all(&items, &[7, 7], &stop, even, |told| match told {
            Told::Began { .. } => began += 1,
            Told::Ended { .. } => ended += 1,
        })
        .unwrap();
        all.sort_unstable();
        assert_eq!((all, began, ended), (vec![(2, 7), (4, 7)], 4, 4));
    }

    #[test]
    fn an_error_ends_all_jobs() {
        let stop = AtomicBool::new(false);
        let broken = |_: &u8, _: usize| -> Result<Option<()>> { anyhow::bail!("broken") };
        assert!(run_all(&[0; 100], &[0], &stop, broken, |_| {}).is_err());
        assert!(stop.load(Ordering::SeqCst));
    }
}
