//! Ignition gateways: REST client, confirmed scans, protected paths, and a faithful fake gateway.
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod confirm;
#[cfg(feature = "fake")]
pub mod fake;
pub mod rules;
