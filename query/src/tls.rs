//! TLS for the SQL protocols. (HTTP stands behind a proxy that ends TLS; these protocols do not go through one.)

use std::{path::Path, sync::Arc};

use datafusion_postgres::pgwire::tokio::{
    TlsAcceptor,
    tokio_rustls::rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::{Error, Result};

/// Protocols offered in the handshake (ALPN): PostgreSQL's name, which clients need that begin with TLS at once.
const POSTGRESQL: &[u8] = b"postgresql";

/// An acceptor with the certificate chain and key of these PEM files; TLS 1.2 and 1.3.
///
/// # Errors
/// [`Error::Tls`] where a file cannot be read, or the two do not belong together.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let wrong =
        |path: &Path, source: Box<dyn std::error::Error + Send + Sync>| Error::Tls { path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| wrong(certificate, error.into()))?;
    if chain.is_empty() {
        return Err(wrong(certificate, "there is no certificate in it".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.into()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(certificate, error.into()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(key, error.into()))?;
    config.alpn_protocols = vec![POSTGRESQL.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
