use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::certificate::{Served, Unusable};
use super::server::Seen;
use super::*;
use crate::clock::Clock;
use crate::tests::log::Log;

/// A time at which the certificates below are good, unless they say otherwise.
const NOON: i64 = 1_800_000_000;

fn noon() -> Timestamp {
    Timestamp::from_second(NOON).unwrap()
}

/// Noon when it is made, and then as long after it as tokio's time, which can be paused.
struct SinceNoon(tokio::time::Instant);

impl Clock for SinceNoon {
    fn now(&self) -> Timestamp {
        noon() + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

/// A certificate and its key, in PEM form.
struct Made {
    certificate: String,
    key: String,
}

/// Good from `from` to `to` days after noon.
fn made(from: i64, to: i64) -> Made {
    let mut params = CertificateParams::new(["bridge.example".to_owned()]).unwrap();
    let day = |days: i64| {
        let at = noon() + SignedDuration::from_hours(24 * days);
        let since = Duration::from_secs(at.as_second().try_into().unwrap());
        rcgen::date_time_ymd(1970, 1, 1) + since
    };
    (params.not_before, params.not_after) = (day(from), day(to));
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Made {
        certificate: pem("CERTIFICATE", certificate.der()),
        key: pem("PRIVATE KEY", &key.serialize_der()),
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn unusable(chain: &str, key: &str) -> Unusable {
    match Served::from_pem(chain.as_bytes(), key.as_bytes(), &provider()) {
        Ok(_) => panic!("it is taken"),
        Err(unusable) => unusable,
    }
}

/// The files of an [`OwnCertificate`], to be replaced.
struct Files(TempDir);

impl Files {
    fn holding(made: &Made) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.put(made);
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, made: &Made) {
        write(&self.path("certificate"), &made.certificate);
        write(&self.path("key"), &made.key);
    }

    fn read(&self) -> Result<OwnCertificate, Unusable> {
        let (certificate, key) = (self.path("certificate"), self.path("key"));
        OwnCertificate::read(CertificateFiles { certificate, key })
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn what_cannot_be_served_by_is_told_without_a_word_of_it() {
    let (own, other) = (made(-1, 90), made(-1, 90));
    let chain = format!("a comment\n{}{}", own.certificate, other.certificate);
    assert!(Served::from_pem(chain.as_bytes(), own.key.as_bytes(), &provider()).is_ok());
    let both = format!("{}{}", own.key, own.certificate);
    assert!(Served::from_pem(both.as_bytes(), both.as_bytes(), &provider()).is_ok());

    let hollow = pem("CERTIFICATE", &[0; 8]);
    let sealed = own.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    // As it becomes when a key is carried in a variable that lost its line breaks.
    let in_one_line = own.key.replace('\n', "");
    for (chain, key, expected) in [
        ("", own.key.as_str(), "holds no certificate"),
        (&own.key, &own.certificate, "holds no certificate"),
        (&in_one_line, &own.key, "certificate 1"),
        (&hollow, &own.key, "certificate 1"),
        (
            &format!("{}-----BEGIN CERTIFICATE-----\nMIIB", own.certificate),
            &own.key,
            "certificate 2",
        ),
        (&own.certificate, "", "no private key"),
        (&own.certificate, &own.certificate, "no private key"),
        (&own.certificate, &sealed, "no private key"),
        (&own.certificate, &in_one_line, "no private key"),
        (&own.certificate, &pem("PRIVATE KEY", &[0; 8]), "of a kind that TLS cannot use"),
        (&own.certificate, &other.key, "does not belong"),
        (&format!("{}{}", other.certificate, own.certificate), &own.key, "before those that vouch"),
    ] {
        let error = unusable(chain, key);
        let said = format!("{} {error:?}", error.in_full());
        assert!(said.contains(expected), "{expected}: {said}");
        let secret = &own.key.lines().nth(1).unwrap()[..16];
        // As text, and as the bytes that the library shows where it says what it met.
        let bytes = format!("{:?}", secret.as_bytes());
        for form in [secret, bytes.trim_matches(['[', ']'])] {
            assert!(!said.contains(form), "{said}");
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let files = Files::holding(&made(-1, 90));
    assert!(files.read().is_ok());
    let key = files.path("key");
    write(&key, &" ".repeat((1 << 20) + 1));
    let error = files.read().unwrap_err().in_full();
    assert!(error.contains(&key.display().to_string()) && error.contains("larger than"), "{error}");
    std::fs::remove_file(&key).unwrap();
    let error = files.read().unwrap_err().in_full();
    assert!(error.contains(&key.display().to_string()), "{error}");
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn what_replaces_it_is_taken_and_nothing_worse_than_it_is() {
    let first = made(-1, 90);
    let files = Files::holding(&first);
    let own = files.read().unwrap();
    let shown = || own.fingerprint().to_string();
    let (of_first, second) = (shown(), made(-1, 90));
    assert!(matches!(own.look(noon()), Seen::AsBefore));

    // One file after the other, as they are written.
    write(&files.path("certificate"), &second.certificate);
    assert!(matches!(own.look(noon()), Seen::Unusable(Unusable::Mismatch)));
    assert_eq!(shown(), of_first);
    write(&files.path("key"), &second.key);
    assert!(matches!(own.look(noon()), Seen::Replaced));
    let of_second = shown();
    assert_ne!(of_second, of_first);
    assert!(matches!(own.look(noon()), Seen::AsBefore));

    for worse in [made(-90, -1), made(1, 90)] {
        files.put(&worse);
        assert!(matches!(own.look(noon()), Seen::Unusable(Unusable::OutOfTime { .. })));
    }
    std::fs::remove_file(files.path("certificate")).unwrap();
    assert!(matches!(own.look(noon()), Seen::Unusable(Unusable::Unreadable { .. })));
    assert_eq!(shown(), of_second);
    files.put(&first);
    assert!(matches!(own.look(noon()), Seen::Replaced));
    assert_eq!(shown(), of_first);

    // It was not good yet when it was put there, and time goes by.
    files.put(&made(1, 90));
    let later = noon() + SignedDuration::from_hours(48);
    assert!(matches!(own.look(noon()), Seen::Unusable(_)));
    assert!(matches!(own.look(later), Seen::Replaced));
}

/// Looks after the certificate for some looks' time, putting something there before each.
async fn kept(files: &Files, puts: &[&dyn Fn()]) -> (String, Vec<String>) {
    let log = Log::collect();
    let clock = Arc::new(SinceNoon(tokio::time::Instant::now()));
    let (own, told) = (Arc::new(files.read().unwrap()), Mutex::new(Vec::new()));
    let replaced = |it: &OwnCertificate| told.lock().unwrap().push(it.fingerprint().to_string());
    let keeping = own.keep(clock, replaced, CancellationToken::new());
    let putting = async {
        // Half a look after each.
        tokio::time::sleep(LOOK_EVERY / 2).await;
        for put in puts {
            put();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = keeping => unreachable!("nobody stopped it"),
        () = putting => {}
    }
    (log.text(), told.into_inner().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_said_once_and_not_while_files_are_being_written() {
    let (first, second, third) = (made(-1, 90), made(-1, 90), made(-1, 90));
    let files = Files::holding(&first);
    let certificate_of = |made: &Made| write(&files.path("certificate"), &made.certificate);
    let nothing = || {};
    let (log, told) = kept(
        &files,
        &[
            // Half of it is there for one look.
            &|| certificate_of(&second),
            &|| files.put(&second),
            // And here for four.
            &|| certificate_of(&third),
            &nothing,
            &nothing,
            &nothing,
            &|| files.put(&third),
        ],
    )
    .await;
    assert_eq!(told.len(), 2, "{log}");
    assert_eq!(log.matches("the API has a new certificate").count(), 2, "{log}");
    assert_eq!(log.matches("the old one stays").count(), 1, "{log}");
}

#[tokio::test(start_paused = true)]
async fn its_end_is_warned_of_in_time() {
    let nothing = || {};
    for (made, word, times) in [
        (made(-100, 300), "expires in", 0),
        // Of a year, 30 days before; of 90 days, 18.
        (made(-340, 29), "expires in", 1),
        (made(-73, 17), "expires in", 1),
        (made(-65, 25), "expires in", 0),
        (made(-90, -1), "is refused by callers", 1),
        (made(1, 90), "is refused by callers", 1),
    ] {
        let (log, _) = kept(&Files::holding(&made), &[&nothing, &nothing, &nothing]).await;
        assert_eq!(log.matches(word).count(), times, "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn its_end_is_warned_of_once_a_day_until_it_is_replaced() {
    let (late, new) = (made(-80, 10), made(-1, 89));
    let files = Files::holding(&late);
    let (nothing, renew) = (|| {}, || files.put(&new));
    let a_day = usize::try_from(24 * 3_600 / LOOK_EVERY.as_secs()).unwrap();
    let mut puts: Vec<&dyn Fn()> = vec![&nothing; 2 * a_day - 10];
    puts.push(&renew);
    puts.extend(vec![&nothing as &dyn Fn(); a_day]);
    let (log, told) = kept(&files, &puts).await;
    assert_eq!(log.matches("expires in").count(), 2, "{log}");
    assert_eq!(told.len(), 1);
}

#[test]
fn a_fingerprint_is_read_back_and_nothing_else_is() {
    let files = Files::holding(&made(-1, 90));
    let own = files.read().unwrap().fingerprint();
    assert_eq!(own.to_string().parse::<Fingerprint>().unwrap(), own);
    for text in ["", "0f", &"0g".repeat(32), &"+f".repeat(32), &"é".repeat(32)] {
        assert!(text.parse::<Fingerprint>().is_err(), "{text}");
    }
}
