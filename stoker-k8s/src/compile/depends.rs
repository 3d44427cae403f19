//! Which profile waits for which: a graph that must not lead back to where it began.

use std::collections::{BTreeMap, BTreeSet};

use stoker_core::Category;

use super::{Problem, Problems};

/// Profiles by name, with the names of those that go before them.
pub type Dependencies = BTreeMap<String, Vec<String>>;

/// Judges what `name` waits for: it must not wait for itself, however long the way.
///
/// # Errors
/// The way from the profile back to itself.
pub fn no_circle(name: &str, all: &Dependencies) -> Result<(), Problems> {
    let Some(way) = circle(name, all) else { return Ok(()) };
    let message = format!(
        "profiles wait for each other, so that none could ever go first: {}; remove one of these dependencies",
        way.join(" -> ")
    );
    let problem =
        Problem { place: "dependsOn".to_owned(), message, category: Category::new("DependencyCircle") };
    Err(Problems(vec![problem]))
}

/// The shortest way from `name` back to it.
fn circle(name: &str, all: &Dependencies) -> Option<Vec<String>> {
    let before = |name: &str| all.get(name).into_iter().flatten();
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![name.to_owned()]];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in before(way.last()?) {
                let way: Vec<String> = way.iter().chain([next]).cloned().collect();
                if next == name {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Dependencies {
        let mut graph = Dependencies::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().push((*to).to_owned());
        }
        graph
    }

    #[test]
    fn whoever_stands_in_a_circle_is_told_the_way() {
        let all =
            graph(&[("area", "site"), ("site", "core"), ("core", "area"), ("edge", "site"), ("me", "me")]);
        assert_eq!(circle("area", &all).unwrap(), ["area", "site", "core", "area"]);
        assert_eq!(circle("me", &all).unwrap(), ["me", "me"]);
        // It leads into a circle, and is not part of it.
        assert_eq!(circle("edge", &all), None);
        let said = no_circle("site", &all).unwrap_err().to_string();
        assert!(said.contains("site -> core -> area -> site"), "{said}");
    }

    #[test]
    fn many_ways_to_one_profile_are_no_circle() {
        let all = graph(&[("d", "b"), ("d", "c"), ("b", "a"), ("c", "a"), ("d", "nobody")]);
        for name in ["a", "b", "c", "d", "nobody"] {
            assert_eq!(circle(name, &all), None);
        }
    }
}
