//! The Stoker API types, controller, pod injection, receiver and agent for Kubernetes.
#![forbid(unsafe_code)]

pub mod inject;
