//! Who has changed what.

use engagement_bridge::store::{AuditFilter, Ending, Entry, EntryId, Page, Who};
use jiff::Timestamp;

use super::{Bench, laws};
use crate::support::{NOON, after, caller};

laws![
    a_change_is_there_from_before_it_is_made_until_it_is_withdrawn,
    changes_are_listed_newest_first_by_whom_and_whose_and_when,
    the_oldest_changes_are_forgotten_little_by_little,
];

/// The id of an entry that was begun then, one of some.
fn id(at: Timestamp, number: u8) -> EntryId {
    let millis = u128::try_from(at.as_millisecond()).unwrap();
    EntryId(millis << 80 | 7 << 76 | u128::from(number))
}

pub(super) fn entry(at: Timestamp, number: u8) -> Entry {
    Entry {
        id: id(at, number),
        at,
        who: Who::ApiKey { id: "key_1".to_owned() },
        caller: Some(caller("contoso")),
        method: "DELETE".to_owned(),
        resource: "/v1/keys/{id}".to_owned(),
        names: vec!["key_2".to_owned()],
        address: Some("2001:db8::1".parse().unwrap()),
        result: None,
    }
}

async fn all(bench: &Bench, filter: &AuditFilter) -> Vec<Entry> {
    bench.changes(filter, Page { after: None, limit: 100 }).await.unwrap()
}

async fn a_change_is_there_from_before_it_is_made_until_it_is_withdrawn(bench: &Bench) {
    let by_the_operator = Entry {
        who: Who::AdminKey,
        caller: None,
        names: Vec::new(),
        address: None,
        ..entry(after(1), 1)
    };
    let [tenant, subject, app] = ["tenant", "subject", "app"].map(str::to_owned);
    let signed_in = Entry { who: Who::SignIn { tenant, subject, app }, ..entry(after(2), 2) };
    for entry in [entry(NOON, 0), by_the_operator.clone(), signed_in.clone()] {
        bench.begin_change(entry).await.unwrap();
    }
    let every = AuditFilter::default();
    assert_eq!(all(bench, &every).await, [signed_in, by_the_operator.clone(), entry(NOON, 0)]);

    let answered =
        |made: Option<&str>| Ending::Answered { status: 201, made: made.map(str::to_owned) };
    bench.end_change(id(NOON, 0), answered(Some("key_3"))).await.unwrap();
    bench.end_change(id(after(1), 1), answered(Some("shop"))).await.unwrap();
    bench.end_change(id(after(2), 2), Ending::Refused).await.unwrap();
    // What was forgotten meanwhile does not come back.
    bench.end_change(id(after(3), 3), answered(None)).await.unwrap();
    let names = |names: &[&str]| names.iter().map(|&it| it.to_owned()).collect();
    let (first, second) = (entry(NOON, 0), by_the_operator);
    let ended = [
        Entry { result: Some(201), names: names(&["shop"]), ..second },
        Entry { result: Some(201), names: names(&["key_2", "key_3"]), ..first },
    ];
    assert_eq!(all(bench, &every).await, ended);
}

async fn changes_are_listed_newest_first_by_whom_and_whose_and_when(bench: &Bench) {
    let fabrikam = caller("fabrikam");
    for (second, number) in [(1, 1), (1, 2), (2, 3), (3, 4)] {
        let entry = entry(after(second), number);
        let entry = match number {
            2 => Entry { caller: Some(fabrikam.clone()), ..entry },
            3 => Entry { who: Who::AdminKey, ..entry },
            4 => {
                let [tenant, subject, app] = ["t", "adele", "a"].map(str::to_owned);
                Entry { who: Who::SignIn { tenant, subject, app }, caller: None, ..entry }
            }
            _ => entry,
        };
        bench.begin_change(entry).await.unwrap();
    }
    let listed = async |filter: AuditFilter, page: Page<EntryId>| {
        let found = bench.changes(&filter, page).await.unwrap();
        found.into_iter().map(|it| it.id.0 & 0xff).collect::<Vec<_>>()
    };
    let page = |limit| Page { after: None, limit };
    let every = AuditFilter::default;
    let by = |by: &str| AuditFilter { by: Some(by.to_owned()), ..every() };
    assert_eq!(listed(every(), page(3)).await, [4, 3, 2]);
    let behind = Page { after: Some(id(after(2), 3)), limit: 9 };
    assert_eq!(listed(every(), behind).await, [2, 1]);
    for (filter, expected) in [
        (AuditFilter { caller: Some(fabrikam), ..every() }, &[2][..]),
        (AuditFilter { caller: Some(caller("contoso")), ..every() }, &[3, 1]),
        (AuditFilter { caller: Some(caller("nobody")), ..every() }, &[]),
        (by("key_1"), &[2, 1]),
        (by("apiKey"), &[2, 1]),
        (by("adminKey"), &[3]),
        (by("adele"), &[4]),
        (by("key_2"), &[]),
        (AuditFilter { since: Some(after(2)), ..every() }, &[4, 3]),
        (AuditFilter { until: Some(after(2)), ..every() }, &[2, 1]),
        (AuditFilter { since: Some(after(2)), until: Some(after(3)), ..every() }, &[3]),
    ] {
        assert_eq!(listed(filter.clone(), page(9)).await, expected, "{filter:?}");
    }
}

async fn the_oldest_changes_are_forgotten_little_by_little(bench: &Bench) {
    for second in 0..5_u8 {
        bench.begin_change(entry(after(second.into()), second)).await.unwrap();
    }
    assert_eq!(bench.forget_changes(NOON, 9).await.unwrap(), 0);
    assert_eq!(bench.forget_changes(after(3), 2).await.unwrap(), 2);
    let left = all(bench, &AuditFilter::default()).await;
    assert_eq!(left.iter().map(|it| it.id.0 & 0xff).collect::<Vec<_>>(), [4, 3, 2]);
    assert_eq!(bench.forget_changes(after(3), 2).await.unwrap(), 1);
    assert_eq!(bench.forget_changes(after(3), 2).await.unwrap(), 0);
}
