//! The core that a worker's threads share.
//!
//! Fuzzing engines and containers pin processes, too, so a core is chosen from the mask that this
//! process *inherited*, never from all that the machine has. The mask is read once: after the first [`pin`] the thread's
//! own mask has a single core in it and would say nothing.

use std::io;
use std::sync::OnceLock;

static INHERITED: OnceLock<Vec<usize>> = OnceLock::new();

/// The numbers of the cores that this process may run on, in order, as they were at the first
/// call. Never empty.
///
/// # Errors
///
/// If the kernel does not tell the mask.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    inherited().map(<[usize]>::to_vec)
}

/// Pins the calling thread, and the threads it starts from now on, to the
/// `nth` of [`allowed_cores`] (modulo their number). Returns that core's number.
///
/// # Errors
///
/// If the kernel refuses, or does not tell the mask.
pub fn pin(nth: usize) -> io::Result<usize> {
    let cores = inherited()?;
    confine(&[nth])?;
    Ok(cores[nth % cores.len()])
}

/// Makes the calling thread, and the threads it starts from now on, run only on these of
/// [`allowed_cores`] (modulo their number).
///
/// # Errors
///
/// If the kernel refuses, as it does for an empty list.
pub fn confine(nths: &[usize]) -> io::Result<()> {
    let cores = inherited()?;
    let mut mask = vec![0u64; cores.iter().max().map_or(1, |last| last / 64 + 1)];
    for nth in nths {
        let core = cores[nth % cores.len()];
        mask[core / 64] |= 1 << (core % 64);
    }
    // SAFETY: The kernel reads as many bytes as the mask has; thread 0 is the
    // caller.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&mask[..]), mask.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The core on which the kernel runs the calling thread, counted among [`allowed_cores`]:
/// of those the one that it found least busy. Two controlled workers on one core starve
/// each other, so a process that has no better reason pins itself to this one.
pub fn nearest() -> usize {
    // SAFETY: it only asks.
    let core = unsafe { libc::sched_getcpu() };
    let position = |cores: &[usize]| cores.iter().position(|allowed| i32::try_from(*allowed) == Ok(core));
    inherited().ok().and_then(position).unwrap_or(0)
}

fn inherited() -> io::Result<&'static [usize]> {
    if let Some(cores) = INHERITED.get() {
        return Ok(cores);
    }
    let cores = current()?;
    Ok(INHERITED.get_or_init(|| cores))
}

/// The calling thread's mask. The kernel refuses a buffer that is smaller than
/// its own mask, whose size it does not tell: grow until it fits.
fn current() -> io::Result<Vec<usize>> {
    let mut mask = vec![0u64; 16];
    loop {
        // SAFETY: The kernel writes at most as many bytes as the mask has;
        // thread 0 is the caller.
        let result = unsafe { libc::sched_getaffinity(0, size_of_val(&mask[..]), mask.as_mut_ptr().cast()) };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) || mask.len() >= 1 << 14 {
            return Err(error);
        }
        mask.resize(mask.len() * 2, 0);
    }
    let cores: Vec<usize> =
        (0..mask.len() * 64).filter(|core| mask[core / 64] >> (core % 64) & 1 == 1).collect();
    if cores.is_empty() {
        return Err(io::Error::other("the affinity mask has no core in it"));
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_modulo_and_remembers_what_was_inherited() {
        // On a thread of its own: the mask is the thread's.
        std::thread::spawn(|| {
            let before = current().expect("the mask can be read");
            let allowed = allowed_cores().expect("the mask can be read");
            assert_eq!(before, allowed);
            for nth in [0, allowed.len() - 1, allowed.len(), 7 * allowed.len() + 1] {
                let core = pin(nth).expect("an allowed core");
                assert_eq!(core, allowed[nth % allowed.len()]);
                assert_eq!(current().expect("the mask can be read"), [core]);
                let child = std::thread::spawn(|| current().expect("the mask can be read"));
                assert_eq!(child.join().expect("no panic"), [core], "children inherit");
            }
            let all: Vec<usize> = (0..allowed.len()).collect();
            confine(&all).expect("every allowed core");
            assert_eq!(current().expect("the mask can be read"), allowed);
            assert!(confine(&[]).is_err());
            assert_eq!(allowed_cores().expect("kept"), allowed, "pinning does not narrow it");
        })
        .join()
        .expect("no panic");
    }
}
