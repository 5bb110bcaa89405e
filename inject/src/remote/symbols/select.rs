//! From patterns to functions of the mapped objects.

use std::collections::BTreeSet;
use std::fmt;

use object::elf;

use super::Symbols;
use super::code::LeftOut;
use super::nearest::Nearest;
use super::pattern::{self, Pattern};
use super::process::Memory;

/// A function of a mapped object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId {
    /// The object's number in [`Symbols::objects`].
    pub object: usize,
    /// The function's number in the object's [`super::Functions`].
    pub function: usize,
}

/// A pattern without a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmatched {
    /// The pattern's number.
    pub pattern: usize,
    /// The pattern's text.
    pub text: String,
    /// Whether its object part matches no object.
    pub no_object: bool,
    /// The nearest names, of objects if none matches, else of functions; the best first.
    pub nearest: Vec<String>,
    /// Sentences that say how to get the symbols of objects that were stripped.
    pub hints: Vec<String>,
}

impl fmt::Display for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.no_object { "mapped object" } else { "function" };
        write!(f, "`{}` matches no {kind}", self.text)?;
        let names: Vec<String> = self.nearest.iter().map(|name| format!("`{name}`")).collect();
        match names.as_slice() {
            [] => {}
            [one] => write!(f, "; did you mean {one}?")?,
            [first @ .., last] => write!(f, "; did you mean {} or {last}?", first.join(", "))?,
        }
        self.hints.iter().try_for_each(|hint| write!(f, "\n{hint}"))
    }
}

/// The functions that patterns name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The functions, in order of object and address, each once. Functions may overlap (a second
    /// entry into one): an address can be a boundary of two.
    pub functions: Vec<FunctionId>,
    /// The number of functions that each pattern matches.
    pub matched: Vec<usize>,
    /// IFUNC names that match, each with the function that the loader chose.
    pub resolved: Vec<(FunctionId, FunctionId)>,
    /// Functions that match and are not among `functions`: IFUNC names, where the function that
    /// the loader chose is not known.
    pub left_out: Vec<(FunctionId, LeftOut)>,
    /// The patterns without a match.
    pub unmatched: Vec<Unmatched>,
}

impl Symbols {
    /// Finds the functions that some pattern names, in all mapped objects.
    ///
    /// A name of an IFUNC stands for the function that the loader chose, if a process is known
    /// and its loader has chosen; else it is left out, and listed.
    pub fn select(&self, patterns: &[Pattern]) -> Selection {
        let mut selection = self.matching(patterns);
        let unmatched = patterns.iter().enumerate().filter(|(number, _)| selection.matched[*number] == 0);
        selection.unmatched = unmatched.map(|(number, pattern)| self.unmatched(number, pattern)).collect();
        selection
    }

    /// Finds the functions that some pattern names, as [`Symbols::select`], and says nothing of
    /// patterns without a match: to look for the nearest names takes longer than all the rest.
    pub fn find_functions(&self, patterns: &[Pattern]) -> Vec<FunctionId> {
        self.matching(patterns).functions
    }

    fn matching(&self, patterns: &[Pattern]) -> Selection {
        let mut selection = Selection { matched: vec![0; patterns.len()], ..Selection::default() };
        let mut functions = BTreeSet::new();
        let mut resolvers = BTreeSet::new();
        for (number, pattern) in patterns.iter().enumerate() {
            for (object, mapped) in self.objects().iter().enumerate() {
                if !pattern.matches_object(&mapped.object) {
                    continue;
                }
                for (function, ifunc) in pattern.matching(mapped.object.functions()) {
                    selection.matched[number] += 1;
                    let id = FunctionId { object, function };
                    if ifunc { &mut resolvers } else { &mut functions }.insert(id);
                }
            }
        }
        for resolver in resolvers {
            match self.resolve(resolver) {
                Some(chosen) => {
                    functions.insert(chosen);
                    selection.resolved.push((resolver, chosen));
                }
                None => selection.left_out.push((resolver, LeftOut::Resolver)),
            }
        }
        selection.functions = functions.into_iter().collect();
        selection
    }

    fn unmatched(&self, number: usize, pattern: &Pattern) -> Unmatched {
        let objects: Vec<_> = self.objects().iter().filter(|m| pattern.matches_object(&m.object)).collect();
        let no_object = objects.is_empty();
        let mut nearest =
            Nearest::new(if no_object { pattern.object().unwrap_or_default() } else { pattern.name() });
        if no_object {
            for mapped in self.objects() {
                pattern::object_spellings(&mapped.object.name()).for_each(|name| nearest.offer(name));
            }
        } else {
            objects.iter().for_each(|mapped| nearest.offer_functions(mapped.object.functions()));
        }
        Unmatched {
            pattern: number,
            text: pattern.text().to_owned(),
            no_object,
            nearest: nearest.into_names(),
            hints: objects.iter().filter_map(|mapped| mapped.object.symbols_hint()).collect(),
        }
    }

    /// The function that the loader chose for an IFUNC: the one that a slot holds which the loader
    /// filled in by calling the resolver, in this object or in one that imports the name.
    fn resolve(&self, resolver: FunctionId) -> Option<FunctionId> {
        let memory = Memory::open(self.pid()?).ok()?;
        let mapped = &self.objects()[resolver.object];
        let function = mapped.object.functions().all()[resolver.function];
        let own = mapped.object.relocations().iter().filter(|relocation| {
            relocation.kind == elf::R_X86_64_IRELATIVE && relocation.addend == function.address
        });
        let own = own.map(|relocation| relocation.address.wrapping_add(mapped.bias));
        let names: Vec<&str> =
            mapped.object.functions().symbols(resolver.function).map(|(name, _)| name).collect();
        let imported = self.objects().iter().flat_map(|user| {
            let slots = user.object.slots(&names);
            slots.into_iter().map(|address| address.wrapping_add(user.bias))
        });
        own.chain(imported).find_map(|slot| {
            let target = self.find(memory.word(slot)?)?;
            let (object, address) = (target.object, target.address);
            let function = self.objects()[object].object.functions().at(address)?;
            let found = self.objects()[object].object.functions().all()[function];
            // A slot that is not filled in yet leads to the importer's own stub.
            let chosen = object == resolver.object && found.address == address && !found.is_resolver;
            chosen.then_some(FunctionId { object, function })
        })
    }
}
