//! Putting the agent into a gateway's pod.

pub mod contract;
pub mod podinfo;
