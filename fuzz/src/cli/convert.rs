//! `sigstorm show` and `sigstorm pack`: between the two forms of a schedule.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use sigstorm::files::input::{self, Input};
use sigstorm::files::{self, origin};
use sigstorm::report::words::{counted, lossy_path};
use sigstorm::schedule::checks;

use super::output::Out;
use super::{Exit, Outcome, Trouble, usage};

pub const SHOW_EXAMPLES: &str = "\
Examples:
  sigstorm show schedule.bin
  sigstorm show crash-3fa9 -o schedule.txt
  head -c 64 /dev/urandom | sigstorm show -        any bytes are a schedule";

pub const PACK_EXAMPLES: &str = "\
Examples:
  sigstorm pack schedule.txt -o schedule.bin
  sigstorm pack schedule.txt | xxd";

/// `show` and `pack`.
#[derive(Args, Debug)]
pub struct Convert {
    /// A schedule, as text or as bytes; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where it goes [default: standard output]
    #[arg(short, long = "out", value_name = "OUT")]
    pub out: Option<PathBuf>,
}

#[derive(Serialize)]
struct ConvertSummary<'a> {
    r#type: &'a str,
    command: &'a str,
    file: &'a str,
    steps: usize,
    #[serde(serialize_with = "lossy_path")]
    output: Option<&'a Path>,
    /// The text, where `show` does not write it to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// The bytes, where `pack` does not write them to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
    notes: &'a [String],
}

/// `sigstorm show`.
pub fn show(args: &Convert, out: &Out) -> Outcome {
    let input = load(args, out)?;
    let text = input.origin.text(&input.schedule);
    let destination = destination(args);
    match destination {
        Some(path) => write(path, text.as_bytes())?,
        None if !out.json => out.text(&text)?,
        None => {}
    }
    let inline = destination.is_none().then_some(text.as_str());
    out.object(&ConvertSummary { text: inline, ..summary("show", &input, destination) })?;
    Ok(Exit::Clean)
}

/// `sigstorm pack`.
pub fn pack(args: &Convert, out: &Out) -> Outcome {
    let destination = destination(args);
    if destination.is_none() && !out.json && io::stdout().is_terminal() {
        let message = "bytes are not for a terminal: name a file with -o OUT, or pipe them somewhere";
        return Err(Trouble::Usage(message.into()));
    }
    let input = load(args, out)?;
    let bytes = input.schedule.encode();
    match destination {
        Some(path) => write(path, &bytes)?,
        None if !out.json => out.bytes(&bytes)?,
        None => {}
    }
    let hex = destination.is_none().then(|| hex(&bytes));
    out.object(&ConvertSummary { hex, ..summary("pack", &input, destination) })?;
    Ok(Exit::Clean)
}

fn load(args: &Convert, out: &Out) -> Result<Input, Trouble> {
    let mut input = input::load(&args.file).map_err(Trouble::Usage)?;
    let unchecked = checks::unchecked(&input.schedule);
    input.schedule = origin::checked(&input.schedule);
    if unchecked != 0 {
        input.notes.push(format!(
            "{}: {} given this build's check value",
            input.name,
            counted(unchecked, "stop")
        ));
    }
    for note in &input.notes {
        out.remark(&format!("note: {note}"));
    }
    Ok(input)
}

fn destination(args: &Convert) -> Option<&Path> {
    args.out.as_deref().filter(|path| *path != Path::new("-"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Trouble> {
    files::write(path, bytes).map_err(usage)
}

fn summary<'a>(command: &'a str, input: &'a Input, output: Option<&'a Path>) -> ConvertSummary<'a> {
    let (text, hex, steps) = (None, None, input.schedule.steps.len());
    ConvertSummary {
        r#type: "summary",
        command,
        file: &input.name,
        steps,
        output,
        text,
        hex,
        notes: &input.notes,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // A string takes whatever is written.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
