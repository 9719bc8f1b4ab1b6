//! An installation moves from a database file to a PostgreSQL.

mod broken_off;
mod refused;
mod whole;

use std::process::Output;

use serde_json::Value;
use tokio::process::Child;
use tokio::task::block_in_place;
use tokio_postgres::{Client as Session, NoTls};

use super::restarts::until;
use super::{Home, complaint};
use crate::support::postgres::Server;
use crate::world::PATIENCE;

/// A bridge that is served from `database` by the keys that `home` made.
fn moved(home: &Home, root: &str, database: &str) -> Home {
    let key = |name: &str| home.directory.path().join(name).display().to_string();
    let mut moved = Home::new(root)
        .environment("ENGAGEMENT_BRIDGE_DATABASE", database)
        .environment("ENGAGEMENT_BRIDGE_MASTER_KEY_FILE", &key("bridge.db.master-key"))
        .environment("ENGAGEMENT_BRIDGE_ADMIN_KEY_FILE", &key("bridge.db.admin-key"));
    moved.flags.clone_from(&home.flags);
    moved
}

impl Home {
    async fn copy_to(&self, database: &str) -> Output {
        let from = format!("sqlite:{}", self.database().display());
        self.run(&["copy", "--from", &from, "--to", database]).await
    }

    /// What it says came of it.
    async fn copied_to(&self, database: &str) -> Value {
        let output = self.copy_to(database).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn begin_to_copy_to(&self, database: &str) -> Child {
        let from = self.database().display().to_string();
        self.command(&["copy", "--from", &from, "--to", database]).spawn().unwrap()
    }

    /// It does not copy, and says all of these.
    async fn cannot_copy_to(&self, database: &str, words: &[&str]) {
        let output = self.copy_to(database).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        says(&complaint(&output), words);
    }

    /// No command opens the database, and each says all of these.
    async fn is_not_served(&self, words: &[&str]) {
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        for arguments in [&[&["serve"][..], &flags].concat()[..], &["callers", "list"]] {
            let output = self.run(arguments).await;
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
            says(&complaint(&output), words);
        }
    }
}

fn says(complaint: &str, words: &[&str]) {
    for word in words {
        assert!(complaint.contains(word), "{word:?} is not in: {complaint}");
    }
}

/// What a statement answers, where others may be at work.
fn ask(database: &str, sql: &str) -> String {
    block_in_place(|| Server::shared().ask(database, sql))
}

/// A session that stays, and with it what it has locked.
async fn session(database: &str) -> Session {
    let (session, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(connection);
    running.detach_all();
    session
}

/// Waits until somebody waits for what a session has locked, and not for another copy to be gone.
async fn blocked(database: &str) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock' AND wait_event <> 'advisory'";
    until(async || ask(database, sql) == "1").await;
}

/// All that is in a database, but for what belongs to none of its rows.
fn content(database: &str) -> Vec<(String, String)> {
    let tables = "SELECT table_name FROM information_schema.tables \
        WHERE table_schema = 'public' ORDER BY table_name";
    let content = |table: &str| {
        let sql = format!("SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {table} t");
        (table.to_owned(), ask(database, &sql))
    };
    ask(database, tables).lines().map(content).collect()
}

async fn killed(mut copy: Child) {
    copy.kill().await.unwrap();
    tokio::time::timeout(PATIENCE, copy.wait()).await.expect("it ends").unwrap();
}
