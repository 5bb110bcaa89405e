//! `sigstorm storm`: everything at once, in a child, watched from here.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;
use sigstorm::campaign::storm;
use sigstorm::files;
use sigstorm::process::cores;
use sigstorm::report::storm_summary::{self as summary, StormProgress, StormSummary};
use sigstorm::report::summary::{Machine, overrun};
use sigstorm::report::words::counted;
use sigstorm::report::{FoundStorm, Report, Source};
use sigstorm::storm::{Clock, DEFAULT_RATE, Delay, MAX_RATE, MAX_THREADS, StormOptions};

use super::args::{MOST_SECONDS, Planted};
use super::display::StormBar;
use super::findings::{keep, tell};
use super::output::Out;
use super::{Exit, Outcome, Trouble, interrupt, usage};

/// `storm`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm storm --seconds 60                     the core as it is, a thread on each core, until time is up
  sigstorm storm --rate 20000 --delay 0.01:500    more signals, and threads that are late more often
  sigstorm storm --clock cpu                      timers as a profiler has them; the kernel's tick bounds them
  sigstorm storm --seconds 30 --defect sigprof-spins

A storm shows that something is wrong, and where; there is no schedule to replay, and the same seed gives
the same work but not the same meetings. For a small reproducer, hunt.
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 wrong usage; 3 no answer: a harness error, no
signal, or threads with less than 5 % of a core.")]
pub struct Storm {
    /// Stop after so many seconds [default: go on until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub seconds: Option<u64>,
    /// Signals a second from each thread's timer, up to 20000
    #[arg(long, value_name = "HZ", default_value_t = DEFAULT_RATE, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    pub rate: u32,
    /// How many threads run goroutines; one more collects [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    pub threads: Option<u16>,
    /// The clock of the timers: the processor's time of their thread, or the clock on the wall
    #[arg(long, value_name = "CLOCK", default_value = "monotonic", value_parser = clock())]
    pub clock: Clock,
    /// How likely a thread is late at a scheduling point, and how many microseconds at most
    #[arg(long, value_name = "P:US", default_value_t = Delay::default())]
    pub delay: Delay,
    /// Where the random choices begin [default: a random one, which is printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Where the report of a finding goes
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub reports: PathBuf,
    #[command(flatten)]
    pub planted: Planted,
}

fn clock() -> impl TypedValueParser<Value = Clock> {
    PossibleValuesParser::new(Clock::ALL.iter().map(|clock| clock.name()))
        .try_map(|name| Clock::from_name(&name).ok_or("no such clock"))
}

/// `sigstorm storm`.
pub fn run(args: &Storm, out: &Out) -> Outcome {
    files::writable_folder(&args.reports).map_err(usage)?;
    let mut plan = plan(args);
    let stop = interrupt::install()?;
    let cores = storm::take_cores(&mut plan)?;
    announce(&plan, out)?;
    out.warn_of(&cores);
    let mut notes = cores.warnings();
    let allowed = sigstorm_inject::allowed_cores().map_or(plan.threads, |cores| cores.len());
    if plan.threads > allowed {
        let few = format!(
            "{} threads take turns on {}: less happens at once",
            plan.threads,
            counted(allowed, "core")
        );
        out.remark(&format!("note: {few}"));
        notes.push(few);
    }

    let mut display = StormBar::new(&plan, out);
    let blown = storm::blow(&plan, stop, |blown| {
        display.show(blown);
        if display.a_second_has_passed(blown) {
            // Where the output is closed, the storm still has its exit status.
            let _ = out.object(&StormProgress::new(blown));
        }
    });
    display.end();
    let blown = blown?;

    let report = blown.finding.clone().map(|finding| Report {
        finding,
        source: Source::Storm(Box::new(FoundStorm { options: plan.clone(), blown: blown.clone() })),
        defects: plan.defects.clone(),
        seed: plan.seed,
        seconds: blown.seconds,
        notes: Vec::new(),
    });
    let written = report.as_ref().and_then(|report| keep(report, &args.reports));
    let verdict = blown.finding.as_ref().map(|finding| finding.verdict.as_str());
    let inconclusive = blown.inconclusive();
    let exit = match inconclusive {
        Some(_) => Exit::Inconclusive,
        None => Exit::of_verdict(verdict),
    };
    let late = overrun(plan.seconds, blown.seconds).filter(|late| *late >= 1.0);
    notes.extend(late.map(|late| format!("took {late:.1} s longer than it should")));
    let machine = Machine { cores: cores.numbers(), inconclusive, notes };
    let summary = StormSummary::new(&plan, &blown, verdict, written.as_deref(), Some(&machine));
    let told = out.object(&summary).and_then(|()| {
        out.say(&summary::table(&plan, &blown))?;
        if let Some(share) = blown.share.filter(|share| *share < FEW) {
            out.say(&format!("threads had {}", cores::in_words(&[Some(share)])))?;
        }
        if let Some(late) = late {
            out.say(&format!("took {late:.1} s longer than it should"))?;
        }
        match (&report, inconclusive) {
            (None, Some(reason)) => out.inconclusive(reason),
            (None, None) => out.say(&format!("nothing found in {:.1} s", blown.seconds)),
            (Some(report), _) => tell(report, written.as_deref(), &args.reports, out),
        }
    });
    exit.once_told(told)
}

/// Threads of a storm sleep now and then, too. With less of a core than this others were in their way.
const FEW: f64 = 0.25;

fn plan(args: &Storm) -> StormOptions {
    let mut defects = args.planted.defects.clone();
    defects.sort();
    defects.dedup();
    StormOptions {
        seconds: args.seconds,
        rate: args.rate,
        threads: args.threads.map_or_else(storm::usual_threads, usize::from),
        clock: args.clock,
        delay: args.delay,
        // Short enough to be typed, and for every reader of JSON.
        seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) & 0xffff_ffff),
        defects,
        ..StormOptions::default()
    }
}

fn announce(plan: &StormOptions, out: &Out) -> Result<(), Trouble> {
    let names: Vec<_> = plan.defects.iter().map(|defect| defect.name()).collect();
    out.object(&json!({
        "type": "start", "command": "storm", "seed": plan.seed, "threads": plan.threads,
        "rate": plan.rate, "clock": plan.clock.name(), "delay": plan.delay.to_string(), "defects": names,
    }))?;
    let planted =
        if names.is_empty() { "the core as it is".into() } else { format!("planted: {}", names.join(", ")) };
    let budget = plan.seconds.map_or("until Ctrl-C".into(), |seconds| format!("for {seconds} s"));
    out.remark(&format!(
        "storm {budget}: {} threads and the collector, {} Hz ({}), delays {}, seed {}, {planted}",
        plan.threads,
        plan.rate,
        plan.clock.name(),
        plan.delay,
        plan.seed
    ));
    if plan.clock == Clock::Cpu && plan.rate > 250 {
        out.remark(
            "the kernel looks at processor-time clocks once a tick: expect fewer signals than asked for",
        );
    }
    Ok(())
}
