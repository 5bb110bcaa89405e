//! Words for findings: stacks, locks, places, and what a program's end means.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use object::{Object as _, ObjectSymbol as _};
use sigstorm_inject::remote::symbols::SourceFrame;
use sigstorm_inject::remote::{End as StackEnd, Error};

use super::finding::{Found, Kind, Lock, Site};
use super::flight::How;
use super::look;
use super::plan::signal_name;
use super::session::{Session, Task};
use super::stuck;

/// The frames of a stack that are shown.
const DEPTH: usize = 48;

/// A frame's text without offset and line: `libc.so.6!malloc` of `libc.so.6!malloc+0x12 (malloc.c:3)`.
pub(super) fn bare(frame: &str) -> &str {
    let frame = frame.split(" (").next().unwrap_or(frame);
    frame.rsplit_once('+').map_or(frame, |(name, _)| name)
}

/// The stacks of a process.
#[derive(Debug)]
pub(super) struct Stacks {
    /// Each thread's, in lines.
    pub(super) of: BTreeMap<i32, Vec<String>>,
    /// All of them, for a report.
    pub(super) lines: Vec<String>,
}

impl Session<'_> {
    /// A held thread's stack, in lines.
    pub(super) fn stack_of(&mut self, tid: i32) -> Vec<String> {
        if self.kit.symbols.pid() != Some(self.tracer.pid()) || self.tracer.kernel_state(tid).is_none() {
            // Another process's, before the first boundary.
            let _ = self.kit.symbols.refresh(self.tracer.pid());
        }
        let Ok(stack) = self.tracer.stack(&self.kit.symbols, tid, DEPTH) else { return Vec::new() };
        let mut lines = Vec::new();
        for (number, frame) in stack.frames.iter().enumerate() {
            if frame.is_interrupted() {
                lines.push("-- interrupted here by the signal --".to_owned());
            }
            // The restorer, to which the handler returns, is nobody's call.
            if stack.frames.get(number + 1).is_none_or(|outer| !outer.is_interrupted()) {
                lines.extend(self.kit.symbols.frame_lines(frame));
            }
        }
        match stack.end {
            StackEnd::Root => {}
            StackEnd::Depth => lines.push("... and more".into()),
            StackEnd::Lost(why) => lines.push(format!("... {why}")),
        }
        lines
    }

    /// Stops every thread of a process, and reads their stacks.
    pub(super) fn stacks(&mut self, pid: i32) -> Result<Stacks, Error> {
        self.hold_all_but(pid, None)?;
        let _ = self.kit.symbols.refresh(pid);
        let mut stacks = BTreeMap::new();
        let mut lines = Vec::new();
        for tid in self.tracer.threads(pid) {
            let stack = self.stack_of(tid);
            let name = look::thread(pid, tid).map_or_else(String::new, |look| look.name);
            let handler = match self.flights.contains_key(&tid) {
                true => ", in the handler",
                false => "",
            };
            lines.push(format!("thread {tid} ({}{handler})", name));
            lines.extend(stack.iter().map(|line| format!("    {line}")));
            stacks.insert(tid, stack);
        }
        Ok(Stacks { of: stacks, lines })
    }

    /// The place at which a thread's handler interrupted it.
    pub(super) fn interrupted(&self, tid: i32) -> String {
        let pc = self.flights.get(&tid).and_then(|flights| flights.first()).map(|flight| flight.interrupted);
        pc.map_or_else(|| "an unknown place".into(), |pc| self.place(pc))
    }

    fn place(&self, address: u64) -> String {
        self.kit.symbols.describe(address).unwrap_or_else(|| format!("{address:#x}"))
    }

    /// A point as it means the same in every process.
    pub(super) fn site(&self, point: usize, visit: u32) -> Site {
        let points = &self.kit.points;
        let function = points.function(point);
        let mapped = self.kit.symbols.objects().iter().find(|mapped| mapped.path == function.object);
        let address = mapped.map(|mapped| points.address(point).wrapping_add(mapped.bias));
        let source = address.map(|address| self.kit.symbols.source(address)).unwrap_or_default();
        let line = |frame: &SourceFrame| Some(format!("{}:{}", frame.file.as_ref()?, frame.line?));
        Site {
            object: function.object.to_string_lossy().into_owned(),
            function: function.name.clone(),
            address: points.address(point),
            offset: u64::from(points.get(point).offset),
            instruction: address
                .and_then(|address| self.kit.symbols.disassemble(address))
                .unwrap_or_default(),
            source: source.first().and_then(line),
            visit,
            held: self.last_held,
        }
    }

    /// Names the lock with a word at this address. `waiter` is the stack of who waits for it.
    pub(super) fn lock_at(&self, pid: i32, address: u64, waiter: &[String]) -> Lock {
        // glibc keeps an arena's record at the start of a heap of 64 MiB, which names it.
        const HEAP: u64 = 64 << 20;
        let heap = address & !(HEAP - 1);
        let is_arena = heap != 0 && self.tracer.read_word(pid, heap).is_ok_and(|arena| arena == address)
            || waiter.iter().any(|frame| frame.contains("arena_get"));
        stuck::lock(address, self.data_symbol(address), is_arena, self.mapping(pid, address))
    }

    /// The variable that contains an address, with its object: `libc.so.6!main_arena`.
    fn data_symbol(&self, address: u64) -> Option<String> {
        let place = self.kit.symbols.find(address)?;
        let found = &self.kit.symbols.objects()[place.object].object;
        let files = [Some(found.path()), found.debug_file()];
        let name = files.into_iter().flatten().find_map(|path| {
            let bytes = std::fs::read(path).ok()?;
            let file = object::File::parse(&*bytes).ok()?;
            let contains =
                |start: u64, size: u64| place.address.checked_sub(start).is_some_and(|at| at < size.max(1));
            let is_it = |symbol: &object::Symbol<'_, '_>| {
                symbol.kind() == object::SymbolKind::Data && contains(symbol.address(), symbol.size())
            };
            let symbol = file.symbols().find(is_it).or_else(|| file.dynamic_symbols().find(is_it))?;
            symbol.name().ok().map(str::to_owned)
        })?;
        Some(format!("{}!{name}", found.name()))
    }

    /// The kind of memory that an address lies in.
    fn mapping(&self, pid: i32, address: u64) -> Option<String> {
        let mappings = self.tracer.mappings(pid).ok()?;
        let mapping = mappings.into_iter().find(|mapping| mapping.range.contains(&address))?;
        Some(match mapping.path.as_str() {
            "" => "memory without a name".into(),
            path => path.rsplit('/').next().unwrap_or(path).to_owned(),
        })
    }

    /// The boundaries at which signals came, each once, in order.
    pub(super) fn served_before(&self) -> Vec<(PathBuf, u64)> {
        let points = &self.kit.points;
        let mut seen = HashSet::new();
        let fresh = self.log.iter().filter(|(point, _)| seen.insert(*point));
        fresh.map(|(point, _)| (points.function(*point).object.clone(), points.address(*point))).collect()
    }

    /// The injection that a process's end comes of, as far as one can say: that whose handler ran, or else the last.
    fn blamed(&self, tid: Option<i32>) -> (Option<(usize, u32)>, Option<String>) {
        let of = |tid: i32| self.flights.get(&tid).and_then(|flights| flights.first());
        let flight =
            tid.and_then(of).or_else(|| self.flights.values().flat_map(|flights| flights.first()).next());
        match (flight, self.log.last()) {
            (Some(flight), _) => {
                let how = match flight.how {
                    How::Here => "in the handler of the signal",
                    How::Other => "in the handler of another thread, while one was held at the boundary",
                    How::Pending => "in the handler of a signal that was pending",
                    How::Asleep => "in the handler of a signal that came while it slept in the system call",
                    How::Second => "in the handler of the second signal",
                };
                (flight.point.or_else(|| self.log.last().copied()), Some(how.to_owned()))
            }
            (None, Some(last)) => (Some(*last), Some("while no handler of a delivered signal ran".into())),
            (None, None) => (None, None),
        }
    }

    /// The process has ended: as it does undisturbed, or not.
    pub(super) fn judge_end(&mut self, status: ExitStatus) {
        if matches!(self.task, Task::Undisturbed) {
            return;
        }
        self.judge_lost();
        if let Some(signal) = status.signal() {
            if !self.expected.dies_of(signal) {
                self.crashed(signal);
            }
            return;
        }
        let Some(code) = status.code() else { return };
        let Some(expected) = self.expected.code() else { return };
        if code == expected || self.plan.allow_exit.contains(&code) || self.log.is_empty() {
            return;
        }
        let (point, how) = self.blamed(None);
        let mut evidence = vec![
            format!("undisturbed: exit status {expected}, in each of {} runs", self.expected.runs()),
            format!("disturbed:   exit status {code}"),
        ];
        evidence.extend(how);
        self.found.push(Found {
            kind: Kind::Exit,
            summary: format!("the program ends with exit status {code}, undisturbed with {expected}"),
            evidence,
            stacks: Vec::new(),
            site: point.map(|(point, visit)| self.site(point, visit)),
            place: format!("status {code}"),
            lock: None,
            thread: 0,
            certain: true,
            log: self.served_before(),
            others: Vec::new(),
        });
    }

    fn crashed(&mut self, signal: i32) {
        if self.log.is_empty() {
            // It died by itself before anything was done to it.
            return;
        }
        let name = signal_name(signal);
        let last = self.fatal.iter().rev().find(|(_, info, _)| info.signal == signal).cloned();
        let (tid, stack) =
            last.as_ref().map_or((None, Vec::new()), |(tid, _, stack)| (Some(*tid), stack.clone()));
        let late = self.arrived_late.filter(|_| signal == self.plan.signal.number);
        let (point, how) = match late {
            Some((_, point)) => (point.or_else(|| self.log.last().copied()), None),
            None => self.blamed(tid),
        };
        let mut evidence = Vec::new();
        if let Some((_, info, _)) = &last
            && matches!(signal, libc::SIGSEGV | libc::SIGBUS)
            && info.code > 0
        {
            evidence.push(format!("the address {:#x} was used", info.address));
        }
        match late {
            Some(_) => {
                evidence.push(format!(
                    "{name} was blocked when it was sent; when it arrived, the handler was gone"
                ));
            }
            None => evidence.extend(how.map(|how| format!("the program died {how}"))),
        }
        let is_frame = |line: &&String| !line.starts_with("--") && !line.starts_with("...");
        let site = stack.iter().find(is_frame).map(|frame| bare(frame).to_owned());
        let place = match (&site, late) {
            (_, Some(_)) => format!("{name}, after its handler was removed"),
            (Some(site), _) => format!("{name} in {site}"),
            (None, _) => name.clone(),
        };
        let mut stacks = Vec::new();
        if !stack.is_empty() {
            stacks.push(format!("the thread that died ({})", tid.unwrap_or(0)));
            stacks.extend(stack.iter().map(|line| format!("    {line}")));
        }
        self.found.push(Found {
            kind: Kind::Crash,
            summary: match &site {
                Some(site) if late.is_none() => format!("the program dies of {name} in {site}"),
                _ => format!("the program dies of {name}"),
            },
            evidence,
            stacks,
            site: point.map(|(point, visit)| self.site(point, visit)),
            place,
            lock: None,
            thread: tid.unwrap_or(0),
            certain: true,
            log: self.served_before(),
            others: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_named_without_offset_and_line() {
        assert_eq!(bare("libc.so.6!malloc+0x12 (malloc.c:3)"), "libc.so.6!malloc");
        assert_eq!(bare("prog!main"), "prog!main");
        assert_eq!(bare("prog!f (a.c:1) inlined"), "prog!f");
    }
}
