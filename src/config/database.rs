//! Where the database is, and the keys to what is in it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, environment, read_secret, secret_in};
use crate::api::new_admin_key;
use crate::vault::{MasterKey, MasterKeys};

pub(super) const MASTER_KEY: &str = "ENGAGEMENT_BRIDGE_MASTER_KEY";
const ADMIN_KEY: &str = "ENGAGEMENT_BRIDGE_ADMIN_KEY";

/// A database, as it is named in the settings.
#[derive(Clone, Debug)]
pub enum Database {
    /// SQLite's: a path, or `sqlite:` and a path.
    File(PathBuf),
    /// The URL of a PostgreSQL. Not read before it is needed, for what cannot be read is shown by
    /// those who read flags, and there may be a password in it.
    Server(SecretString),
}

impl From<&str> for Database {
    fn from(text: &str) -> Self {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Self::Server(text.into());
        }
        Self::File(text.strip_prefix("sqlite:").unwrap_or(text).into())
    }
}

/// Which database it is.
#[derive(Args, Clone, Debug)]
pub struct DatabaseName {
    /// The database file; made new where there is none. Beside it are kept its lock, and the master
    /// and admin keys unless they are given otherwise. Or, for several bridges on one database, a
    /// PostgreSQL: `postgres://user@host/name`, with libpq's parameters (`sslmode`, `sslrootcert`,
    /// several hosts); both keys must be given then. A password is best left to the environment, for
    /// flags show in process lists.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_DATABASE",
        hide_env_values = true,
        default_value = "bridge.db",
        value_name = "PATH or URL"
    )]
    database: Database,

    /// A file with the URL of a PostgreSQL, in place of `--database`: for a password that is handed in as
    /// a file, as Docker and Kubernetes do with secrets.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_DATABASE_URL_FILE", value_name = "PATH")]
    database_url_file: Option<PathBuf>,
}

/// Which database it is, and the keys to it: all that most commands need to know.
#[derive(Args, Clone, Debug)]
pub struct DatabaseSettings {
    #[command(flatten)]
    pub name: DatabaseName,

    /// A file with the key that secrets in the database are sealed under: 32 bytes in base64. Or
    /// give the key itself in `ENGAGEMENT_BRIDGE_MASTER_KEY`. Of several, one to a line or with commas
    /// between, the first seals and all of them open: see `vault rekey`. [default: made at first start,
    /// beside the database]
    #[arg(long, env = "ENGAGEMENT_BRIDGE_MASTER_KEY_FILE", value_name = "PATH")]
    pub master_key_file: Option<PathBuf>,

    /// A file with the operator's key to /v1/admin. Or give the key itself in
    /// `ENGAGEMENT_BRIDGE_ADMIN_KEY`. [default: made at first start, beside the database]
    #[arg(long, env = "ENGAGEMENT_BRIDGE_ADMIN_KEY_FILE", value_name = "PATH")]
    pub admin_key_file: Option<PathBuf>,
}

impl DatabaseName {
    /// The database that is meant.
    pub fn database(&self) -> Result<Database, ConfigError> {
        let Some(path) = &self.database_url_file else { return Ok(self.database.clone()) };
        match Database::from(secret_in(path)?.expose_secret()) {
            server @ Database::Server(_) => Ok(server),
            Database::File(_) => Err(ConfigError::NotAUrl { path: path.clone() }),
        }
    }
}

impl DatabaseSettings {
    /// The database that is meant.
    pub fn database(&self) -> Result<Database, ConfigError> {
        self.name.database()
    }

    /// The master keys: as given, or the one beside the database, made at first start.
    pub fn master_keys(&self) -> Result<MasterKeys, ConfigError> {
        if let Some(key) = environment(MASTER_KEY) {
            let malformed = |source| ConfigError::MasterKey { from: MASTER_KEY.to_owned(), source };
            return key.expose_secret().parse().map_err(malformed);
        }
        let database = self.database()?;
        let path = self.master_key_file.clone().or_else(|| database.beside("master-key"));
        let path = path
            .ok_or(ConfigError::KeyNotGiven { flag: "--master-key-file", variable: MASTER_KEY })?;
        let from_file = |text: &str| {
            let malformed =
                |source| ConfigError::MasterKey { from: path.display().to_string(), source };
            text.parse().map_err(malformed)
        };
        if let Some(text) = read_secret(&path)? {
            return from_file(&text);
        }
        match &database {
            Database::File(database) if self.master_key_file.is_some() || database.exists() => {
                return Err(ConfigError::KeyMissing { database: database.clone(), path });
            }
            Database::Server(_) => {
                let source = io::Error::from(io::ErrorKind::NotFound);
                return Err(ConfigError::Unreadable { path, source });
            }
            Database::File(_) => {}
        }
        let key = MasterKey::generate().map_err(|source| ConfigError::MasterKey {
            from: path.display().to_string(),
            source,
        })?;
        write_secret(&path, &key.expose())?;
        tracing::info!(path = %path.display(), "made a master key: keep a copy of it apart from the database");
        Ok(key.into())
    }

    /// The admin key: as given, or the one beside the database, made at first start.
    pub fn admin_key(&self) -> Result<SecretString, ConfigError> {
        let checked = |text: &str, from: String| {
            let text = text.trim();
            let fits = (16..=256).contains(&text.len());
            if !fits || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(ConfigError::AdminKey { from });
            }
            Ok(SecretString::from(text))
        };
        if let Some(key) = environment(ADMIN_KEY) {
            return checked(key.expose_secret(), ADMIN_KEY.to_owned());
        }
        let database = self.database()?;
        let path = self.admin_key_file.clone().or_else(|| database.beside("admin-key"));
        let path =
            path.ok_or(ConfigError::KeyNotGiven { flag: "--admin-key-file", variable: ADMIN_KEY })?;
        if let Some(text) = read_secret(&path)? {
            return checked(&text, path.display().to_string());
        }
        if self.admin_key_file.is_some() {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(ConfigError::Unreadable { path, source });
        }
        let key = new_admin_key().map_err(ConfigError::NoRandomness)?;
        write_secret(&path, key.expose_secret())?;
        tracing::info!(path = %path.display(), "made an admin key");
        Ok(key)
    }
}

impl Database {
    /// Where a key is kept that was not given. Not beside a server's database: each replica would
    /// make one of its own.
    fn beside(&self, what: &str) -> Option<PathBuf> {
        let Self::File(path) = self else { return None };
        let mut name = path.as_os_str().to_owned();
        name.push(".");
        name.push(what);
        Some(PathBuf::from(name))
    }
}

/// Writes a new file that only its owner can read, and makes sure that it stays.
fn write_secret(path: &Path, secret: &str) -> Result<(), ConfigError> {
    let unwritable = |source| ConfigError::Unwritable { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(unwritable)?;
    file.write_all(secret.as_bytes()).map_err(unwritable)?;
    file.write_all(b"\n").map_err(unwritable)?;
    // A key that is lost to a power cut takes all that was sealed under it along.
    file.sync_all().map_err(unwritable)
}
