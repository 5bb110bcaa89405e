//! Unwind rows: how a frame's caller is found at an instruction.
//!
//! `.eh_frame` comes first, for it describes what is loaded. Go's programs have `.debug_frame` only,
//! and so do separate debug files of objects that were built without the other. A row is parsed
//! once; later questions about the same instruction are a look-up.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EhFrame, EndianSlice, LittleEndian, RegisterRule, UnwindContext,
    UnwindExpression, UnwindSection,
};

use super::eh_frame::{self, Range};
use super::image::Image;
use super::object::Object;

/// The registers that rules are kept for: the general ones, then the return address, by the
/// numbers that DWARF gives them.
const REGISTERS: u16 = 17;

/// How the canonical frame address (CFA) is found: the caller's SP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::remote) enum Cfa {
    /// A register's value, and a number to add.
    Register(u16, i64),
    /// A DWARF expression.
    Expression(Vec<u8>),
}

/// How a register's value in the caller is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::remote) enum Rule {
    /// Its value is lost. For the return address: there is no caller.
    Undefined,
    Same,
    /// In memory, so far from the CFA.
    At(i64),
    /// The CFA and a number.
    Offset(i64),
    /// In another register.
    Register(u16),
    /// In memory where a DWARF expression says, which starts with the CFA.
    AtExpression(Vec<u8>),
    /// The value of a DWARF expression, which starts with the CFA.
    Expression(Vec<u8>),
    /// Nothing that x86-64 has a meaning for.
    Unknown,
}

/// The row of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::remote) struct Row {
    pub(in crate::remote) cfa: Cfa,
    /// By the register's number; others keep their values.
    pub(in crate::remote) rules: Vec<(u16, Rule)>,
    /// Whether the caller was interrupted rather than making a call (augmentation `S`).
    pub(in crate::remote) is_signal: bool,
}

/// An object's answer about a PC.
#[derive(Clone, Debug)]
pub(in crate::remote) enum Unwind {
    /// The system call that returns from a signal's handler. The signal's frame lies at SP.
    SignalReturn,
    Row(Arc<Row>),
    /// No table covers the PC, or its entry is damaged.
    None,
}

/// A table, and its entries in order of address.
#[derive(Debug)]
struct Table {
    bytes: Vec<u8>,
    bases: BaseAddresses,
    ranges: Vec<Range>,
    is_debug: bool,
}

/// An object's rows, those that were asked for.
#[derive(Debug)]
pub(super) struct Rows {
    tables: Vec<Table>,
    /// `.debug_frame` has been looked for.
    complete: bool,
    context: UnwindContext<usize>,
    /// By PC, and whether the PC is a return address.
    known: HashMap<(u64, bool), Unwind>,
}

impl Table {
    fn eh_frame(image: &Image, ranges: &[Range]) -> Option<Self> {
        let (address, bytes) = eh_frame::section(image)?;
        let bases = eh_frame::bases(image, address);
        Some(Self { bytes, bases, ranges: ranges.to_vec(), is_debug: false })
    }

    /// The table of `source`, which is the object itself or its debug file.
    fn debug_frame(image: &Image, source: &Image) -> Option<Self> {
        let bytes = source.contents(source.section(".debug_frame")?)?;
        let bases = BaseAddresses::default();
        let ranges = eh_frame::entries(image, &debug_frame(&bytes), &bases);
        Some(Self { bytes, bases, ranges, is_debug: true })
    }

    fn row(&self, address: u64, context: &mut UnwindContext<usize>) -> Option<Row> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        let range = self.ranges.get(after.checked_sub(1)?).filter(|range| address < range.end)?;
        match self.is_debug {
            true => row(&debug_frame(&self.bytes), &self.bases, range, address, context),
            false => row(&EhFrame::new(&self.bytes, LittleEndian), &self.bases, range, address, context),
        }
    }
}

fn debug_frame(bytes: &[u8]) -> DebugFrame<EndianSlice<'_, LittleEndian>> {
    let mut table = DebugFrame::new(bytes, LittleEndian);
    table.set_address_size(8);
    table
}

