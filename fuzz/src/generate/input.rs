//! Schedules as engines have them: bytes, in a buffer that takes so many.

use super::Generator;
use crate::schedule::{STEP_BYTES, Schedule};

/// Below this many steps there is nothing to mutate.
const SHORT: usize = 4;

impl Generator {
    /// Makes an input: more often than not from nothing, or else from the one that is there.
    /// `data` has `size` bytes of that and takes the new ones; returns their number.
    pub fn next_bytes(&mut self, data: &mut [u8], size: usize) -> usize {
        if self.starts_over() { put(&self.schedule(), data) } else { self.mutate_bytes(data, size) }
    }

    /// Mutates the input that is there. As [`next_bytes`](Self::next_bytes) otherwise.
    pub fn mutate_bytes(&mut self, data: &mut [u8], size: usize) -> usize {
        let mut schedule = Schedule::decode(&data[..size.min(data.len())]);
        if schedule.steps.len() < SHORT {
            schedule = self.schedule();
        } else {
            self.mutate(&mut schedule);
        }
        put(&schedule, data)
    }

    /// The beginning of one and the end of another; how many bytes of `out` that takes.
    pub fn cross_bytes(&mut self, one: &[u8], other: &[u8], out: &mut [u8]) -> usize {
        put(&self.cross(&Schedule::decode(one), &Schedule::decode(other)), out)
    }
}

/// Writes as many whole steps as fit; how many bytes that are.
pub fn put(schedule: &Schedule, out: &mut [u8]) -> usize {
    let bytes = schedule.encode();
    let size = bytes.len().min(out.len() / STEP_BYTES * STEP_BYTES);
    out[..size].copy_from_slice(&bytes[..size]);
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_input_fits_the_buffer_and_has_whole_steps() {
        let mut generator = Generator::new(3, None);
        let mut data = vec![0xa5; 10 * STEP_BYTES + 3];
        for size in [0, 1, STEP_BYTES, data.len(), data.len() + 9] {
            for _ in 0..50 {
                let size = generator.next_bytes(&mut data, size);
                assert!(size.is_multiple_of(STEP_BYTES));
                assert!(size <= 10 * STEP_BYTES);
                let schedule = Schedule::decode(&data[..size]);
                assert_eq!(schedule.encode(), data[..size], "what is made is canonical");
                let mut out = vec![0; 5 * STEP_BYTES];
                let crossed = generator.cross_bytes(&data[..size], &data, &mut out);
                assert!(crossed.is_multiple_of(STEP_BYTES) && crossed <= out.len());
            }
        }
    }
}
