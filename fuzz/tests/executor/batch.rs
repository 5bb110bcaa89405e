//! Schedules that begin where the last one ended, on whatever thread that was, come to what
//! they come to by themselves.

use sigstorm::executor::ScheduleSource;
use sigstorm::generate::Generator;
use sigstorm::outcome::{Counts, Verdict};
use sigstorm::schedule::Schedule;
use sigstorm_runtime::Defect;

use crate::common::{describe, harness, in_child, schedule};

const SCHEDULES: usize = 2_000;

/// A list, and the counts of each that ended well.
struct List {
    schedules: Vec<Schedule>,
    begun: usize,
    counts: Vec<Counts>,
}

impl ScheduleSource for List {
    fn next(&mut self) -> Option<&Schedule> {
        let next = self.schedules.get(self.begun)?;
        self.begun += 1;
        Some(next)
    }

    fn ended(&mut self, counts: &Counts) {
        self.counts.push(*counts);
    }
}

fn list() -> List {
    let mut generator = Generator::new(0x4e1a, None);
    let mut schedules: Vec<Schedule> = (0..SCHEDULES).map(|_| generator.schedule()).collect();
    // The first, and some in between, come to no step at all.
    for index in (0..SCHEDULES).step_by(97) {
        schedules[index] = Schedule::default();
    }
    List { schedules, begun: 0, counts: Vec::new() }
}

#[test]
fn batch_of_schedules_gives_the_same_counts_as_single_runs() {
    in_child("batch::batch_of_schedules_gives_the_same_counts_as_single_runs", "", |_| {
        let (mut harness, mut list) = (harness(&[]), list());
        let found = harness.run_all(&mut list);
        assert!(found.is_none(), "a false alarm: {}", describe(&found.unwrap().finding.unwrap()));
        assert_eq!((list.begun, list.counts.len()), (SCHEDULES, SCHEDULES));
        assert!(list.counts.iter().map(|counts| counts.signals).sum::<u64>() > 2 * SCHEDULES as u64);
        for (index, (schedule, relayed)) in list.schedules.iter().zip(&list.counts).enumerate() {
            assert_eq!(harness.run(schedule, false).counts, *relayed, "schedule {index}\n{schedule}");
        }
        String::new()
    });
}

#[test]
fn batch_ends_with_its_first_finding() {
    in_child("batch::batch_ends_with_its_first_finding", "", |_| {
        let mut harness = harness(&[Defect::SigprofSpins]);
        let deadlock = schedule(
            "m1 g1 call deferring; call small; panic; recover\nm1 ret @ unwind.begin\nm1 signal\nm1 resume\n",
        );
        let quiet = || schedule("m1 g1 call tiny\n");
        let schedules = vec![quiet(), quiet(), deadlock, quiet()];
        let mut list = List { schedules, begun: 0, counts: Vec::new() };
        let run = harness.run_all(&mut list).expect("a finding");
        assert_eq!(run.verdict(), Some(Verdict::Deadlock));
        assert_eq!((list.begun, list.counts.len()), (3, 2));
        assert_eq!(run.counts.signals, 1, "of that run alone");
        String::new()
    });
}
