//! The functions of an object: addresses, sizes, names.
//!
//! # Sources
//!
//! 1. `.symtab` of the object; if it was stripped, that of its debug file. Then `.dynsym`, and
//!    Go's table.
//! 2. Symbols of one address are one function with several names (aliases).
//! 3. A symbol without a size gets one: from the unwind table if a range starts there, else the
//!    function ends where the next one, or the section, does. A label without a type inside
//!    another function is no function.
//! 4. A range of the unwind table that no function overlaps is a function without a name.
//!    Reports name it by the nearest name below.
//!
//! An IFUNC symbol names the *resolver*, which the loader calls once to choose the function. Such
//! names are marked ([`Function::is_resolver`]).

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::build::Name;
use super::names;

/// Where a function's range comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A symbol with a size.
    Symbol,
    /// Go's function table.
    Go,
    /// The unwind table.
    Unwind,
    /// A symbol without a size: the end is where the next function or the section ends.
    Guess,
}

/// A function of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// The link-time address of its first byte: a process adds the object's bias.
    pub address: u64,
    /// Its size in bytes, at least 1.
    pub size: u64,
    /// Where the range comes from.
    pub origin: Origin,
    /// Whether every name of the function is an IFUNC's: the code chooses a function, and runs
    /// once for each object that uses it.
    pub is_resolver: bool,
    /// The first of its names, or the nearest function below if it has no name.
    pub(super) names: u32,
    pub(super) name_count: u32,
}

impl Function {
    /// One past the address of the last byte.
    pub fn end(&self) -> u64 {
        self.address + self.size
    }

    /// Returns whether the function has a name of its own.
    pub fn is_named(&self) -> bool {
        self.name_count != 0
    }
}

/// The functions of one object, in order of address.
#[derive(Debug, Default)]
pub struct Functions {
    pub(super) functions: Vec<Function>,
    /// For each function, the highest end of it and of those before it.
    pub(super) highest_end: Vec<u64>,
    pub(super) names: Vec<Name>,
    pub(super) text: String,
    /// The object's file name, for functions below every name.
    pub(super) object: String,
    pub(super) is_go: bool,
    pub(super) problems: Vec<String>,
}

impl Functions {
    /// The functions in order of address. A function's number is its index here.
    pub fn all(&self) -> &[Function] {
        &self.functions
    }

    /// The number of functions.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Returns whether the object has Go's function table.
    pub fn is_go(&self) -> bool {
        self.is_go
    }

    /// Returns whether some function has no name.
    pub(super) fn has_unnamed(&self) -> bool {
        self.functions.iter().any(|function| !function.is_named())
    }

    /// The parts that could not be read, each as a sentence. The rest was read all the same.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The symbols of function `f`, the best one first, each with whether it is an IFUNC's.
    pub fn symbols(&self, f: usize) -> impl Iterator<Item = (&str, bool)> {
        let range = self.functions.get(f).filter(|f| f.is_named()).map_or(0..0, |f| {
            let first = f.names as usize;
            first..first + f.name_count as usize
        });
        self.names[range].iter().map(|name| (&self.text[name.text()], name.ifunc))
    }

    /// The name of function `f`, demangled; for one without a name, the nearest name below and
    /// the distance to it, such as `PyEval_EvalCode+0x1230`.
    pub fn name(&self, f: usize) -> Cow<'_, str> {
        let Some(function) = self.functions.get(f) else { return Cow::Borrowed("") };
        if let Some((symbol, _)) = self.symbols(f).next() {
            return if self.is_go { Cow::Borrowed(symbol) } else { names::demangle(symbol) };
        }
        let (name, start) = self.nearest_name(function);
        Cow::Owned(format!("{name}+{:#x}", function.address - start))
    }

    /// The name that an offset into a function without a name counts from, and its address.
    fn nearest_name(&self, function: &Function) -> (Cow<'_, str>, u64) {
        match self.functions.get(function.names as usize) {
            Some(below) if below.is_named() && below.address <= function.address => {
                (self.name(function.names as usize), below.address)
            }
            _ => (Cow::Borrowed(self.object.as_str()), 0),
        }
    }

    /// The number of the function that contains a link-time address: the one that starts last if
    /// several do.
    pub fn at(&self, address: u64) -> Option<usize> {
        let mut after = self.functions.partition_point(|f| f.address <= address);
        while after > 0 && self.highest_end[after - 1] > address {
            after -= 1;
            if self.functions[after].end() > address {
                return Some(after);
            }
        }
        None
    }

    /// The numbers of the functions that start in a range of addresses.
    pub fn starting_in(&self, addresses: Range<u64>) -> Range<usize> {
        let first = self.functions.partition_point(|f| f.address < addresses.start);
        let end = self.functions.partition_point(|f| f.address < addresses.end);
        first..end.max(first)
    }

    /// Name and offset of a link-time address, such as `malloc+0x12`; `malloc` for its first byte.
    pub fn describe(&self, address: u64) -> Option<String> {
        self.describe_in(address, 0)
    }

    /// As [`Functions::describe`], with `more` added to the offset.
    pub(super) fn describe_in(&self, address: u64, more: u64) -> Option<String> {
        let f = self.at(address)?;
        let function = &self.functions[f];
        let (name, start) = match function.is_named() {
            true => (self.name(f), function.address),
            false => self.nearest_name(function),
        };
        Some(with_offset(&name, address - start + more))
    }

    /// The parts of functions that compilers put elsewhere (`.cold`): for each base name that has
    /// such a part, the numbers of its functions, parts included.
    pub(super) fn families(&self) -> HashMap<String, Vec<usize>> {
        let mut families: HashMap<String, Vec<usize>> = HashMap::new();
        let is_cold = |part: &str| part.contains(".cold") || part.contains(".warm");
        let base = |symbol| match names::split_part(symbol) {
            (base, part) if is_cold(part) => {
                // `f.part.0.cold` belongs to `f.part.0`.
                let cut = part.find(".cold").or_else(|| part.find(".warm")).unwrap_or(0);
                (&symbol[..base.len() + cut], true)
            }
            (base, part) => (&symbol[..base.len() + part.len()], false),
        };
        if self.is_go {
            return families;
        }
        for f in 0..self.len() {
            for (base, _) in self.symbols(f).map(|(symbol, _)| base(symbol)).filter(|(_, cold)| *cold) {
                families.entry(base.to_owned()).or_default().push(f);
            }
        }
        for f in 0..self.len() {
            for (base, cold) in self.symbols(f).map(|(symbol, _)| base(symbol)) {
                if !cold && let Some(family) = families.get_mut(base) {
                    family.push(f);
                }
            }
        }
        families
    }

    /// The family that function `f` belongs to, itself included.
    pub(super) fn family(&self, families: &HashMap<String, Vec<usize>>, f: usize) -> Vec<usize> {
        let mut family = vec![f];
        for (symbol, _) in self.symbols(f) {
            let cut = symbol.find(".cold").or_else(|| symbol.find(".warm")).unwrap_or(symbol.len());
            let (base, part) = names::split_part(&symbol[..cut]);
            family.extend(families.get(&symbol[..base.len() + part.len()]).into_iter().flatten());
        }
        family.sort_unstable();
        family.dedup();
        family
    }
}

/// `name+0x12`, or the name alone.
pub(super) fn with_offset(name: &str, offset: u64) -> String {
    match offset {
        0 => name.to_owned(),
        offset => format!("{name}+{offset:#x}"),
    }
}
