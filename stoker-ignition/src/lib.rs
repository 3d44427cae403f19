//! What a program has to know to change the files of an [Ignition](https://inductiveautomation.com) 8.3 gateway from
//! outside, and to learn whether the gateway took them.
//!
//! ```text
//!                     ┌────────────────────────── stoker-ignition ─────────────────────────┐
//!  changed paths ───▶ │ rules     what is never ours · what is left alone · which halves   │
//!                     │           and projects are touched · restamped or really changed   │
//!                     │   │                                                                │
//!                     │   ▼                                                                │
//!                     │ confirm   scan lock ─▶ (files) ─▶ scan config ─▶ scan projects ─▶  │ ───▶ Verdict
//!                     │   │       verify; retried while the gateway is not ready           │
//!                     │   ▼                                                                │
//!                     │ client    REST over http(s), key re-read, typed refusals           │
//!                     └───┬────────────────────────────────────────────────────────────────┘
//!                         ▼
//!                  a gateway, or `fake`: one that reads a data directory as a gateway does
//! ```
//!
//! # Invariants
//!
//! - [`rules`] are pure: no IO, no clock, no gateway. They hold for the engine and for the fake gateway alike.
//! - A scan is confirmed only by the gateway's own status, never by the answer to the request.
//! - The API key is in no log, no error and no `Debug` output; redirects and proxies are never followed.
//! - A certificate that nobody vouches for is accepted on loopback alone.
//! - What the gateway does not say is *unknown*; it is neither success nor failure.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `client` | yes | modules `client` and `confirm` (reqwest, rustls with ring, tokio) |
//! | `fake` | no | module `fake`: the fake gateway, in process and as a server (axum, rcgen) |
//!
//! Without features only [`rules`] remain.
//!
//! # Example
//!
//! A change goes live on a gateway, here the fake one:
//!
//! ```
//! # #[cfg(all(feature = "client", feature = "fake"))]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use stoker_core::RelPathBuf;
//! use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions};
//! use stoker_ignition::confirm::{ConfirmOptions, LockOptions, Verdict, Work, confirm, lock};
//! use stoker_ignition::fake::FakeGateway;
//! use stoker_ignition::rules::Touched;
//!
//! # let dir = tempfile::tempdir()?;
//! # let (data, key) = (dir.path().join("data"), dir.path().join("key"));
//! # std::fs::create_dir_all(data.join("projects/line"))?;
//! std::fs::write(&key, "ci:secret")?;
//! let gateway = FakeGateway::builder(&data).api_key_file(&key).start().await?;
//! gateway.until_running(Duration::from_secs(10)).await?;
//! let client = GatewayClient::new(
//!     GatewayOptions::new(gateway.https_url().parse()?).api_key(ApiKeySource::file(&key)),
//! )?;
//!
//! let path = RelPathBuf::parse("projects/line/project.json")?;
//! let work = Work::of(Touched::of_written([path.as_path()]));
//! let _locked = lock(&client, work.need, &LockOptions::default()).await;
//! std::fs::write(data.join(path.as_str()), r#"{"title":"Line 1"}"#)?;
//! let confirmation = confirm(&client, &work, &ConfirmOptions::default()).await?;
//! assert_eq!(confirmation.verdict(), Verdict::Confirmed);
//! # Ok(()) }
//! # #[cfg(not(all(feature = "client", feature = "fake")))] fn main() {}
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "client")]
#[cfg_attr(docsrs, doc(cfg(feature = "client")))]
pub mod client;
#[cfg(feature = "client")]
#[cfg_attr(docsrs, doc(cfg(feature = "client")))]
pub mod confirm;
#[cfg(feature = "fake")]
#[cfg_attr(docsrs, doc(cfg(feature = "fake")))]
pub mod fake;
pub mod rules;

#[cfg(all(doctest, feature = "client", feature = "fake"))]
#[doc = include_str!("../README.md")]
struct Readme;
