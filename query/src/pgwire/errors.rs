//! Every error that leaves over the PostgreSQL protocol: SQLSTATE (appendix A of PostgreSQL's manual), what is wrong, and what to do.
//!
//! Internals stay in the log.

use datafusion::{error::DataFusionError, sql::sqlparser::parser::ParserError};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError};

use crate::{Error, error::Kind, places::Full, policy::Forbidden, sql};

fn error(code: &str, message: impl Into<String>) -> ErrorInfo {
    ErrorInfo::new("ERROR".to_owned(), code.to_owned(), message.into())
}

fn fatal(code: &str, message: impl Into<String>) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message.into())))
}

fn with_hint(mut info: ErrorInfo, hint: &str) -> ErrorInfo {
    info.hint = Some(hint.to_owned());
    info
}

/// A password in clear over a network.
pub(super) fn unencrypted() -> PgWireError {
    fatal("28000", "keys are taken over TLS only: connect with sslmode=require, or from the machine itself")
}

/// No key of ours.
pub(super) fn unknown_key() -> PgWireError {
    fatal("28P01", "the password is no valid read key: give a key with the scope `read` as the password")
}

/// The keys cannot be looked up now.
pub(super) fn no_directory() -> PgWireError {
    fatal("57P03", "keys cannot be looked up at the moment; try again shortly")
}

/// A session that cannot be set up.
pub(super) fn no_session() -> PgWireError {
    fatal("XX000", "the session cannot be set up; the cause is in the service's log")
}

/// A statement before the password.
pub(super) fn not_signed_in() -> PgWireError {
    fatal("28000", "sign in first")
}

/// No place is free.
pub(super) fn busy(full: Full) -> PgWireError {
    let info = match full {
        Full::Service => error("53300", "too many statements run at the moment"),
        Full::Organisation => error("53300", "too many statements of your organisation run at the moment"),
    };
    PgWireError::UserError(Box::new(with_hint(
        info,
        "Try again shortly; an open cursor keeps its place until it is closed.",
    )))
}

/// The statement's time is over.
pub(super) fn out_of_time() -> PgWireError {
    let info = error("57014", "the statement took longer than it may");
    PgWireError::UserError(Box::new(with_hint(info, "Ask for fewer days or columns at once.")))
}

/// An error of ours.
pub(super) fn of(error: Error) -> PgWireError {
    PgWireError::UserError(Box::new(info(&error)))
}

/// What the library made of an error of the engine, said again as we say it.
pub(super) fn retold(error: &mut PgWireError) {
    let PgWireError::ApiError(inner) = error else { return };
    let told = match inner.downcast_ref::<DataFusionError>() {
        Some(engine) => info_of_engine(engine),
        // Errors of parsing come without their wrapper.
        None => match inner.downcast_ref::<ParserError>() {
            Some(wrong) => self::error("42601", sql::parser_message(wrong)),
            None => self::error("XX000", inner.to_string()),
        },
    };
    *error = PgWireError::UserError(Box::new(told));
}

fn info_of_engine(engine: &DataFusionError) -> ErrorInfo {
    match Error::kind(engine) {
        Kind::Budget => budget(),
        Kind::Scan => unreadable(engine),
        Kind::Forbidden(why) => forbidden(&why),
        Kind::Sql => wrong(engine),
    }
}

fn info(cause: &Error) -> ErrorInfo {
    match cause {
        Error::Refused(_) => {
            with_hint(error("25006", cause.to_string()), "This database is only read; events come in by the collector.")
        }
        Error::Sql(source) => wrong(source),
        Error::Forbidden(why) => forbidden(why),
        Error::Budget(_) => budget(),
        Error::Scan(source) => unreadable(source),
        other => {
            tracing::error!(error = other as &dyn std::error::Error, "a statement failed");
            error("58030", "the tables cannot be read at the moment; the cause is in the service's log")
        }
    }
}

fn forbidden(why: &Forbidden) -> ErrorInfo {
    with_hint(error("42501", why.to_string()), why.help())
}

fn budget() -> ErrorInfo {
    let info = error("53200", "the query needs more than its budget of memory and disk");
    with_hint(info, "Ask for fewer days or columns at once, or aggregate before you sort.")
}

fn unreadable(cause: &DataFusionError) -> ErrorInfo {
    tracing::error!(error = cause as &dyn std::error::Error, "a statement failed");
    error("58030", "a table cannot be read at the moment; the cause is in the service's log")
}

fn wrong(cause: &DataFusionError) -> ErrorInfo {
    let message = sql::message(cause);
    let lower = message.to_lowercase();
    let code = match cause.find_root() {
        DataFusionError::SQL(..) => "42601",
        DataFusionError::SchemaError(..) => "42703",
        DataFusionError::NotImplemented(_) => "0A000",
        _ if lower.contains("table") && lower.contains("not found") => "42P01",
        _ if lower.contains("invalid function") => "42883",
        DataFusionError::Plan(_) => "42000",
        DataFusionError::ArrowError(..) => "22000",
        _ => "XX000",
    };
    error(code, message)
}
