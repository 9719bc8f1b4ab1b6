//! Copies a database while a bridge goes on using it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{OpenError, schema, sound};

/// What a backup that is being made is called; never a whole one.
const UNFINISHED: &str = "unfinished";

/// A backup that was not made. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{path} is there already: name a file that is not")]
    IsThere { path: PathBuf },
    #[error("{path} cannot be written")]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A backup as it was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backup {
    pub bytes: u64,
    pub operations: u64,
}

/// Copies the database `from`, as it is at one moment, into the new file `to`. Blocks while it works.
///
/// Bridges go on reading and writing meanwhile; only their log cannot be cut back, so it grows by what
/// they write. The copy is read whole and checked before it gets its name, and it is on disk then.
/// Only its owner can read it.
pub fn backup(from: &Path, to: &Path) -> Result<Backup, BackupError> {
    if to.exists() {
        return Err(BackupError::IsThere { path: to.to_owned() });
    }
    let unwritable = |source| BackupError::Unwritable { path: to.to_owned(), source };
    // SQLite takes names as text.
    if to.to_str().is_none() {
        return Err(unwritable(io::ErrorKind::InvalidFilename.into()));
    }
    let unfinished = Unfinished::new(to).map_err(unwritable)?;
    let made = unfinished.fill(from)?;
    let is_there = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    unfinished.finish(to).map_err(|error| {
        if is_there(&error) {
            return BackupError::IsThere { path: to.to_owned() };
        }
        unwritable(error)
    })?;
    Ok(made)
}

/// A file that is removed again, unless it is finished.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn new(to: &Path) -> io::Result<Self> {
        let mut path = to.as_os_str().to_owned();
        path.push(format!(".{UNFINISHED}"));
        let path = PathBuf::from(path);
        // Of a backup that was killed.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&path)?;
        Ok(Self { path })
    }

    fn fill(&self, from: &Path) -> Result<Backup, OpenError> {
        if !from.exists() {
            return Err(OpenError::NotThere { path: from.to_owned() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let source = Connection::open_with_flags(from, flags)?;
        source.busy_timeout(Duration::from_secs(5))?;
        if schema::check_version(&source)? == 0 {
            return Err(OpenError::NotThere { path: from.to_owned() });
        }
        // Reads by one transaction, so of one moment. The backup API of SQLite would begin again
        // whenever the bridge writes.
        source.execute("VACUUM INTO ?1", [self.path.to_string_lossy()])?;
        let copy = Connection::open_with_flags(&self.path, flags)?;
        schema::check_version(&copy)?;
        sound::check_pages(&copy)?;
        let operations = copy.query_row("SELECT count(*) FROM operations", [], |row| row.get(0))?;
        let pragma = |name| copy.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        Ok(Backup { bytes: pragma("page_count")? * pragma("page_size")?, operations })
    }

    fn finish(&self, to: &Path) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        // Unlike a new name for the file, a second one does not take the place of what is there.
        fs::hard_link(&self.path, to)?;
        fs::remove_file(&self.path)?;
        let directory = to.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Where it was finished, it is not there.
        drop(fs::remove_file(&self.path));
    }
}
