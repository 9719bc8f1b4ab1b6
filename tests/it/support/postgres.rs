//! Throw-away PostgreSQL servers. `tests/postgres` starts and stops them, and ends with whoever
//! holds its standard input: no server outlives the tests, not even those that were killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use url::Url;

/// Whether the server waits for the disk. What was committed outlives the server's crash either
/// way, but only with `On` would it outlive the machine's, and do commits take as long as they do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fsync {
    On,
    Off,
}

impl Fsync {
    fn setting(self) -> &'static str {
        match self {
            Self::On => "fsync=on",
            Self::Off => "fsync=off",
        }
    }
}

/// A running server, whoever started it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    url: Url,
    /// Where the programs of its version are.
    bin: PathBuf,
}

/// A server of one's own, which can be stopped, killed and started again. It ends when this is
/// dropped, or with the process.
///
/// All of this blocks.
pub(crate) struct Cluster {
    supervisor: Supervisor,
    server: Server,
    pid: u32,
    directory: PathBuf,
}

/// A running `tests/postgres`.
struct Supervisor {
    process: Child,
    answers: BufReader<ChildStdout>,
}

/// A fresh and empty database's URL, on the server that all tests share.
pub(crate) fn database() -> String {
    Server::shared().create_database()
}

impl Server {
    /// The one that `tests/postgres-for-a-run` started for this run of nextest, or else one that
    /// this process starts for all its tests.
    #[expect(clippy::disallowed_methods, reason = "a test is set by whoever runs it")]
    pub(crate) fn shared() -> Self {
        static OWN: OnceLock<Cluster> = OnceLock::new();
        match std::env::var("TEST_POSTGRES") {
            Ok(url) => Self {
                url: url.parse().expect("TEST_POSTGRES is a URL"),
                bin: std::env::var_os("PG_BIN").unwrap_or_default().into(),
            },
            Err(_) => OWN.get_or_init(|| Cluster::start(Fsync::Off)).server.clone(),
        }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let mut url = self.url.clone();
        url.set_path(database);
        url.into()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.url.socket_addrs(|| None).unwrap()[0]
    }

    /// The URL of a fresh and empty database.
    pub(crate) fn create_database(&self) -> String {
        let name = format!("test_{:016x}", getrandom::u64().unwrap());
        // Nobody can be connected to this template, which would be in the way of copying it.
        self.ask(self.url.as_str(), &format!("create database {name} template template0"));
        self.url(&name)
    }

    /// What psql prints of the rows that a statement returns.
    pub(crate) fn ask(&self, url: &str, statement: &str) -> String {
        self.try_ask(url, statement)
            .unwrap_or_else(|complaint| panic!("{statement} at {url}: {complaint}"))
    }

    /// The same, or what it complains of.
    fn try_ask(&self, url: &str, statement: &str) -> Result<String, String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--command"]);
        let output = psql.args([statement, url]).stdin(Stdio::null()).output().expect("psql runs");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    }
}

impl Server {
    /// Waits until this is what psql prints. A standby may not have the database itself yet.
    pub(crate) fn until(&self, url: &str, statement: &str, wanted: &str) {
        let mut said = Ok(String::new());
        for _ in 0..600 {
            said = self.try_ask(url, statement);
            if said.as_deref() == Ok(wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("it did not come to pass in time that {statement} is {wanted}: {said:?}");
    }
}

impl Deref for Cluster {
    type Target = Server;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl Cluster {
    pub(crate) fn start(fsync: Fsync) -> Self {
        Self::start_with(&[fsync.setting()])
    }

    /// With these settings of the server's, each as `name=value`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        Supervisor::spawn(settings, &[]).start()
    }

    /// On a machine of which these variables are the environment.
    pub(crate) fn start_in(environment: &[(&str, String)]) -> Self {
        Supervisor::spawn(&[Fsync::Off.setting()], environment).start()
    }

    /// A standby of the server that listens on this port. It applies what it is sent, and can be
    /// read.
    pub(crate) fn start_standby_of(port: u16) -> Self {
        Supervisor::spawn(&[Fsync::Off.setting()], &[]).follow(port).start()
    }

    /// From now on the other one's standby, with what that one keeps.
    pub(crate) fn start_again_as_standby_of(self, port: u16) -> Self {
        self.supervisor.follow(port).start()
    }

    /// Gives a setting another value, at once and for good.
    pub(crate) fn set(&self, setting: &str, value: &str) {
        for statement in
            [&format!("ALTER SYSTEM SET {setting} = '{value}'"), "SELECT pg_reload_conf()"]
        {
            self.ask(self.url.as_str(), statement);
        }
    }

    /// Makes a standby the primary, which waits for no other standby.
    pub(crate) fn promote(&self) {
        self.set("synchronous_standby_names", "");
        assert_eq!(self.ask(self.url.as_str(), "SELECT pg_promote()"), "t");
    }

    /// Waits for the disks of its standbys too, now that it has one, before it says that anything
    /// is kept.
    pub(crate) fn wait_for_standbys(&self) {
        self.set("synchronous_standby_names", "*");
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        self.until(self.url.as_str(), sql, "1");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap()
    }

    /// Ends sessions, writes everything to disk, and stops.
    pub(crate) fn stop(&mut self) {
        self.supervisor.order("stop", "stopped");
    }

    /// Stops it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.supervisor.order("kill", "stopped");
    }

    /// On the same port, with what it keeps.
    pub(crate) fn start_again(self) -> Self {
        self.supervisor.start()
    }
}

impl Supervisor {
    fn spawn(settings: &[&str], environment: &[(&str, String)]) -> Self {
        let mut process =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres"))
                .args(settings)
                .envs(environment.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // What is sent to all processes of a test that hangs must not keep it from tidying up.
                .process_group(0)
                .spawn()
                .expect("tests/postgres runs");
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, answers }
    }

