//! Who we are to the brokers, and what they said to it.
//!
//! ```text
//! librdkafka ── error callback ──► Access: last refusal, last trouble ◄── asked by the call that failed
//!            ◄── token ─────────── oauth-token-file, read anew whenever librdkafka asks
//! ```
//!
//! librdkafka tries to connect for ever: a refused password or certificate is told by its error callback alone, while the call that waits
//! for the connection ends with "timed out". So every client of a log notes here what it is told, and a failed call asks. What is kept are
//! librdkafka's own sentences, which name the broker; they carry no secret.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::{KafkaSettings, sort_error};
use crate::log::{Error, Result};

/// A request is first given this long, and longer only if no broker has refused us meanwhile.
const FIRST_TRY: Duration = Duration::from_secs(1);
/// Refusals further apart than this are not one and the same: librdkafka tries again at least every 10 s.
const ONE_REFUSAL: Duration = Duration::from_secs(30);
/// A client that was refused tries again after this long at most (`reconnect.backoff.max.ms`), and says nothing meanwhile.
const RECONNECT_MAX: Duration = Duration::from_secs(10);

type TokenError = Box<dyn std::error::Error>;

/// Shared by all clients of one log.
pub(super) struct Access {
    /// How we come: protocol and mechanism, for messages.
    means: String,
    token_file: Option<PathBuf>,
    /// There is something to refuse: a name or a certificate.
    can_be_refused: bool,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    refusal: Option<Told>,
    trouble: Option<Told>,
    /// When a broker last did what it was asked.
    served: Option<Instant>,
}

impl Heard {
    fn refusal_since(&self, started: Instant) -> Option<&Told> {
        self.refusal.as_ref().filter(|told| self.is_since(told, started))
    }

    fn trouble_since(&self, started: Instant) -> Option<&Told> {
        self.trouble.as_ref().filter(|told| self.is_since(told, started))
    }

    /// Told since then, or so shortly before that nobody tried again.
    fn is_since(&self, told: &Told, started: Instant) -> bool {
        let stands = || self.served.is_none_or(|served| served < told.last) && started - told.last <= RECONNECT_MAX;
        told.last >= started || stands()
    }
}

struct Told {
    first: Instant,
    last: Instant,
    reason: String,
}

impl Access {
    pub(super) fn new(settings: &KafkaSettings) -> Self {
        let property = |names: &[&str]| names.iter().find_map(|name| settings.properties.get(*name));
        let protocol = property(&["security.protocol"]).map_or("plaintext", String::as_str);
        let means = match property(&["sasl.mechanism", "sasl.mechanisms"]) {
            Some(mechanism) if protocol.to_ascii_lowercase().starts_with("sasl") => {
                format!("security.protocol {protocol}, sasl.mechanism {mechanism}")
            }
            _ => format!("security.protocol {protocol}"),
        };
        let can_be_refused = !protocol.eq_ignore_ascii_case("plaintext");
        Self { means, token_file: settings.oauth_token_file.clone(), can_be_refused, heard: Mutex::default() }
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the error callback of a client.
    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        let refused = error.rdkafka_error_code().is_some_and(is_refusal);
        let (now, mut heard) = (Instant::now(), self.heard());
        let heard = &mut *heard;
        let place = if refused { &mut heard.refusal } else { &mut heard.trouble };
        let first = match place {
            Some(before) if now - before.last < ONE_REFUSAL => before.first,
            _ => now,
        };
        // That all brokers are down says less than what was said of one of them just before.
        let summary = error.rdkafka_error_code() == Some(Code::AllBrokersDown);
        let reason = match place.take() {
            Some(before) if summary && now - before.last < ONE_REFUSAL => before.reason,
            _ => reason.to_owned(),
        };
        *place = Some(Told { first, last: now, reason });
    }

    /// A broker did what it was asked.
    pub(super) fn served(&self) {
        self.heard().served = Some(Instant::now());
    }

    /// Whether a broker has refused us since then, or so shortly before that it was not asked again.
    pub(super) fn is_refused_since(&self, started: Instant) -> bool {
        self.heard().refusal_since(started).is_some()
    }

    /// For how long brokers have been refusing us, up to now.
    pub(super) fn refused_for(&self) -> Duration {
        let heard = self.heard();
        let told = heard.refusal.as_ref().filter(|told| told.last.elapsed() < ONE_REFUSAL);
        told.map_or(Duration::ZERO, |told| told.last - told.first)
    }

    /// Sorts the error of something that began at `started`.
    pub(super) fn failure(&self, what: impl Into<String>, error: KafkaError, started: Instant) -> Error {
        let (what, heard) = (what.into(), self.heard());
        if let Some(told) = heard.refusal_since(started) {
            return Error::fatal(format!("{what}: refused ({}): {}", self.means, told.reason), error);
        }
        match heard.trouble_since(started) {
            Some(told) => sort_error(format!("{what} ({}): {}", self.means, told.reason), error),
            None => sort_error(what, error),
        }
    }

