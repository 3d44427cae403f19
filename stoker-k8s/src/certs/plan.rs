//! What has to be renewed, and when: pure functions of the material and the time.

use jiff::{SignedDuration, Timestamp};

use super::CertError;
use super::material::{BACKDATED_SECONDS, Facts, Material, facts, is_signed_by, new_authority, new_leaf};

/// How long certificates live. Each is renewed when a third of its life is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of an authority.
    pub authority: SignedDuration,
    /// Of a served certificate.
    pub leaf: SignedDuration,
    /// Between the announcement of a new authority and its first use.
    pub overlap: SignedDuration,
}

impl Default for Lifetimes {
    /// Three years, 90 days, one hour.
    fn default() -> Self {
        Self {
            authority: SignedDuration::from_hours(3 * 365 * 24),
            leaf: SignedDuration::from_hours(90 * 24),
            overlap: SignedDuration::from_hours(1),
        }
    }
}

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing before that time.
    Keep(Timestamp),
    /// Everything is new: there is no usable material.
    Start,
    /// A new certificate by the same authority.
    RenewLeaf,
    /// The authority grows old: announce another one.
    Announce,
    /// The announced authority is known by now: use it.
    Promote,
}

/// Says what has to be done about `material`, which shall be good for `names`.
#[must_use]
pub fn assess(
    material: Option<&Material>,
    names: &[String],
    now: Timestamp,
    lifetimes: &Lifetimes,
) -> Action {
    let Some(material) = material else { return Action::Start };
    let Some(authority) = facts(&material.authority.cert) else { return Action::Start };
    let can_sign = rcgen::KeyPair::from_pem(&material.authority.key).is_ok();
    if authority.not_after <= now || !can_sign {
        return Action::Start;
    }
    let leaf = facts(&material.leaf.cert).filter(|leaf| {
        is_signed_by(&material.leaf.cert, &material.authority.cert)
            && names.iter().all(|name| leaf.names.contains(name))
            && super::serving::fits(&material.leaf)
    });
    let Some(leaf) = leaf else { return Action::RenewLeaf };

    let next = material.next.as_ref().and_then(|next| facts(&next.cert));
    let authority_due = due(&authority);
    let authority_step = match next {
        Some(ref next) => begin(next) + lifetimes.overlap,
        None => authority_due,
    };
    if authority_step <= now {
        return if next.is_some() { Action::Promote } else { Action::Announce };
    }
    let leaf_due = due(&leaf);
    // A certificate that ends with its authority cannot be renewed into a longer life by it.
    let worth_it = leaf.not_after < authority.not_after;
    if leaf_due <= now && worth_it {
        return Action::RenewLeaf;
    }
    Action::Keep(if worth_it { leaf_due.min(authority_step) } else { authority_step })
}

/// Carries `action` out. `material` is what was assessed.
///
/// # Errors
/// When a certificate cannot be made.
pub fn perform(
    action: Action,
    material: Option<&Material>,
    names: &[String],
    now: Timestamp,
    lifetimes: &Lifetimes,
) -> Result<Material, CertError> {
    let leaf_of = |authority: &super::Authority| {
        let end =
            facts(&authority.cert).map_or(now + lifetimes.leaf, |f| f.not_after.min(now + lifetimes.leaf));
        new_leaf(authority, names, now, end)
    };
    let (Some(old), false) = (material, action == Action::Start) else {
        let authority = new_authority(now, now + lifetimes.authority)?;
        let leaf = leaf_of(&authority)?;
        // What other replicas still serve must not become invalid at once, if anything is known of it.
        let previous = material.map(|old| old.authority.cert.clone());
        return Ok(Material { authority, next: None, previous, leaf });
    };
    let mut new = old.clone();
    match action {
        Action::Keep(_) | Action::Start => {}
        Action::RenewLeaf => new.leaf = leaf_of(&old.authority)?,
        Action::Announce => new.next = Some(new_authority(now, now + lifetimes.authority)?),
        Action::Promote => {
            if let Some(next) = new.next.take() {
                new.leaf = leaf_of(&next)?;
                new.previous = Some(std::mem::replace(&mut new.authority, next).cert);
            }
        }
    }
    Ok(new)
}

/// When two thirds of a life are over.
fn due(facts: &Facts) -> Timestamp {
    let begin = begin(facts);
    begin + begin.duration_until(facts.not_after) * 2 / 3
}

