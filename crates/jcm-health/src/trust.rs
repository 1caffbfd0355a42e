//! Whose certificates a check through TLS believes.
//!
//! Read once, when a server starts: the probing threads touch no file. Deliberately absent: resumption of sessions, in
//! which a node would not show its certificate, and client certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tracing::warn;

/// What an HTTPS check believes and how it shakes hands. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trust {
    verifying: Arc<ClientConfig>,
    believing: Arc<ClientConfig>,
}

/// Why a file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read, or is no PEM.
    #[error("{path} cannot be read as PEM certificates")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// It was read, and there is none in it.
    #[error("{path} holds no certificate")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// One of its certificates is none of an authority.
    #[error("certificate {number} in {path} cannot be trusted")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        number: usize,
        /// Why.
        source: rustls::Error,
    },
}

impl Default for Trust {
    /// Believes nobody, unless a policy asks for no verification.
    fn default() -> Self {
        Self::new(RootCertStore::empty())
    }
}

impl Trust {
    /// What this machine believes, and the authorities in a PEM file beside them.
    ///
    /// # Errors
    /// When the file cannot be used. A machine without any authorities is warned of and no error: it may have no
    /// HTTPS check to carry out.
    pub fn load(ca_file: Option<&Path>) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            warn!(%error, "some of this machine's certificate authorities cannot be read");
        }
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = ca_file {
            add_file(&mut roots, path)?;
        }
        Ok(Self::new(roots))
    }

    /// Only the authorities in a PEM file.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn only(ca_file: &Path) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        add_file(&mut roots, ca_file)?;
        Ok(Self::new(roots))
    }

    fn new(roots: RootCertStore) -> Self {
        let provider = Arc::new(ring::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .expect("the provider speaks every version that is safe")
        };
        let verifying = builder().with_root_certificates(roots).with_no_client_auth();
        let anybody = Arc::new(Anybody(Arc::clone(&provider)));
        let believing = builder().dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
        Self { verifying: Arc::new(for_probes(verifying)), believing: Arc::new(for_probes(believing)) }
    }

    /// How hands are shaken by a policy that verifies, or does not.
    pub(crate) fn config(&self, verify: bool) -> Arc<ClientConfig> {
        Arc::clone(if verify { &self.verifying } else { &self.believing })
    }
}

fn for_probes(mut config: ClientConfig) -> ClientConfig {
    // In a resumed session the certificate is not shown again, and one that has expired since would go unnoticed.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let unreadable = |source| TrustError::Unreadable { path: path.to_owned(), source };
    let mut count = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        count += 1;
        let refused = |source| TrustError::Refused { path: path.to_owned(), number: count, source };
        roots.add(certificate.map_err(unreadable)?).map_err(refused)?;
    }
    if count == 0 { Err(TrustError::Empty { path: path.to_owned() }) } else { Ok(()) }
}

/// Believes every certificate, for policies with `verify: false`: whether the node answers is all that they ask.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A signature by a certificate that anybody may make proves nothing either.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
