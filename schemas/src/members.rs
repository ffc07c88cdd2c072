//! An event's members, read but not yet checked: what the readers of JSON and Avro have in common.

use crate::scan::Scalar;

/// Members in the order in which they were read, those of `data` apart.
#[derive(Debug, PartialEq)]
pub(crate) struct Members<'a> {
    pub(crate) envelope: Vec<(&'a str, Scalar<'a>)>,
    pub(crate) data: Option<Data<'a>>,
}

/// The members of `data`.
#[derive(Debug, PartialEq)]
pub(crate) struct Data<'a> {
    /// As it was sent: what the payload's hash covers.
    pub(crate) hashed: &'a [u8],
    /// The same as JSON; `None` where it is none.
    pub(crate) text: Option<&'a str>,
    pub(crate) members: Vec<(&'a str, Scalar<'a>)>,
    /// Nested objects of scalars; none of JSON, which is read again where its schema has any.
    pub(crate) objects: Vec<(&'a str, Vec<(&'a str, Scalar<'a>)>)>,
}
