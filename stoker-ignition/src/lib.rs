//! Ignition gateways: REST client, confirmed scans, protected paths, and a faithful fake gateway.
#![forbid(unsafe_code)]

pub mod rules;
