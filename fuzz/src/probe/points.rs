//! The boundaries that a probe serves, by object and address, so that a point means the same in every process.
//!
//! A session adds functions as it finds them mapped ([`Points::add`]); a point keeps its number for the whole
//! probe. Where a process has it is the session's to know ([`Session`](super::session::Session)).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sigstorm_inject::remote::symbols::{Kind, Mapped};

/// A boundary: an instruction of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The number of its function in [`Points`].
    pub function: usize,
    /// Bytes from the function's first.
    pub offset: u32,
    /// Whether it is a system call.
    pub is_syscall: bool,
}

/// A function whose boundaries are points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedFunction {
    /// The path of the object as the process's mappings show it.
    pub object: PathBuf,
    /// The name, demangled.
    pub name: String,
    /// The address in the object's file.
    pub address: u64,
    /// The size in bytes.
    pub size: u64,
    /// The numbers of its points.
    pub points: Range<usize>,
    /// Why it was chosen, where nobody named it.
    pub reason: Option<&'static str>,
}

impl ProbedFunction {
    /// The object's file name.
    pub fn object_name(&self) -> String {
        let name = self.object.file_name().unwrap_or(self.object.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// A number for each point, 0 at first.
#[derive(Clone, Debug, Default)]
pub struct Tally(Vec<u32>);

impl Tally {
    /// A point's number.
    pub fn get(&self, point: usize) -> u32 {
        self.0.get(point).copied().unwrap_or(0)
    }

    /// A point's number, to be changed.
    pub fn at(&mut self, point: usize) -> &mut u32 {
        if self.0.len() <= point {
            self.0.resize(point + 1, 0);
        }
        &mut self.0[point]
    }

    /// The points whose number is not 0.
    pub fn counted(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, number)| **number > 0).map(|(point, _)| point)
    }
}

/// All points of a probe.
#[derive(Clone, Debug, Default)]
pub struct Points {
    all: Vec<Point>,
    functions: Vec<ProbedFunction>,
    by_address: HashMap<PathBuf, HashMap<u64, usize>>,
    known: HashMap<PathBuf, HashMap<u64, Option<usize>>>,
    /// Functions without points, by reason.
    pub left_out: BTreeMap<&'static str, BTreeSet<String>>,
    /// Boundaries that are none, by reason.
    pub boundaries_left_out: BTreeMap<&'static str, u64>,
}

impl Points {
    /// The number of points.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A point.
    pub fn get(&self, point: usize) -> Point {
        self.all[point]
    }

    /// Returns whether a point is a system call.
    pub fn is_syscall(&self, point: usize) -> bool {
        self.all[point].is_syscall
    }

    /// The functions.
    pub fn functions(&self) -> &[ProbedFunction] {
        &self.functions
    }

    /// The function of a point.
    pub fn function(&self, point: usize) -> &ProbedFunction {
        &self.functions[self.all[point].function]
    }

    /// The address of a point in its object's file.
    pub fn address(&self, point: usize) -> u64 {
        self.function(point).address + u64::from(self.all[point].offset)
    }

    /// The point at an address of an object's file.
    pub fn find(&self, object: &Path, address: u64) -> Option<usize> {
        self.by_address.get(object)?.get(&address).copied()
    }

    /// `object!function+0x1f`.
    pub fn describe(&self, point: usize) -> String {
        let function = self.function(point);
        format!("{}!{}+{:#x}", function.object_name(), function.name, self.all[point].offset)
    }

    /// Adds a function that a process has mapped, unless it is there already. Returns its number; nothing where
    /// no breakpoint may be laid in it.
    pub fn add(&mut self, mapped: &Mapped, function: usize, reason: Option<&'static str>) -> Option<usize> {
        let functions = mapped.object.functions();
        let found = functions.all().get(function).copied()?;
        let known = self.known.entry(mapped.path.clone()).or_default();
        if let Some(number) = known.get(&found.address) {
            return *number;
        }
        let name = functions.name(function).into_owned();
        let code = match mapped.object.decode(function) {
            Ok(code) => code,
            Err(why) => {
                known.insert(found.address, None);
                self.left_out.entry(why.reason()).or_default().insert(name);
                return None;
            }
        };
        let number = self.functions.len();
        known.insert(found.address, Some(number));
        let addresses = self.by_address.entry(mapped.path.clone()).or_default();
        let first = self.all.len();
        for boundary in &code.boundaries {
            if boundary.in_rseq {
                *self.boundaries_left_out.entry("restartable-sequence").or_default() += 1;
                continue;
            }
            // Functions may overlap: a second entry into one.
            let std::collections::hash_map::Entry::Vacant(entry) =
                addresses.entry(found.address + u64::from(boundary.offset))
            else {
                continue;
            };
            entry.insert(self.all.len());
            self.all.push(Point {
                function: number,
                offset: boundary.offset,
                is_syscall: boundary.kind == Kind::Syscall,
            });
        }
        if code.unreached > 0 {
            *self.boundaries_left_out.entry("not-reached-by-descent").or_default() +=
                u64::from(code.unreached);
        }
        self.functions.push(ProbedFunction {
            object: mapped.path.clone(),
            name,
            address: found.address,
            size: found.size,
            points: first..self.all.len(),
            reason,
        });
        Some(number)
    }
}