/// When a certificate was made: a little after it says.
fn begin(facts: &Facts) -> Timestamp {
    facts.not_before + SignedDuration::from_secs(BACKDATED_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["stoker-webhook.stoker.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::from_hours(hours)
    }

    fn fresh(now: Timestamp) -> Material {
        perform(Action::Start, None, &names(), now, &Lifetimes::default()).unwrap()
    }

    #[test]
    fn a_first_certificate_lasts_for_two_thirds_of_its_life() {
        let lifetimes = Lifetimes::default();
        assert_eq!(assess(None, &names(), at(0), &lifetimes), Action::Start);
        let material = fresh(at(0));
        let Action::Keep(until) = assess(Some(&material), &names(), at(0), &lifetimes) else { panic!() };
        let days = at(0).duration_until(until).as_hours() / 24;
        assert_eq!(days, 60);
        assert_eq!(assess(Some(&material), &names(), at(61 * 24), &lifetimes), Action::RenewLeaf);
        let renewed = perform(Action::RenewLeaf, Some(&material), &names(), at(61 * 24), &lifetimes).unwrap();
        assert_eq!(renewed.bundle(), material.bundle(), "nobody has to be told");
        assert_ne!(renewed.leaf, material.leaf);
    }

    #[test]
    fn what_cannot_be_used_is_replaced() {
        let (material, lifetimes) = (fresh(at(0)), Lifetimes::default());
        let assess = |material: &Material, names: &[String]| assess(Some(material), names, at(1), &lifetimes);
        assert_eq!(assess(&material, &["other.svc".to_owned()]), Action::RenewLeaf);
        let swapped = Material {
            leaf: super::super::Pair { key: fresh(at(0)).leaf.key, ..material.leaf.clone() },
            ..material.clone()
        };
        assert_eq!(assess(&swapped, &names()), Action::RenewLeaf);
        let foreign = Material { leaf: fresh(at(0)).leaf, ..material.clone() };
        assert_eq!(assess(&foreign, &names()), Action::RenewLeaf);
        let garbage = super::super::Pair { cert: "garbage".to_owned(), key: "garbage".to_owned() };
        assert_eq!(
            assess(&Material { leaf: garbage.clone(), ..material.clone() }, &names()),
            Action::RenewLeaf
        );
        let broken = Material { authority: garbage, ..material.clone() };
        assert_eq!(assess(&broken, &names()), Action::Start);
        // And what replaces it is good.
        for (broken, action) in [(foreign, Action::RenewLeaf), (broken, Action::Start)] {
            let healed = perform(action, Some(&broken), &names(), at(1), &lifetimes).unwrap();
            assert!(matches!(assess(&healed, &names()), Action::Keep(_)));
        }
    }

    #[test]
    fn material_survives_its_secret() {
        let material = Material {
            previous: Some(fresh(at(0)).authority.cert),
            next: Some(fresh(at(1)).authority),
            ..fresh(at(2))
        };
        assert_eq!(Material::from_data(&material.to_data()), Some(material.clone()));
        let mut data = material.to_data();
        data.remove("tls.key");
        assert_eq!(Material::from_data(&data), None);
        assert!(!format!("{material:?}").contains("PRIVATE"));
    }

    /// Ten years of hourly looks: whatever is served is trusted by what was announced an hour before, and is never
    /// within a day of its end.
    #[test]
    fn what_is_served_was_announced_before_and_is_never_old() {
        let lifetimes = Lifetimes::default();
        let mut material = fresh(at(0));
        let mut announced = material.bundle();
        let (mut now, end) = (at(0), at(10 * 365 * 24));
        let (mut promoted, mut renewed) = (0, 0);
        while now < end {
            let action = assess(Some(&material), &names(), now, &lifetimes);
            if let Action::Keep(until) = action {
                assert!(until > now);
                // The next look comes a little late.
                now = until + SignedDuration::from_mins(50);
                announced = material.bundle();
                continue;
            }
            material = perform(action, Some(&material), &names(), now, &lifetimes).unwrap();
            promoted += u32::from(action == Action::Promote);
            renewed += u32::from(action == Action::RenewLeaf);
            let trusted = x509_parser::pem::Pem::iter_from_buffer(announced.as_bytes()).any(|block| {
                let block = block.unwrap();
                let authority = block.parse_x509().unwrap();
                let (_, leaf) = x509_parser::pem::parse_x509_pem(material.leaf.cert.as_bytes()).unwrap();
                leaf.parse_x509().unwrap().verify_signature(Some(authority.public_key())).is_ok()
            });
            assert!(trusted, "served before it was announced, after {action:?}");
            let leaf = facts(&material.leaf.cert).unwrap();
            assert!(now.duration_until(leaf.not_after).as_hours() > 24, "{action:?} at {now}: {leaf:?}");
        }
        assert!((4..=6).contains(&promoted), "{promoted}");
        assert!((50..=70).contains(&renewed), "{renewed}");
    }
}
