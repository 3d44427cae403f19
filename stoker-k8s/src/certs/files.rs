//! A certificate that somebody else renews in files: cert-manager, or a person by way of a Secret.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CertError, Pair, Serving};

/// The files of a certificate, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Files {
    /// Reads them. Their content is what counts: a Secret volume swaps a symbolic link, which changes neither name nor,
    /// on some file systems, anything that a watch would see.
    ///
    /// # Errors
    /// When a file cannot be read, or holds no text.
    pub fn read(&self) -> Result<Pair, CertError> {
        Ok(Pair { cert: read(&self.cert)?, key: read(&self.key)? })
    }

    /// Keeps `serving` up to date for ever, by looking every `period`; what cannot be used is reported once, and the
    /// old certificate stays.
    pub async fn run(self, serving: Serving, period: Duration) {
        let mut seen = self.read().ok();
        let mut complaint = None;
        loop {
            tokio::time::sleep(period).await;
            let refused = match self.read() {
                Ok(pair) if seen.as_ref() == Some(&pair) => continue,
                Ok(pair) => {
                    let refused = serving.replace(&pair).err();
                    seen = Some(pair);
                    refused
                }
                Err(error) => Some(error),
            };
            let text = refused.map(|error| stoker_core::chain(&error));
            if let Some(error) = text.as_ref().filter(|_| text != complaint) {
                tracing::error!(error, "the certificate stays as it was");
            }
            complaint = text;
        }
    }
}

fn read(path: &Path) -> Result<String, CertError> {
    std::fs::read_to_string(path)
        .map_err(|source| CertError::File { path: path.display().to_string(), source })
}
