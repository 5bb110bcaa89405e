//! The symbols of a process: its objects, their functions, their instructions, their lines.
//!
//! # From a process to a boundary
//!
//! 1. [`Symbols::refresh`] reads `/proc/PID/maps` and opens each object that has code: the program,
//!    its libraries, the vDSO. Objects stay open from call to call, and from process to process.
//! 2. [`Symbols::select`] finds the functions that [`Pattern`]s name, by [`Object::functions`].
//! 3. [`Object::decode`] cuts one function into instructions.
//!
//! Each step is made on demand, and once: names are demangled when a pattern asks, code is decoded
//! when somebody wants boundaries, DWARF is read with the first line.
//!
//! ```
//! use sigstorm_inject::remote::symbols::{Pattern, Symbols};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut symbols = Symbols::new();
//! symbols.refresh(std::process::id() as i32)?;
//! let selection = symbols.select(&[Pattern::new("libc!malloc")?]);
//! for id in &selection.functions {
//!     let mapped = &symbols.objects()[id.object];
//!     let code = mapped.object.decode(id.function)?;
//!     let first = code.address + mapped.bias;
//!     println!("{}: {} boundaries", symbols.describe(first).unwrap_or_default(), code.boundaries.len());
//! #   assert!(code.boundaries.len() > 10);
//! }
//! # assert_eq!(selection.functions.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Addresses
//!
//! An [`Object`] speaks of link-time addresses, as its file has them. A [`Mapped`] object has a
//! bias, and the address in the process is the sum. [`Symbols::find`] goes the other way.
//!
//! # Gotchas
//!
//! - Code is read from files, never from the process, so breakpoints do not show. A program that
//!   rewrites its own code is not understood.
//! - A file that was replaced or deleted is read through `/proc/PID/map_files` or `/proc/PID/exe`
//!   where that is allowed, else copied out of memory: such a copy has no sections, so it has
//!   exported functions and unwind ranges only.
//! - A damaged table is no error: the object has fewer functions, and
//!   [`Functions::problems`] says why.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod build;
mod code;
mod debug_file;
mod descent;
mod eh_frame;
mod error;
mod functions;
mod go;
mod hint;
mod image;
mod jump_table;
mod lines;
mod maps;
mod names;
mod nearest;
mod needle;
mod object;
mod pattern;
mod process;
mod relocations;
mod rows;
mod select;
mod source;
mod stubs;
mod text;

pub use code::{Boundary, Code, Kind, LeftOut};
pub use error::{ObjectError, ProcessError};
pub use functions::{Function, Functions, Origin};
pub use go::{GoFunction, GoTableError, go_functions};
pub use lines::SourceFrame;
pub use object::{Linkage, Object};
pub use pattern::{Pattern, PatternError};
pub(in crate::remote) use rows::{Cfa, Row, Rule, Unwind};
pub use select::{FunctionId, Selection, Unmatched};

use maps::MappedFile;
use process::Identity;

/// An object where a process has it.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The object.
    pub object: Arc<Object>,
    /// The number to add to the object's addresses.
    pub bias: u64,
    /// The path that the process's mappings show, or `[vdso]`.
    pub path: PathBuf,
    /// Device (major, minor) and inode; zeros for the vDSO.
    pub file: ((u32, u32), u64),
    /// Whether the file has been deleted or replaced since.
    pub deleted: bool,
    /// Whether it is the process's program.
    pub is_program: bool,
    /// The addresses of its code in the process.
    pub code: Vec<Range<u64>>,
}

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The object's number in [`Symbols::objects`].
    pub object: usize,
    /// The address in the object's file.
    pub address: u64,
}

/// The objects of a process, or of a list.
#[derive(Debug, Default)]
pub struct Symbols {
    pid: Option<i32>,
    objects: Vec<Mapped>,
    unreadable: Vec<(PathBuf, Arc<ObjectError>)>,
    /// The mappings that `objects` and `unreadable` were made from.
    mapped: Vec<MappedFile>,
    opened: HashMap<Identity, Result<Arc<Object>, Arc<ObjectError>>>,
    /// The vDSO is the same in all processes.
    vdso: Option<Arc<Object>>,
}

