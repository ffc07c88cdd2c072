//! Signing in: a read key is the password, in clear, because of a key we hold only the hash.

use std::{collections::HashMap, fmt::Debug};

use async_trait::async_trait;
use datafusion_postgres::pgwire::{
    api::{
        ClientInfo, PgWireConnectionState, PidSecretKeyGenerator,
        auth::{
            DefaultServerParameterProvider, ServerParameterProvider, StartupHandler, finish_authentication,
            protocol_negotiation, save_startup_parameters_to_metadata,
        },
    },
    error::{PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, PgWireFrontendMessage, startup::Authentication},
};
use futures::{Sink, SinkExt};

use super::{connection::Connection, errors};
use crate::pg_catalog::setting;

/// What clients are told of the server.
struct Parameters(DefaultServerParameterProvider);

impl ServerParameterProvider for Parameters {
    fn server_parameters<C: ClientInfo>(&self, client: &C) -> Option<HashMap<String, String>> {
        let mut parameters = self.0.server_parameters(client)?;
        for name in ["is_superuser", "in_hot_standby", "server_version", "default_transaction_read_only"] {
            parameters.extend(setting(name).map(|value| (name.to_owned(), value.to_owned())));
        }
        Some(parameters)
    }
}

#[async_trait]
impl StartupHandler for Connection {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                if !client.is_secure() && !self.peer.ip().is_loopback() {
                    return Err(errors::unencrypted());
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                client.send(PgWireBackendMessage::Authentication(Authentication::CleartextPassword)).await?;
            }
            PgWireFrontendMessage::PasswordMessageFamily(password) => {
                let password = password.into_password()?.password;
                let (principal, access) = self.server.admitted(&password).await?;
                tracing::debug!(key = principal.key_id.as_str(), peer = %self.peer, "signed in over SQL");
                let (pid, secret) = self.server.ids.generate(client);
                self.open(password, access, principal.org.as_str(), self.server.cancels.register(pid, &secret))?;
                client.set_pid_and_secret_key(pid, secret);
                finish_authentication(client, &Parameters(DefaultServerParameterProvider::default())).await?;
            }
            _ => {}
        }
        Ok(())
    }
}
