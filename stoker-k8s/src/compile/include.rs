//! Mappings that a profile takes from others.

use std::collections::BTreeMap;

use stoker_core::Category;

use super::check::Checks;
use super::profile_alone;
use crate::api::{Mapping, SyncProfileSpec};

/// The profiles of a namespace, by name.
pub type Profiles<'a> = BTreeMap<String, &'a SyncProfileSpec>;

/// A mapping of another profile.
pub(super) struct Included<'a> {
    /// Where the profile that takes it over says so, and what it is there: the place of a problem.
    pub(super) place: String,
    /// Where it was written.
    pub(super) origin: String,
    pub(super) mapping: &'a Mapping,
}

/// The mappings that `spec` takes from other profiles, in order; every reason why it cannot is noted in `checks`.
pub(super) fn included<'a>(
    name: &str,
    spec: &SyncProfileSpec,
    others: &Profiles<'a>,
    checks: &mut Checks<'_>,
) -> Vec<Included<'a>> {
    let mut all = Vec::new();
    for (index, include) in spec.include_mappings_from.iter().enumerate() {
        let place = format!("includeMappingsFrom[{index}]");
        let from = &include.name;
        match usable(name, from, others) {
            Ok(other) => all.extend(other.mappings.iter().enumerate().map(|(number, mapping)| Included {
                place: format!("{place} (SyncProfile {from}).mappings[{number}]"),
                origin: format!("profile {from}, mappings[{number}]"),
                mapping,
            })),
            Err((category, message)) => checks.refuse_as(&place, Category::new(category), message),
        }
    }
    all
}

/// The profile `from`, if `name` may include it.
fn usable<'a>(
    name: &str,
    from: &str,
    others: &Profiles<'a>,
) -> Result<&'a SyncProfileSpec, (&'static str, String)> {
    if from == name {
        return Err(("IncludeCircle", format!("SyncProfile {from} includes itself; remove it")));
    }
    let Some(other) = others.get(from).copied() else {
        let message =
            format!("there is no SyncProfile {from} in this namespace; create it, or remove the name");
        return Err(("IncludeMissing", message));
    };
    if let Some(further) = other.include_mappings_from.first() {
        let message = format!(
            "SyncProfile {from} includes others itself ({}), and includes go one level deep; name those here, too, and \
             move what is common into a profile without includes",
            further.name
        );
        return Err(("IncludeNested", message));
    }
    profile_alone(from, other).map_err(|problems| {
        ("IncludeInvalid", format!("SyncProfile {from} is not valid: {problems}; correct it"))
    })?;
    Ok(other)
}
