//! A verdict with all that it rests on, for operators who wonder.

use std::net::IpAddr;

use super::addresses::{self, Block};
use super::embedded::Face;
use super::rules::CHECKS;
use super::{CallbackUrl, Egress, Part, Refusal, look_up};
use crate::names::LookupError;

/// What was looked at, in its order, and what came of it.
///
/// Made by the same checks as the verdicts themselves, and goes on where those stop.
#[derive(Debug)]
pub struct Explanation {
    pub looked: Vec<Looked>,
    pub verdict: Verdict,
}

/// One thing that was looked at.
#[derive(Debug)]
pub struct Looked {
    pub at: Step,
    /// What is there, in words.
    pub finding: String,
    pub refusal: Option<Refusal>,
    /// Of an address: itself, or the addresses that are embedded in it.
    pub faces: Vec<Faced>,
}

/// An address that a packet may end up at, and the special block that it is in.
#[derive(Debug)]
pub struct Faced {
    pub face: Face,
    pub block: Option<&'static Block>,
}

/// What there is to look at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Whether the text is a URL at all.
    Url,
    Part(Part),
    /// What its name resolves to.
    Name,
    /// An address that the name resolves to.
    Resolved(IpAddr),
}

/// What the URL comes to.
#[derive(Debug)]
pub enum Verdict {
    Allowed,
    /// The first of the refusals.
    Refused(Refusal),
    /// Nothing is against it so far, and its name could not be looked up. A registration would be
    /// taken, and each attempt would look again.
    Unknown(LookupError),
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Part(Part::Scheme) => "scheme",
            Self::Part(Part::UserInfo) => "userInfo",
            Self::Part(Part::Fragment) => "fragment",
            Self::Part(Part::Port) => "port",
            Self::Part(Part::Host) => "host",
            Self::Part(Part::Address) | Self::Resolved(_) => "address",
            Self::Name => "name",
        }
    }
}

impl Egress {
    /// The verdict on a URL, with all that it rests on. Looks its name up, and remembers nothing.
    pub async fn explain(&self, text: &str) -> Explanation {
        let url = match CallbackUrl::read(text) {
            Ok(url) => url,
            Err(refusal) => {
                let finding = "no URL to call".to_owned();
                let looked = vec![Looked::at(Step::Url, finding, Some(refusal.clone()))];
                return Explanation { looked, verdict: Verdict::Refused(refusal) };
            }
        };
        let mut looked = vec![Looked::at(Step::Url, url.as_str().to_owned(), None)];
        for (part, check) in CHECKS {
            let refusal = check(&self.rules, &url).err();
            match (part, url.address()) {
                (Part::Address, None) => {}
                (Part::Address, Some(address)) => {
                    looked.push(self.faced(Step::Part(part), address, refusal));
                }
                _ => looked.push(Looked::at(Step::Part(part), finding(part, &url), refusal)),
            }
        }
        let trouble = self.resolve_and_look(&url, &mut looked).await;
        let refusal = looked.iter().find_map(|it| it.refusal.clone());
        let verdict = match (refusal, trouble) {
            (Some(refusal), _) => Verdict::Refused(refusal),
            (None, Some(trouble)) => Verdict::Unknown(trouble),
            (None, None) => Verdict::Allowed,
        };
        Explanation { looked, verdict }
    }

    /// Looks at all that the name of `url` resolves to, or says why it does not.
    async fn resolve_and_look(
        &self,
        url: &CallbackUrl,
        looked: &mut Vec<Looked>,
    ) -> Option<LookupError> {
        let name = url.name()?;
        let Some(names) = &self.names else {
            let finding = "left to the proxy, which has to judge what it resolves to";
            looked.push(Looked::at(Step::Name, finding.to_owned(), None));
            return None;
        };
        match look_up(names.as_ref(), name).await {
            Ok(addresses) => {
                for address in addresses {
                    let refusal = self.rules.check_address(address).map_err(Refusal::LeadsTo);
                    looked.push(self.faced(Step::Resolved(address), address, refusal.err()));
                }
                None
            }
            Err(error @ LookupError::NotFound) => {
                let refusal = Some(Refusal::HostNotFound);
                looked.push(Looked::at(Step::Name, error.to_string(), refusal));
                None
            }
            Err(error @ (LookupError::TimedOut | LookupError::Unavailable(_))) => {
                looked.push(Looked::at(Step::Name, error.to_string(), None));
                Some(error)
            }
        }
    }

    /// An address, with the blocks that it is in.
    fn faced(&self, at: Step, address: IpAddr, refusal: Option<Refusal>) -> Looked {
        let faces: Vec<_> = self
            .rules
            .faces(address)
            .map(|face| Faced { face, block: addresses::block(face.address) })
            .collect();
        let finding = faces.iter().map(Faced::to_string).collect::<Vec<_>>().join("; ");
        let opened = refusal.is_none() && faces.iter().any(|it| it.block.is_some());
        let finding = if opened { format!("{finding}; opened by the operator") } else { finding };
        Looked { at, finding: format!("{address}: {finding}"), refusal, faces }
    }
}

impl Looked {
    fn at(at: Step, finding: String, refusal: Option<Refusal>) -> Self {
        Self { at, finding, refusal, faces: Vec::new() }
    }
}

impl std::fmt::Display for Faced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(form) = self.face.form {
            write!(f, "{} ({form}) is ", self.face.address)?;
        }
        match self.block {
            Some(block) => write!(f, "{} ({}, {})", block.what, block.network, block.source),
            None => f.write_str("on the open internet"),
        }
    }
}

/// What a part of `url` is.
fn finding(part: Part, url: &CallbackUrl) -> String {
    let present = |is_there| if is_there { "present" } else { "none" }.to_owned();
    match part {
        Part::Scheme => url.scheme().to_owned(),
        Part::UserInfo => present(url.has_user_info()),
        Part::Fragment => present(url.has_fragment()),
        Part::Port => url.port().to_string(),
        Part::Host | Part::Address => url.host().to_owned(),
    }
}
