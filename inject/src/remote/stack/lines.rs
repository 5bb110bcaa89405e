//! Frames as text.

use crate::remote::symbols::{SourceFrame, Symbols};

use super::Frame;

impl Symbols {
    /// A frame as text, a line for each function that was inlined there and one for the function
    /// itself, the innermost first: `libc.so.6!raise+0x1f (raise.c:26)`, or `prog!inner (a.c:3)
    /// inlined`; only the address in code of no object.
    pub fn frame_lines(&self, frame: &Frame) -> Vec<String> {
        let address = frame.lookup_address();
        let Some(place) = self.find(address) else { return vec![format!("{:#x}", frame.pc)] };
        let object = self.objects()[place.object].object.name();
        let qualified = |name: &str| match name.strip_prefix(&object) {
            Some(rest) if rest.starts_with('+') => name.to_owned(),
            _ => format!("{object}!{name}"),
        };
        let source = self.source(address);
        let location = |at: &SourceFrame| match (&at.file, at.line) {
            (Some(file), Some(line)) => format!(" ({file}:{line})"),
            (Some(file), None) => format!(" ({file})"),
            _ => String::new(),
        };
        let inlined = source.iter().filter(|at| at.inlined).map(|at| {
            let name = at.function.as_deref().unwrap_or("?");
            format!("{}{} inlined", qualified(name), location(at))
        });
        let own = source.iter().find(|at| !at.inlined).map(location).unwrap_or_default();
        let name = self.describe_in(address, frame.pc - address).unwrap_or_default();
        inlined.chain([format!("{}{own}", qualified(&name))]).collect()
    }
}
