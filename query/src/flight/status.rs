//! Every error that leaves over Flight: a gRPC status, what is wrong, and what to do. Internals stay in the log.

use tonic::Status;

use crate::{Error, places::Full, sql};

/// The statement's time is over.
pub(super) fn out_of_time() -> Status {
    Status::deadline_exceeded("the statement took longer than it may; ask for fewer days or columns at once")
}

/// No place is free.
pub(super) fn busy(full: Full) -> Status {
    Status::resource_exhausted(match full {
        Full::Service => "too many statements run at the moment; try again shortly",
        Full::Organisation => "too many statements of your organisation run at the moment; send fewer at a time",
    })
}

/// An error of ours.
pub(super) fn of(error: &Error) -> Status {
    match error {
        Error::Refused(_) => Status::invalid_argument(error.to_string()),
        Error::Sql(source) => Status::invalid_argument(sql::message(source)),
        Error::Forbidden(why) => Status::permission_denied(format!("{why}. {}", why.help())),
        Error::Budget(_) => Status::resource_exhausted(format!("{error}; ask for fewer days or columns at once")),
        Error::Directory(_) => {
            tracing::error!(error = error as &dyn std::error::Error, "a token cannot be looked up");
            Status::unavailable("tokens cannot be looked up at the moment; try again shortly")
        }
        error => {
            tracing::error!(error = error as &dyn std::error::Error, "a statement failed");
            Status::unavailable("the tables cannot be read at the moment; the cause is in the service's log")
        }
    }
}
