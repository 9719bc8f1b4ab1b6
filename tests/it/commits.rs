//! Which commits on PostgreSQL wait for the disk.

use std::sync::Arc;

use engagement_bridge::operation::{Answer, Verdict};
use engagement_bridge::store::Work;
use tokio::task::block_in_place;

use crate::contract::{Bench, polled};
use crate::support::postgres::Cluster;
use crate::support::{after, on_its_own_lane};

/// Notes how a transaction that writes to one of the tables is to end.
const NOTED: &str = "CREATE TABLE noted (what TEXT, how TEXT);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO noted VALUES (lower(tg_op) || ' ' || tg_table_name, current_setting('synchronous_commit'));
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON lanes EXECUTE FUNCTION note();
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON operations EXECUTE FUNCTION note();
    CREATE TRIGGER note AFTER INSERT ON callbacks EXECUTE FUNCTION note()";

/// A lane that is made before a registration alone does not: it gets there with what is kept on it. One
/// for callbacks is made together with the first of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_for_has_waited_for_the_disk() {
    let cluster = block_in_place(|| Cluster::start_with(&["fsync=off", "synchronous_commit=off"]));
    let url = cluster.create_database();
    let bench = Bench::postgres_at(&url).await;
    let ask = |sql: &str| block_in_place(|| cluster.ask(&url, sql));
    ask(NOTED);
    // Again and again, so that connections that have made lanes are used for everything else.
    for first in [0, 100, 200, 300_u32] {
        bench.keep((first + 1..=first + 40).map(on_its_own_lane)).await;
        bench.keep([on_its_own_lane(first + 41)]).await;
        let now = after(60 + u64::from(first));
        let finished = |it| polled(it, Answer::Finished(Verdict::Succeeded), now);
        let mut claimed = bench.claim_at(now, 64).await;
        claimed.retain(|it| matches!(it.work, Work::Poll { .. }));
        assert!(!claimed.is_empty(), "no poll is due");
        let worked: Vec<_> = claimed.into_iter().map(finished).collect();
        bench.commit(Arc::new(worked)).await.unwrap();
    }
    let noted = ask(
        "SELECT string_agg(DISTINCT what || ' ' || how, ', ' ORDER BY what || ' ' || how) FROM noted",
    );
    assert_eq!(
        noted.trim(),
        "insert callbacks on, insert lanes off, insert lanes on, insert operations on, \
        update lanes on, update operations on"
    );
}