    /// A blocking request. A refusal ends it as soon as it is known, where librdkafka would go on trying until the limit. `listen` serves
    /// the callbacks of a client that nobody else polls.
    pub(super) fn request<T>(
        &self,
        what: impl Fn() -> String,
        limit: Duration,
        listen: impl Fn(),
        call: impl Fn(Duration) -> Result<T, KafkaError>,
    ) -> Result<T> {
        let started = Instant::now();
        let timed_out = |error: &KafkaError| {
            let code = error.rdkafka_error_code();
            matches!(code, Some(Code::OperationTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown))
        };
        let mut patience = if self.can_be_refused { FIRST_TRY } else { limit };
        let outcome = loop {
            let left = limit.saturating_sub(started.elapsed());
            let outcome = call(patience.min(left).max(Duration::from_millis(1)));
            if !outcome.as_ref().is_err_and(timed_out) {
                break outcome;
            }
            listen();
            if left <= patience || self.is_refused_since(started) {
                break outcome;
            }
            // Growing: a slow broker is asked anew a few times only.
            patience *= 2;
        };
        match outcome {
            Ok(answer) => {
                self.served();
                Ok(answer)
            }
            Err(error) => Err(self.failure(what(), error, started)),
        }
    }

    /// A token for SASL OAUTHBEARER.
    pub(super) fn token(&self) -> Result<OAuthToken, TokenError> {
        let file = self.token_file.as_ref().ok_or("oauth-token-file is not set, and no other source of tokens is")?;
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        parse_token(text.trim()).map_err(|fault| format!("{}: {fault}", file.display()).into())
    }

    /// Whether tokens come from us.
    pub(super) fn gives_tokens(&self) -> bool {
        self.token_file.is_some()
    }
}

/// Retrying as we are cannot help; someone must mend credentials or certificates.
pub(super) fn is_refusal(code: Code) -> bool {
    matches!(code, Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL)
}

/// Reads what librdkafka must know of a token: whose it is, and until when. The fault never repeats the token.
fn parse_token(token: &str) -> Result<OAuthToken, &'static str> {
    #[derive(serde::Deserialize)]
    struct Claims {
        sub: Option<String>,
        exp: f64,
    }
    let payload = token.split('.').nth(1).ok_or("no JSON Web Token: it has no payload")?;
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('='));
    let payload = payload.map_err(|_| "no JSON Web Token: its payload is not base64url")?;
    let claims: Claims =
        serde_json::from_slice(&payload).map_err(|_| "the token's payload has no `exp`, seconds since 1970")?;
    Ok(OAuthToken {
        token: token.to_owned(),
        principal_name: claims.sub.unwrap_or_else(|| "daybook".into()),
        lifetime_ms: (claims.exp * 1000.0) as i64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_and_never_repeated() {
        let token = |payload: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let parsed = parse_token(&token(r#"{"sub":"ada","exp":1893456000}"#)).unwrap();
        assert_eq!((parsed.principal_name.as_str(), parsed.lifetime_ms), ("ada", 1_893_456_000_000));
        assert_eq!(parse_token(&token(r#"{"exp":1.5}"#)).unwrap().principal_name, "daybook");
        for broken in ["hunter2", "e30.hunter2!.x", &token(r#"{"sub":"hunter2"}"#)] {
            let Err(fault) = parse_token(broken) else { panic!("{broken} is no token") };
            assert!(!fault.contains("hunter2"), "{fault}");
        }
        let settings = KafkaSettings { oauth_token_file: Some("/nowhere/token".into()), ..KafkaSettings::default() };
        let Err(fault) = Access::new(&settings).token() else { panic!("there is no such file") };
        assert!(fault.to_string().starts_with("/nowhere/token: "), "{fault}");
    }

    #[test]
    fn a_refusal_makes_a_failure_fatal_if_it_came_in_its_time() {
        let mut settings = KafkaSettings::default();
        settings.properties.insert("security.protocol".into(), "sasl_ssl".into());
        settings.properties.insert("sasl.mechanism".into(), "PLAIN".into());
        let access = Access::new(&settings);
        let timed_out = KafkaError::MetadataFetch(Code::OperationTimedOut);
        let before = Instant::now();
        access.note(&KafkaError::Global(Code::BrokerTransportFailure), "b:1: Connection refused");
        let error = access.failure("append", timed_out.clone(), before);
        assert!(error.is_retryable() && error.to_string().contains("b:1: Connection refused"), "{error}");
        access.note(&KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        let error = access.failure("append", timed_out.clone(), before);
        assert!(error.to_string().contains("b:1: Connection refused"), "{error}");
        access.note(&KafkaError::Global(Code::Authentication), "b:1: invalid credentials");
        let error = access.failure("append", timed_out.clone(), before);
        assert!(!error.is_retryable(), "{error}");
        let told = "append: refused (security.protocol sasl_ssl, sasl.mechanism PLAIN): b:1: invalid credentials";
        assert!(error.to_string().ends_with(told), "{error}");
        let error = access.failure("append", timed_out.clone(), Instant::now());
        assert!(!error.is_retryable(), "nobody asked again since: {error}");
        access.served();
        assert!(access.failure("append", timed_out, Instant::now()).is_retryable(), "an old refusal is no reason");
        assert_eq!(access.refused_for(), Duration::ZERO, "once is not for long");
    }
}
