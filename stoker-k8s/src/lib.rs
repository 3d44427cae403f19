//! The Stoker API types, controller, pod injection, receiver and agent for Kubernetes.
#![forbid(unsafe_code)]

pub mod admission;
pub mod agent;
pub mod annotations;
pub mod api;
pub mod certs;
pub mod compile;
pub mod conditions;
pub mod controller;
pub mod gateway_sync;
pub mod inject;
pub mod names;
pub mod protocol;
pub mod receiver;
pub mod roster;
