//! The values of template variables for one gateway.

use std::collections::BTreeMap;

use stoker_core::template::Variables;

use super::CompiledProfile;

/// What a template can know about one gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayFacts {
    /// `{{.GatewayName}}`.
    pub gateway_name: String,
    /// `{{.PodName}}`; without Kubernetes the gateway's name.
    pub pod_name: String,
    /// `{{.PodOrdinal}}`.
    pub pod_ordinal: u32,
    /// `{{.Namespace}}`.
    pub namespace: String,
    /// `{{.CRName}}`.
    pub cr_name: String,
    /// `{{.Ref}}`.
    pub git_ref: String,
    /// `{{.Commit}}`.
    pub commit: String,
    /// `{{.Labels.key}}`.
    pub labels: BTreeMap<String, String>,
}

/// The variables of one gateway under one profile.
#[must_use]
pub fn variables(profile: &CompiledProfile, facts: &GatewayFacts) -> Variables {
    let mut variables = Variables::new()
        .text("GatewayName", &facts.gateway_name)
        .text("PodName", &facts.pod_name)
        .text("PodOrdinal", facts.pod_ordinal.to_string())
        .text("Namespace", &facts.namespace)
        .text("CRName", &facts.cr_name)
        .text("Ref", &facts.git_ref)
        .text("Commit", &facts.commit)
        .map("Vars", profile.vars.clone())
        .map("Labels", facts.labels.clone());
    if let Some(number) = &profile.site_number {
        variables = variables.text("SiteNumber", number);
    }
    variables
}

#[cfg(test)]
mod tests {
    use stoker_core::template::Template;

    use super::*;
    use crate::compile::check::TEXT_VARIABLES;

    #[test]
    fn every_variable_that_validation_accepts_exists() {
        let profile = CompiledProfile { site_number: Some("12".into()), ..CompiledProfile::default() };
        let variables = variables(&profile, &GatewayFacts::default());
        for name in TEXT_VARIABLES.into_iter().chain(["SiteNumber"]) {
            let template = Template::parse(&format!("{{{{.{name}}}}}")).unwrap();
            template.render(&variables, 100).unwrap();
        }
    }
}
