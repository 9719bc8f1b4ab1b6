/// Where an operation lives at Graph: all that we keep of the URL that a caller handed in.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Reference {
    pub version: ApiVersion,
    /// `[A-Za-z0-9_-]{1,512}`, opaque.
    pub id: String,
}

/// The version of Graph's API that an operation was started through.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ApiVersion {
    V1,
    Beta,
}

/// Why a text does not refer to an operation.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidReference {
    #[error("empty")]
    Empty,
}
