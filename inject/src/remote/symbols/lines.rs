//! Source lines, with inlined frames, from DWARF.

use std::sync::Arc;

use addr2line::Context;
use gimli::{Dwarf, EndianArcSlice, LittleEndian, SectionId};

use super::debug_file;
use super::image::Image;
use super::names;
use super::object::Object;

type Reader = EndianArcSlice<LittleEndian>;

/// A frame of the source at an address: a function, or one that was inlined there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFrame {
    /// The function, demangled.
    pub function: Option<String>,
    /// The file, as the compiler named it.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
    /// Whether the compiler put it into the next frame of the list.
    pub inlined: bool,
}

/// An object's line tables.
pub(super) struct Lines(Context<Reader>);

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

impl Lines {
    pub(super) fn load(image: &Image) -> Option<Self> {
        let section = |image: &Image, id: SectionId| -> Result<Reader, gimli::Error> {
            let contents = image.section(id.name()).and_then(|section| image.contents(section));
            Ok(Reader::new(Arc::from(contents.unwrap_or_default()), LittleEndian))
        };
        let mut dwarf = Dwarf::load(|id| section(image, id)).ok()?;
        if let Some(supplement) = debug_file::supplement(image) {
            dwarf.load_sup(|id| section(&supplement, id)).ok()?;
        }
        Context::from_dwarf(dwarf).ok().map(Self)
    }

    fn frames(&self, address: u64) -> Option<Vec<SourceFrame>> {
        let mut iterator = self.0.find_frames(address).skip_all_loads().ok()?;
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = iterator.next() {
            let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
            let location = frame.location.as_ref();
            frames.push(SourceFrame {
                function: name.map(|name| names::demangle(&name).into_owned()),
                file: location.and_then(|at| at.file).map(str::to_owned),
                line: location.and_then(|at| at.line).filter(|line| *line != 0),
                column: location.and_then(|at| at.column).filter(|column| *column != 0),
                inlined: true,
            });
        }
        frames.last_mut()?.inlined = false;
        Some(frames)
    }
}

impl Object {
    /// The source at a link-time address, the innermost frame first; empty if it is not known.
    pub fn source(&self, address: u64) -> Vec<SourceFrame> {
        let lines = self.lines().map(|lines| lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        lines.and_then(|lines| lines.frames(address)).unwrap_or_default()
    }
}
