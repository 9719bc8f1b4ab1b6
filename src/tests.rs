//! What the unit tests of several modules share.

pub(crate) mod hostile;
pub(crate) mod log;
pub(crate) mod peer;
pub(crate) mod proxy;
pub(crate) mod secure;
