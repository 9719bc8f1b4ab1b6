//! A file beside the database: keeps a second process from it, tells where the first one can be
//! asked, and in what shape the last one left the database.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::OpenError;
use crate::store::StoreError;

/// Two seconds in all.
const TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// What the file says while a process has the database open, and after one that was killed.
const OPEN: &str = "open\n";

/// Held by the one process that has the database open.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    database: PathBuf,
    /// What the process before this one left in the file.
    left: String,
    damage: Damage,
    /// Whether the database was found sound, and so may be said to have been left so.
    opened: bool,
}

/// Whether a use of the database has met damage in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Damage(Arc<AtomicBool>);

impl Damage {
    pub(super) fn note<T>(&self, result: &Result<T, StoreError>) {
        if let Err(StoreError::Damaged(_)) = result {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

impl Lock {
    /// Waits a little where another process has it: a command that looks something up has it for
    /// moments, and one that is being replaced may still be finishing.
    pub(super) fn take(database: &Path) -> Result<Self, OpenError> {
        let path = lock_path(database);
        let inaccessible = |source| OpenError::Inaccessible { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(inaccessible)?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => {
                    let mut left = Vec::new();
                    file.read_to_end(&mut left).map_err(inaccessible)?;
                    let left = String::from_utf8_lossy(&left).into_owned();
                    let (damage, opened) = (Damage::default(), false);
                    let lock = Self { file, database: database.to_owned(), left, damage, opened };
                    // Whatever the one before us left is not true of us.
                    lock.write(if lock.left.is_empty() { "" } else { OPEN })
                        .map_err(inaccessible)?;
                    return Ok(lock);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_TRIES),
                Err(TryLockError::Error(source)) => return Err(inaccessible(source)),
            }
        }
        Err(OpenError::InUse { path: database.to_owned() })
    }

    /// Whether there is nothing of a database but its log, which SQLite would throw away.
    pub(super) fn is_log_alone(&self) -> bool {
        let is_empty = fs::metadata(&self.database).map_or(true, |file| file.len() == 0);
        is_empty && has_log(&self.database)
    }

    /// Whether a database has been here that some process has used.
    pub(super) fn was_made_before(&self) -> bool {
        !self.left.is_empty()
    }

    /// Whether the database is, to the byte, what a process left that closed it well.
    pub(super) fn is_as_left(&self) -> bool {
        !has_log(&self.database)
            && fs::metadata(&self.database).is_ok_and(|file| self.left == stamp(&file))
    }

    /// What is another text once anybody has written to the database.
    pub(super) fn state(&self) -> io::Result<String> {
        let log = fs::metadata(log_path(&self.database)).ok().filter(|log| log.len() != 0);
        // Not its change of status: SQLite gives the log to the database's owner when it opens it.
        let log = log.map(|log| (log.len(), log.modified().ok()));
        Ok(format!("{}{log:?}", stamp(&fs::metadata(&self.database)?)))
    }

    /// How long the file is, where it is all there is of the database.
    pub(super) fn length_of_all(&self) -> Option<u64> {
        if has_log(&self.database) {
            return None;
        }
        fs::metadata(&self.database).ok().map(|file| file.len())
    }

    /// From here on, a database that is closed well was left well.
    pub(super) fn opened(&mut self) -> io::Result<Damage> {
        self.write(OPEN)?;
        self.opened = true;
        Ok(self.damage.clone())
    }

    /// Leaves word, for other commands on the same machine, of where this process can be asked.
    pub(super) fn announce(&self, word: &str) -> io::Result<()> {
        self.write(&format!("{word}\n"))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text.as_bytes())
    }
}

impl Drop for Lock {
    /// The database is closed by now. It was closed well if its log is folded into it.
    fn drop(&mut self) {
        let is_well = self.opened && !self.damage.0.load(Ordering::SeqCst);
        if is_well && !has_log(&self.database) {
            // Without the stamp, the next start looks more closely, and that is all.
            let stamped = fs::metadata(&self.database).and_then(|file| self.write(&stamp(&file)));
            drop(stamped);
        }
    }
}

/// What the process that has the database at `path` open has left word of, if one has. It may be gone a
/// moment later.
pub fn holder(path: &Path) -> Option<String> {
    let mut file = File::open(lock_path(path)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    let mut word = String::new();
    file.read_to_string(&mut word).ok()?;
    Some(word.trim_end().to_owned())
}

/// The file whose lock says that a process has the database at `path` open.
fn lock_path(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// SQLite's write-ahead log.
pub(super) fn log_path(database: &Path) -> PathBuf {
    beside(database, "-wal")
}

/// Whether there is a write-ahead log with something in it.
fn has_log(database: &Path) -> bool {
    fs::metadata(log_path(database)).is_ok_and(|log| log.len() != 0)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Tells this file, as it is, from any other and from what anybody else makes of it.
///
/// Nobody can set the time of a change of status back, not even `cp -p` or a restored backup.
#[cfg(unix)]
fn stamp(file: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let (length, inode) = (file.len(), file.ino());
    format!("closed {length} {inode} {}.{:09}\n", file.ctime(), file.ctime_nsec())
}

#[cfg(not(unix))]
fn stamp(file: &Metadata) -> String {
    format!("closed {} {:?}\n", file.len(), file.modified().ok())
}
