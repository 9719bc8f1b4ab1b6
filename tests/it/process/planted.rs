//! What must be found nowhere: secrets in every form that they could be written in.
//!
//! A new kind of secret is one line: `planted.add("name of it", secret)`, wherever a test gets hold of it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

/// Secrets, each under the name of its kind.
#[derive(Default)]
pub(super) struct Planted(Vec<(String, Vec<Form>)>);

/// What a secret may look like, and what that form is.
type Form = (&'static str, Vec<u8>);

/// Everything that can be read, and what it is.
#[derive(Default)]
pub(super) struct Read(Vec<(String, Vec<u8>)>);

impl Planted {
    pub(super) fn add(&mut self, kind: &str, secret: impl AsRef<[u8]>) {
        let secret = secret.as_ref();
        assert!(12 <= secret.len(), "the {kind} is so short that it may be anywhere by chance");
        self.0.push((kind.to_owned(), forms(secret)));
    }

    /// Parts of an RSA key in PEM form, so that it is found however its lines are broken.
    pub(super) fn add_rsa_key(&mut self, kind: &str, pem: &str) {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        // In PEM a line is 48 bytes; what is before is the same in all keys, or public.
        for line in [12, 16, 20] {
            let part = &key.secret_der()[48 * line..48 * (line + 1)];
            self.add(&format!("{kind}, line {line}"), part);
        }
    }

    /// That none of it is anywhere.
    pub(super) fn are_found_nowhere(&self, read: &Read) {
        for (place, bytes) in &read.0 {
            for (kind, forms) in &self.0 {
                for (form, secret) in forms {
                    let found = memchr::memmem::find(bytes, secret);
                    assert!(
                        found.is_none(),
                        "the {kind} is in {place}, {form}: {}",
                        around(bytes, found)
                    );
                }
            }
        }
    }
}

impl Read {
    pub(super) fn add(&mut self, place: &str, bytes: impl AsRef<[u8]>) {
        self.0.push((place.to_owned(), bytes.as_ref().to_vec()));
    }

    /// The text that has come from all of these together is longer than that.
    pub(super) fn is_longer_than(&self, place: &str, length: usize) -> bool {
        let of_place = self.0.iter().filter(|(it, _)| it.starts_with(place));
        length < of_place.map(|(_, bytes)| bytes.len()).sum()
    }
}

/// What stands before a find, to tell who wrote it.
fn around(bytes: &[u8], found: Option<usize>) -> String {
    let end = found.unwrap_or_default();
    String::from_utf8_lossy(&bytes[end.saturating_sub(200)..end]).into_owned()
}

/// All that a secret may look like: as it is, and as it is in base64 wherever that begins, in hex, and
/// percent-encoded.
fn forms(secret: &[u8]) -> Vec<Form> {
    let mut forms = vec![("in clear", secret.to_vec())];
    for (name, engine) in [("in base64", STANDARD_NO_PAD), ("in base64url", URL_SAFE_NO_PAD)] {
        for before in 0..3 {
            // Behind so many other bytes, and without the digits that those before or behind share.
            let whole = engine.encode([&[0; 3][..before], secret].concat());
            let first = [0, 2, 3][before];
            let length = (before + secret.len()) * 8 / 6;
            forms.push((name, whole.as_bytes()[first..length].to_vec()));
        }
    }
    let hex = |upper: bool| {
        secret.iter().fold(String::new(), |mut text, byte| {
            let written =
                if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
            written.unwrap();
            text
        })
    };
    forms.push(("in hex", hex(false).into_bytes()));
    forms.push(("in hex", hex(true).into_bytes()));
    let percent: String = url::form_urlencoded::byte_serialize(secret).collect();
    forms.push(("percent-encoded", percent.replace('+', "%20").into_bytes()));
    let every: String = secret.iter().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02X}").unwrap();
        text
    });
    forms.push(("percent-encoded throughout", every.into_bytes()));
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    forms.push(("as a list of numbers", list.into_bytes()));
    forms
}

#[test]
fn a_secret_is_found_in_every_form_wherever_it_begins() {
    let secret = b"planted/secret+with~odd=signs";
    let mut planted = Planted::default();
    planted.add("secret", secret);
    let is_found = |text: &[u8]| {
        let mut read = Read::default();
        read.add("a place", text);
        std::panic::catch_unwind(|| planted.are_found_nowhere(&read)).is_err()
    };
    assert!(!is_found(b"nothing of that kind"));
    for before in ["", "a", "ab", "abc", "user:"] {
        let text = [before.as_bytes(), secret, b" and more"].concat();
        assert!(is_found(&text));
        assert!(is_found(STANDARD_NO_PAD.encode(&text).as_bytes()), "behind {before:?}");
        assert!(is_found(URL_SAFE_NO_PAD.encode(&text).as_bytes()), "behind {before:?}");
    }
    assert!(is_found(b"x=planted%2Fsecret%2Bwith%7Eodd%3Dsigns"));
    assert!(is_found(format!("{secret:?}").as_bytes()));
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    assert!(is_found(hex.as_bytes()));
}