impl Symbols {
    /// No objects yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The objects of a list: each file, and the address at which its lowest byte is loaded.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or is no x86-64 program or shared library.
    pub fn of_files<'a>(files: impl IntoIterator<Item = (&'a Path, u64)>) -> Result<Self, ObjectError> {
        let mut symbols = Self::new();
        for (path, address) in files {
            let object = Arc::new(Object::open(path)?);
            let image = object.image();
            let bias = if image.fixed { 0 } else { address.wrapping_sub(image.base()) };
            let code = |s: &image::Segment| {
                let start = s.address.wrapping_add(bias);
                start..start.saturating_add(s.memory_size)
            };
            symbols.objects.push(Mapped {
                bias,
                path: path.to_owned(),
                file: ((0, 0), 0),
                deleted: false,
                is_program: object.linkage() != Linkage::Library,
                code: image.segments.iter().filter(|s| s.executable).map(code).collect(),
                object,
            });
        }
        Ok(symbols)
    }

    /// Reads the mappings of process `pid`. Returns whether the objects, or their places, are
    /// others than before; numbers of objects count anew then. Files that were read before, for
    /// this process or another, are not read again unless they have changed.
    ///
    /// # Errors
    ///
    /// If the process is gone or may not be looked at. An object that cannot be read is none: see
    /// [`Symbols::unreadable`].
    pub fn refresh(&mut self, pid: i32) -> Result<bool, ProcessError> {
        let mappings = maps::read(pid).map_err(|source| ProcessError::Maps { pid, source })?;
        if mappings.is_empty() {
            // The kernel shows none of a process that has ended and is not waited for yet.
            let source = std::io::Error::from_raw_os_error(libc::ESRCH);
            return Err(ProcessError::Maps { pid, source });
        }
        let mapped = maps::files(mappings);
        if self.pid == Some(pid) && self.mapped == mapped {
            return Ok(false);
        }
        let program = std::fs::metadata(format!("/proc/{pid}/exe")).ok();
        let program = program.map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata));
        let mut objects = Vec::new();
        self.unreadable.clear();
        for file in &mapped {
            let first = file.first();
            let is_program = first.inode != 0 && Some(first.inode) == program;
            let object = match self.open(pid, file, is_program) {
                Ok(object) => object,
                Err(error) => {
                    self.unreadable.push((first.path.clone(), error));
                    continue;
                }
            };
            let code = file.mappings.iter().filter(|m| m.executable).map(|m| m.addresses.clone());
            objects.push(Mapped {
                bias: process::bias(object.image(), file),
                path: first.path.clone(),
                file: (first.device, first.inode),
                deleted: first.deleted,
                is_program,
                code: code.collect(),
                object,
            });
        }
        (self.pid, self.objects, self.mapped) = (Some(pid), objects, mapped);
        Ok(true)
    }

    fn open(
        &mut self,
        pid: i32,
        file: &MappedFile,
        is_program: bool,
    ) -> Result<Arc<Object>, Arc<ObjectError>> {
        if file.is_vdso() {
            if let Some(vdso) = &self.vdso {
                return Ok(vdso.clone());
            }
            let vdso = Arc::new(Object::new(process::copy(pid, file).map_err(Arc::new)?));
            self.vdso = Some(vdso.clone());
            return Ok(vdso);
        }
        let first = file.first();
        let found = process::file(pid, first, is_program);
        let found = found.and_then(|path| Some((path.metadata().ok()?, path)));
        let Some((metadata, path)) = found else {
            return Ok(Arc::new(Object::new(process::copy(pid, file).map_err(Arc::new)?)));
        };
        let opened = || {
            let mut image = image::Image::open(&path)?;
            // Reports show the name that the program was started by, not a link in /proc.
            image.path.clone_from(&first.path);
            Ok(Arc::new(Object::new(image)))
        };
        let identity = Identity::new(&first.path, &metadata);
        self.opened.entry(identity).or_insert_with(|| opened().map_err(Arc::new)).clone()
    }

    /// The process that was read last.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// The objects in order of address.
    pub fn objects(&self) -> &[Mapped] {
        &self.objects
    }

    /// The mapped files with code that are no objects, and why.
    pub fn unreadable(&self) -> impl Iterator<Item = (&Path, &ObjectError)> {
        self.unreadable.iter().map(|(path, error)| (path.as_path(), &**error))
    }

    /// The object that has code or data mapped at an address of the process.
    pub fn find(&self, address: u64) -> Option<Place> {
        let object = self.objects.iter().position(|mapped| {
            let own = address.wrapping_sub(mapped.bias);
            mapped.code.iter().any(|code| code.contains(&address))
                || mapped
                    .object
                    .image()
                    .segments
                    .iter()
                    .any(|s| own.checked_sub(s.address).is_some_and(|offset| offset < s.memory_size))
        })?;
        Some(Place { object, address: address.wrapping_sub(self.objects[object].bias) })
    }

    /// Returns whether an object has code mapped at an address of the process.
    pub(in crate::remote) fn is_code(&self, address: u64) -> bool {
        self.objects.iter().any(|mapped| mapped.code.iter().any(|code| code.contains(&address)))
    }

    /// Returns whether the object's unwind table, or Go's table of functions, knows the code at an address of
    /// the process. Unwinders in the process look at the bytes of other code.
    pub fn is_in_tables(&self, address: u64) -> bool {
        self.find(address).is_some_and(|place| {
            let object = &self.objects[place.object].object;
            let covers = |range: &eh_frame::Range| (range.start..range.end).contains(&place.address);
            object.unwind().iter().any(covers)
                || object.functions().is_go() && object.functions().at(place.address).is_some()
        })
    }

    /// The function that contains an address of the process.
    pub fn function_at(&self, address: u64) -> Option<FunctionId> {
        let place = self.find(address)?;
        let function = self.objects[place.object].object.functions().at(place.address)?;
        Some(FunctionId { object: place.object, function })
    }

    /// The name of a function, demangled, as [`Functions::name`].
    pub fn name(&self, id: FunctionId) -> std::borrow::Cow<'_, str> {
        self.objects.get(id.object).map_or_else(Default::default, |m| m.object.functions().name(id.function))
    }

    /// The address of a function in the process.
    pub fn address(&self, id: FunctionId) -> Option<u64> {
        let mapped = self.objects.get(id.object)?;
        let function = mapped.object.functions().all().get(id.function)?;
        Some(function.address.wrapping_add(mapped.bias))
    }

    /// The source at an address of the process, the innermost frame first; empty if it is not
    /// known. For a return address, ask for the byte before it.
    pub fn source(&self, address: u64) -> Vec<SourceFrame> {
        let place = self.find(address);
        place.map(|place| self.objects[place.object].object.source(place.address)).unwrap_or_default()
    }
}
