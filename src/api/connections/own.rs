//! What a caller can say of its connections: all that the operator can, but for the identity of the bridge's
//! own machine.
//!
//! In the document only. Whoever sends what is the operator's is still told so, and not that there is no
//! such member.

use std::borrow::Cow;
use std::marker::PhantomData;

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{NewConnection, NewProof};

/// Members that only the operator may give.
const OPERATORS: [&str; 2] = ["federatedTokenFile", "managedIdentity"];

/// The body `T` without the operator's members.
pub(super) struct Own<T>(PhantomData<T>);

/// The body of a caller's request for a connection.
pub(super) type OwnConnection = Own<NewConnection>;

/// The body of a caller's request for another proof.
pub(super) type OwnProof = Own<NewProof>;

impl<T: PartialSchema> PartialSchema for Own<T> {
    fn schema() -> RefOr<Schema> {
        let mut schema = T::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.properties.retain(|name, _| !OPERATORS.contains(&name.as_str()));
        }
        schema
    }
}

impl<T: ToSchema> ToSchema for Own<T> {
    fn name() -> Cow<'static, str> {
        format!("Own{}", T::name().trim_start_matches("New")).into()
    }
}