    fn follow(mut self, port: u16) -> Self {
        self.order(&format!("follow {port}"), "following");
        self
    }

    fn start(mut self) -> Cluster {
        let ready = self.order("start", "ready");
        let fields: Vec<_> = ready.split('\t').collect();
        let [_, pid, port, bin, directory] = fields[..] else { panic!("what is {ready}?") };
        let url = format!("postgres://bridge@127.0.0.1:{port}/postgres").parse().unwrap();
        Cluster {
            server: Server { url, bin: bin.into() },
            pid: pid.parse().unwrap(),
            directory: directory.into(),
            supervisor: self,
        }
    }

    /// What it answers, which begins with `wanted`; anything else is a complaint.
    fn order(&mut self, order: &str, wanted: &str) -> String {
        // If it has ended, it has said why.
        writeln!(self.process.stdin.as_mut().unwrap(), "{order}").ok();
        let mut said = String::new();
        while 0 < self.answers.read_line(&mut said).unwrap() {
            if said.starts_with(wanted) {
                return said.trim_end().to_owned();
            }
        }
        panic!("{said}");
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // This closes its standard input.
        self.process.wait().expect("tests/postgres is this process's child");
    }
}

#[test]
fn a_fresh_database_answers() {
    let server = Server::shared();
    let (one, other) = (database(), database());
    assert_ne!(one, other);
    server.ask(&one, "create table kept (number int)");
    assert_eq!(server.ask(&other, "select count(*) from pg_tables where tablename = 'kept'"), "0");
}

#[test]
fn what_was_committed_outlives_a_crash_and_a_stop() {
    let mut cluster = Cluster::start(Fsync::On);
    let url = cluster.create_database();
    cluster.ask(&url, "create table kept (number int)");
    cluster.ask(&url, "insert into kept values (1)");
    cluster.kill();
    assert!(!runs(cluster.pid()));

    let mut cluster = cluster.start_again();
    cluster.ask(&url, "insert into kept values (2)");
    cluster.stop();
    assert!(!runs(cluster.pid()));

    let cluster = cluster.start_again();
    assert_eq!(cluster.ask(&url, "select string_agg(number::text, ' ') from kept"), "1 2");
    assert_eq!(cluster.ask(&url, "show fsync"), "on");
}

#[test]
fn a_standby_has_what_its_primary_has_and_takes_its_place() {
    let mut primary = Cluster::start(Fsync::Off);
    let standby = Cluster::start_standby_of(primary.address().port());
    primary.wait_for_standbys();
    let url = primary.create_database();
    let at_standby = standby.url(url.rsplit('/').next().unwrap());
    primary.ask(&url, "create table kept as select 1");
    let sql = "select count(*) from kept";
    standby.until(&at_standby, sql, "1");
    primary.kill();
    standby.promote();
    standby.ask(&at_standby, "insert into kept values (2)");

    let primary = primary.start_again_as_standby_of(standby.address().port());
    primary.until(&url, sql, "2");
}

#[test]
fn nothing_is_left_of_a_server_whose_holder_is_gone() {
    let cluster = Cluster::start(Fsync::Off);
    let (pid, directory) = (cluster.pid(), cluster.directory.clone());
    assert!(runs(pid) && directory.exists());
    drop(cluster);
    assert!(!runs(pid), "the server still runs");
    assert!(!directory.exists(), "{} is left", directory.display());
}

fn runs(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
