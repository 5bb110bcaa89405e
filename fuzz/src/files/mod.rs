//! Files that commands read and write.
//!
//! Here: files are written whole, or not at all. [`input`] reads schedules in either form, [`mistaken`] tells
//! texts that would be taken for bytes, and [`origin`] keeps a schedule's defects and build in its comments.

pub mod input;
pub mod mistaken;
pub mod origin;

use anyhow::{Context, Result, bail};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::{Builder, NamedTempFile};

/// Writes a file under a temporary name beside it, and renames it when it is complete.
/// A file that is not a regular one (a device, a pipe) is written to as it is.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    // A link stays one: it is what it points to that is written.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let what = || format!("cannot write {}", path.display());
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => bail!("{}: it is a directory", what()),
        Ok(meta) if !meta.is_file() => {
            let mut file = File::options().write(true).open(path).with_context(what)?;
            return file.write_all(bytes).with_context(what);
        }
        _ => {}
    }
    let mut file = temporary(folder_of(path)).with_context(what)?;
    file.write_all(bytes).with_context(what)?;
    file.persist(path).map_err(|error| error.error).with_context(what)?;
    Ok(())
}

/// Makes the folder if it is not there, and sees whether a file can be made in it.
pub fn writable_folder(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => bail!("{} is not a directory", path.display()),
        Ok(_) => {}
        Err(_) => {
            fs::create_dir_all(path)
                .with_context(|| format!("cannot make the directory {}", path.display()))?;
        }
    }
    let mut probe = temporary(path).with_context(|| format!("cannot write into {}", path.display()))?;
    probe.write_all(b"probe").with_context(|| format!("cannot write into {}", path.display()))
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that goes away unless it is persisted, with the permissions that any new file gets.
fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    Builder::new().prefix(".sigstorm-").permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_file_replaces_the_old_one_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for content in [&b"one"[..], b"two"] {
            write(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn written_links_stay_links_and_devices_devices() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        write(Path::new("/dev/null"), b"gone").unwrap();
        let full = write(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(format!("{full:#}").contains("No space left"), "{full:#}");
    }

    #[test]
    fn files_that_cannot_be_written_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), &dir.path().join("no/such/folder/file")] {
            let message = format!("{:#}", write(path, b"").unwrap_err());
            assert!(message.contains(&path.display().to_string()), "{message}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(writable_folder(&file).is_err() && writable_folder(&file.join("x")).is_err());
        writable_folder(&dir.path().join("x/y")).unwrap();
        assert!(dir.path().join("x/y").is_dir());
    }
}