fn row<'a, S: UnwindSection<EndianSlice<'a, LittleEndian>>>(
    table: &S,
    bases: &BaseAddresses,
    range: &Range,
    address: u64,
    context: &mut UnwindContext<usize>,
) -> Option<Row> {
    let entry = table.fde_from_offset(bases, S::Offset::from(range.entry), S::cie_from_offset).ok()?;
    let row = entry.unwind_info_for_address(table, bases, context, address).ok()?;
    let bytes = |expression: &UnwindExpression<usize>| {
        let end = expression.offset.checked_add(expression.length)?;
        Some(table.section().slice().get(expression.offset..end)?.to_vec())
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Cfa::Register(register.0, *offset),
        CfaRule::Expression(expression) => Cfa::Expression(bytes(expression)?),
    };
    let mut rules = Vec::new();
    for (register, rule) in row.registers().filter(|(register, _)| register.0 < REGISTERS) {
        let rule = match rule {
            RegisterRule::Undefined => Rule::Undefined,
            RegisterRule::SameValue => Rule::Same,
            RegisterRule::Offset(offset) => Rule::At(*offset),
            RegisterRule::ValOffset(offset) => Rule::Offset(*offset),
            RegisterRule::Register(other) => Rule::Register(other.0),
            RegisterRule::Expression(expression) => Rule::AtExpression(bytes(expression)?),
            RegisterRule::ValExpression(expression) => Rule::Expression(bytes(expression)?),
            _ => Rule::Unknown,
        };
        rules.push((register.0, rule));
    }
    Some(Row { cfa, rules, is_signal: entry.is_signal_trampoline() })
}

impl Rows {
    pub(super) fn new(object: &Object) -> Self {
        let tables = Table::eh_frame(object.image(), object.unwind()).into_iter().collect();
        Self { tables, complete: false, context: UnwindContext::new(), known: HashMap::new() }
    }

    fn find(&mut self, object: &Object, pc: u64, is_return_address: bool) -> Unwind {
        if is_signal_return(object.image(), pc) {
            return Unwind::SignalReturn;
        }
        let address = pc.wrapping_sub(u64::from(is_return_address));
        let context = &mut self.context;
        let mut row = self.tables.iter().find_map(|table| table.row(address, context));
        if row.is_none() && !self.complete {
            self.complete = true;
            let mut sources = [Some(object.image()), object.debug()].into_iter().flatten();
            let table = sources.find_map(|source| Table::debug_frame(object.image(), source));
            row = table.as_ref().and_then(|table| table.row(address, context));
            self.tables.extend(table);
        }
        row.map_or(Unwind::None, |row| Unwind::Row(Arc::new(row)))
    }
}

/// `rt_sigreturn`'s number to EAX or RAX, then `syscall`: the restorers of C libraries, of Go and of the
/// kernel. No table is needed for them, and some have none.
const SIGNAL_RETURNS: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05], &[0xb8, 15, 0, 0, 0, 0x0f, 0x05]];

/// Returns whether `pc` is at either instruction of a signal's return.
fn is_signal_return(image: &Image, pc: u64) -> bool {
    SIGNAL_RETURNS.iter().any(|code| {
        [0, code.len() - 2].iter().any(|behind| {
            let mut bytes = [0; 9];
            let bytes = &mut bytes[..code.len()];
            image.read(pc.wrapping_sub(*behind as u64), bytes).is_some() && bytes == *code
        })
    })
}

impl Object {
    /// The way to the caller at a link-time PC, as far as it is known. A return address belongs to the
    /// call before it.
    pub(in crate::remote) fn unwind_at(&self, pc: u64, is_return_address: bool) -> Unwind {
        // A panic in gimli leaves nothing half-written but its context, which starts anew.
        let mut rows = self.rows().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = rows.known.get(&(pc, is_return_address)) {
            return known.clone();
        }
        let found = rows.find(self, pc, is_return_address);
        rows.known.insert((pc, is_return_address), found.clone());
        found
    }
}
