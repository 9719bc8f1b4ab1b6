//! Which certificates are taken, in which forms.

use engagement_bridge::graph::{ClientCertificate, InvalidCertificate};
use jiff::SignedDuration;
use secrecy::{ExposeSecret as _, SecretString};

use crate::support::certificates::{Made, today};

fn read(pem: &str) -> Result<ClientCertificate, InvalidCertificate> {
    ClientCertificate::from_pem(&SecretString::from(pem), today())
}

#[test]
fn a_certificate_is_taken_in_any_of_its_forms_and_is_the_same() {
    let (made, other) = (Made::rsa(), Made::rsa());
    let read_one = read(&made.pem()).unwrap();
    let year = SignedDuration::from_hours(24 * 364);
    assert!(today() + year < read_one.expires_at());

    let key_first = format!("{}{}", made.key, made.certificate);
    let chain = format!("{}{}{}", other.certificate, made.certificate, made.key);
    let pkcs1 = made.key_by(&["rsa", "-traditional"]);
    assert!(pkcs1.contains("BEGIN RSA PRIVATE KEY"));
    let of_old = format!("{}{pkcs1}", made.certificate);
    let windows = made.pem().replace('\n', "\r\n");
    for pem in [key_first, chain, of_old, windows] {
        let again = read(&pem).unwrap();
        assert_eq!(again.thumbprint(), read_one.thumbprint());
        // What is kept can be read again, and is but one certificate and one key.
        let kept = again.pem().expose_secret();
        assert_eq!(kept.matches("-----BEGIN").count(), 2);
        assert_eq!(read(kept).unwrap().thumbprint(), read_one.thumbprint());
    }
    for flags in [&[][..], &["-certpbe", "PBE-SHA1-3DES", "-keypbe", "PBE-SHA1-3DES"]] {
        for password in ["", "p4ss wörd"] {
            let file = made.pkcs12(password, flags);
            let word = SecretString::from(password);
            let opened = ClientCertificate::from_pkcs12(&file, &word, today());
            assert_eq!(opened.unwrap().thumbprint(), read_one.thumbprint(), "{flags:?}");
            let wrong = SecretString::from("another");
            let refused = ClientCertificate::from_pkcs12(&file, &wrong, today());
            assert!(matches!(refused, Err(InvalidCertificate::NotPkcs12)));
        }
    }
}

#[test]
fn what_can_prove_nothing_is_refused_with_the_reason() {
    use InvalidCertificate as Why;
    let (made, other) = (Made::rsa(), Made::rsa());
    let small = Made::by("rsa:1024", &["-days", "365"]);
    let curve = Made::by("ec", &["-pkeyopt", "ec_paramgen_curve:P-256", "-days", "365"]);
    let both = |certificate: &Made, key: &str| format!("{}{key}", certificate.certificate);
    let encrypted = made.key_by(&["pkcs8", "-topk8", "-passout", "pass:secret"]);
    let of_old = made.key_by(&["rsa", "-traditional", "-aes128", "-passout", "pass:secret"]);
    let reason = |pem: &str| format!("{:?}", read(pem).unwrap_err());
    for (pem, expected) in [
        (String::new(), Why::NoKey),
        (made.key.clone(), Why::NoCertificate),
        (made.certificate.clone(), Why::NoKey),
        (both(&made, &encrypted), Why::EncryptedKey),
        (both(&made, &of_old), Why::EncryptedKey),
        (both(&made, &other.key), Why::Unrelated),
        (both(&made, &format!("{}{}", made.key, other.key)), Why::ManyKeys),
        (curve.pem(), Why::NotRsa),
        ("-----BEGIN PRIVATE KEY-----\n?\n-----END PRIVATE KEY-----".to_owned(), Why::NotPem),
    ] {
        assert_eq!(reason(&pem), format!("{expected:?}"), "{pem}");
    }
    assert!(matches!(read(&small.pem()), Err(Why::KeyRejected(_))));
    assert!(matches!(read(&" ".repeat(50_000)), Err(Why::TooLong { .. })));

    let pem = SecretString::from(made.pem());
    let year = SignedDuration::from_hours(24 * 366);
    let later = ClientCertificate::from_pem(&pem, today() + year);
    assert!(matches!(later, Err(Why::Expired)));
    let earlier = ClientCertificate::from_pem(&pem, today() - year);
    assert!(matches!(earlier, Err(Why::NotYetValid)));
}

#[test]
fn a_certificate_shows_its_key_to_nobody() {
    let made = Made::rsa();
    let shown = format!("{:?}", read(&made.pem()).unwrap());
    let secret = made.key.lines().nth(1).unwrap();
    assert!(!shown.contains(secret) && !shown.contains("BEGIN"), "{shown}");
}
