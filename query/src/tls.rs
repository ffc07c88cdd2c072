//! TLS for the SQL protocols. (HTTP stands behind a proxy that ends TLS; these protocols do not go through one.)

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use datafusion_postgres::pgwire::tokio::{
    TlsAcceptor,
    tokio_rustls::rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};
use tonic::transport::{Identity, ServerTlsConfig};

use crate::{Error, Result, Settings};

/// PostgreSQL's name in the handshake (ALPN), which clients need that begin with TLS at once.
const POSTGRESQL: &[u8] = b"postgresql";

/// A certificate chain and its key, as PEM.
pub struct Tls {
    files: [PathBuf; 2],
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads the files that `settings` name; `None` where they name none.
    ///
    /// # Errors
    /// [`Error::Tls`] where a file cannot be read.
    pub fn read(settings: &Settings) -> Result<Option<Self>> {
        let (Some(certificate), Some(key)) = (&settings.tls_certificate_file, &settings.tls_key_file) else {
            return Ok(None);
        };
        let read = |path: &Path| fs::read(path).map_err(|error| wrong(path, error));
        let files = [certificate.clone(), key.clone()];
        Ok(Some(Self { files, certificate: read(certificate)?, key: read(key)? }))
    }

    /// For the PostgreSQL protocol; TLS 1.2 and 1.3.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor> {
        let [certificate, key] = &self.files;
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<std::result::Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| wrong(certificate, error))?;
        if chain.is_empty() {
            return Err(wrong(certificate, "there is no certificate in it"));
        }
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| wrong(key, error))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(certificate, error))?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| wrong(key, error))?;
        config.alpn_protocols = vec![POSTGRESQL.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// For Flight.
    pub(crate) fn server(&self) -> ServerTlsConfig {
        // tonic takes the process's provider, and there is none where two are linked in. One that was chosen before is fine.
        drop(crypto::ring::default_provider().install_default());
        ServerTlsConfig::new().identity(Identity::from_pem(&self.certificate, &self.key))
    }
}

fn wrong(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Tls { path: path.to_owned(), source: source.into() }
}
