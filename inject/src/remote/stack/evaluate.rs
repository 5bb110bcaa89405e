//! From a frame's registers and its unwind row to its caller's registers.

use gimli::{
    Encoding, EndianSlice, Evaluation, EvaluationResult, Expression, Format, LittleEndian, Location, Value,
};

use crate::remote::symbols::{Cfa, Row, Rule};

use super::Lost;
use super::pages::Pages;
use super::values::{RA, RSP, Values};

/// No expression of a compiler takes as many operations.
const MAX_OPERATIONS: u32 = 1000;

/// The caller's registers; `None` if the row says that there is no caller.
pub(super) fn caller(row: &Row, values: &Values, memory: &mut Pages<'_>) -> Result<Option<Values>, Lost> {
    let broken = Lost::Row { pc: values.get(RA).unwrap_or_default() };
    let mut context = Context { values, memory, broken };
    let cfa = match &row.cfa {
        Cfa::Register(register, offset) => context.register(*register)?.wrapping_add_signed(*offset),
        Cfa::Expression(code) => context.evaluate(code, None)?,
    };
    let mut caller = *values;
    caller.set(RSP, Some(cfa));
    let mut has_caller = false;
    for (register, rule) in &row.rules {
        has_caller |= *register == RA && *rule != Rule::Undefined;
        let value = match context.value(*register, rule, cfa) {
            // Rows of registers are wrong more often than those of frames: compilers forget that RBP
            // has been restored. It matters only if a caller's row needs the register.
            Err(_) if !matches!(*register, RA | RSP) => None,
            value => value?,
        };
        caller.set(*register, value);
    }
    match has_caller {
        true if caller.get(RA).is_none() => Err(broken),
        true => Ok(Some(caller)),
        false => Ok(None),
    }
}

struct Context<'a, 'b> {
    values: &'a Values,
    memory: &'a mut Pages<'b>,
    broken: Lost,
}

impl Context<'_, '_> {
    fn register(&self, register: u16) -> Result<u64, Lost> {
        self.values.get(register).ok_or(self.broken)
    }

    /// The value of a register in the caller.
    fn value(&mut self, register: u16, rule: &Rule, cfa: u64) -> Result<Option<u64>, Lost> {
        Ok(match rule {
            Rule::Undefined => None,
            Rule::Same => self.values.get(register),
            Rule::At(offset) => Some(self.memory.word(cfa.wrapping_add_signed(*offset))?),
            Rule::Offset(offset) => Some(cfa.wrapping_add_signed(*offset)),
            Rule::Register(other) => self.values.get(*other),
            Rule::AtExpression(code) => {
                let address = self.evaluate(code, Some(cfa))?;
                Some(self.memory.word(address)?)
            }
            Rule::Expression(code) => Some(self.evaluate(code, Some(cfa))?),
            Rule::Unknown => return Err(self.broken),
        })
    }

    fn evaluate(&mut self, code: &[u8], start: Option<u64>) -> Result<u64, Lost> {
        let broken = self.broken;
        let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
        let mut evaluation = Expression(EndianSlice::new(code, LittleEndian)).evaluation(encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(start) = start {
            evaluation.set_initial_value(start);
        }
        let mut state = evaluation.evaluate();
        loop {
            state = match state.map_err(|_| broken)? {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.register(register.0)?))
                }
                EvaluationResult::RequiresMemory { address, size, space: None, .. } => {
                    let mut bytes = [0; 8];
                    let into = bytes.get_mut(..usize::from(size)).ok_or(broken)?;
                    self.memory.read(address, into).ok_or(Lost::Unreadable { address })?;
                    evaluation.resume_with_memory(Value::Generic(u64::from_le_bytes(bytes)))
                }
                _ => return Err(broken),
            };
        }
        result(&evaluation).ok_or(broken)
    }
}

fn result(evaluation: &Evaluation<EndianSlice<'_, LittleEndian>>) -> Option<u64> {
    match evaluation.as_result().last()?.location {
        Location::Address { address } => Some(address),
        Location::Value { value: Value::Generic(value) } => Some(value),
        _ => None,
    }
}
