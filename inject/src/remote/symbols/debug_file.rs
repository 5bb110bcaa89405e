//! Separate debug files: where a distribution keeps the symbols that it stripped.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::image::Image;

/// The directory that distributions use.
const GLOBAL: &str = "/usr/lib/debug";

/// The debug file of an object that has no full symbol table itself, or no line numbers.
pub(super) fn find(image: &Image) -> Option<Image> {
    by_build_id(&image.build_id).or_else(|| by_link(image))
}

/// The file that a debug file shares with others (`dwz`), for the names and types in it.
pub(super) fn supplement(image: &Image) -> Option<Image> {
    let contents = image.contents(image.section(".gnu_debugaltlink")?)?;
    let end = contents.iter().position(|byte| *byte == 0)?;
    let (name, id) = (path_of(&contents[..end]), &contents[end + 1..]);
    let beside = image.path.parent().map(|parent| parent.join(&name));
    let candidates = [Some(name), beside].into_iter().flatten();
    let opened = candidates.filter_map(|path| Image::open(&path).ok()).find(|image| image.build_id == id);
    opened.or_else(|| by_build_id(id))
}

fn by_build_id(id: &[u8]) -> Option<Image> {
    if id.len() < 2 {
        return None;
    }
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, rest) = hex.split_at(2);
    let mut candidates = vec![Path::new(GLOBAL).join(".build-id").join(first).join(format!("{rest}.debug"))];
    candidates.extend(debuginfod_cache().map(|cache| cache.join(&hex).join("debuginfo")));
    candidates.iter().filter_map(|path| Image::open(path).ok()).find(|image| image.build_id == id)
}

/// Where `debuginfod-find` leaves what it fetched.
fn debuginfod_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("DEBUGINFOD_CACHE_PATH").or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(cache.join("debuginfod_client"))
    })
}

fn by_link(image: &Image) -> Option<Image> {
    let contents = image.contents(image.section(".gnu_debuglink")?)?;
    let end = contents.iter().position(|byte| *byte == 0)?;
    let name = path_of(&contents[..end]);
    let sum = contents.get((end + 4) & !3..)?.first_chunk::<4>()?;
    let sum = u32::from_le_bytes(*sum);
    let object = std::fs::canonicalize(&image.path).unwrap_or_else(|_| image.path.clone());
    let folder = object.parent()?;
    let global = Path::new(GLOBAL).join(folder.strip_prefix("/").unwrap_or(folder));
    let candidates = [folder.join(&name), folder.join(".debug").join(&name), global.join(&name)];
    let fits = |path: &PathBuf| *path != object && checksum(path) == Some(sum);
    candidates.into_iter().filter(fits).find_map(|path| Image::open(&path).ok())
}

fn checksum(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize()),
            size => hasher.update(&buffer[..size]),
        }
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
