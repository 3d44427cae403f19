//! The protection table: what is never ours, whatever a mapping or a pattern says.

use std::fmt;
use std::str::FromStr;

use stoker_core::{Category, Fault, RelPath, Retry};

/// One row of the protection table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protection {
    /// A pattern as [`stoker_core::PatternSet`] reads it, for paths relative to the data directory. It protects what
    /// it matches and everything below.
    pub pattern: &'static str,
    /// Why nobody but the gateway writes there; fits after "is protected: ".
    pub reason: &'static str,
}

const fn row(pattern: &'static str, reason: &'static str) -> Protection {
    Protection { pattern, reason }
}

const RUNTIME: &str = "the gateway's runtime data";
const KEYSTORE: &str = "a keystore with private keys of this host";
const INTERNAL_DATABASE: &str = "an internal database that the running gateway holds open";
const IMAGE_MARKER: &str = "a marker of the container image";
const LOCAL_COLLECTION: &str = "the collection of this one host (API keys, certificates, overrides)";
const WRAPPER: &str = "start parameters of the gateway (memory, deployment mode)";

/// What is never written, never deleted and never part of a comparison.
///
/// Any row that matches a path, or a directory above it, protects it. Rows of [`Unprotect`] open single exceptions.
/// Source: Ignition's "Gateway Folder Structure Reference" and the fact sheet, section 2.1.
pub const PROTECTED: &[Protection] = &[
    row("/.stoker", "Stoker's own state"),
    row("/config/resources/local", LOCAL_COLLECTION),
    row("/config/local", "files of this one host (identity, keystores, licence links)"),
    row("/config/ignition", "platform files: encryption keys, tag values, OAuth tokens"),
    row("/var", RUNTIME),
    row("/db", INTERNAL_DATABASE),
    row("/metricsdb", INTERNAL_DATABASE),
    row("/logs", RUNTIME),
    row("/jar-cache", RUNTIME),
    row("/autobackup", "backups that the gateway makes"),
    row("/certificate-activation", "state of the gateway's certificate activation"),
    row("/ignition.conf", WRAPPER),
    row("/redundancy.xml", "the redundancy role of this node"),
    row("/gateway.xml*", "the gateway's ports and start settings"),
    row("/commissioning.json", "whether this gateway has been commissioned"),
    row("/modules.json", "the modules that this gateway has accepted"),
    row("/logback.xml", "the logging configuration of this host"),
    row("/.ignition-seed-complete", IMAGE_MARKER),
    row("/.container-init.conf", IMAGE_MARKER),
    row("metro-keystore", KEYSTORE),
    row("keystore", KEYSTORE),
    row("*.keystore", KEYSTORE),
    row("*.jks", KEYSTORE),
    row("*.p12", KEYSTORE),
    row("*.pfx", KEYSTORE),
    row("*.idb*", INTERNAL_DATABASE),
    row("valueStore.*", "the stored values of memory tags"),
    row("**/.resources", "the gateway's own resource cache"),
];

/// What a mirror of something above leaves to the gateway, as patterns: all of the data directory but `projects` and
/// `config`, all of `config` but `resources`, and in a collection the singletons (`<module>/<type>/config.json`), which
/// the gateway makes at its first boot and must have.
///
/// A mapping may bring such a file, and what a mapping brought goes with its source. Source: fact sheet, sections 2.1
/// and 2.2.
pub const MIRROR_KEEPS: [&str; 7] = [
    "/*",
    "!/projects/",
    "!/config/",
    "/config/*",
    "!/config/resources/",
    "/config/resources/*/*/*/*",
    "!/config/resources/*/*/*/*/",
];

/// The row that protects `path`, without any exception.
///
/// ```
/// use stoker_core::RelPathBuf;
/// use stoker_ignition::rules::protected;
/// let path = RelPathBuf::parse("config/resources/local/ignition/api-token/ci/config.json")?;
/// assert_eq!(protected(path.as_path()).map(|p| p.pattern), Some("/config/resources/local"));
/// # Ok::<(), stoker_core::PathError>(())
/// ```
#[must_use]
pub fn protected(path: RelPath<'_>) -> Option<&'static Protection> {
    PROTECTED.iter().find(|row| covers(row.pattern, path))
}

/// Whether `pattern` matches `path` or a directory above it.
///
/// The rows need anchored paths and `*` within a component, nothing more; a test holds this against
/// [`stoker_core::PatternSet`]. Written out so that the answer cannot fail.
fn covers(pattern: &str, path: RelPath<'_>) -> bool {
    if let Some(anchored) = pattern.strip_prefix('/') {
        let mut components = path.components();
        return anchored.split('/').all(|p| components.next().is_some_and(|c| component(p, c)));
    }
    let name = pattern.strip_prefix("**/").unwrap_or(pattern);
    path.components().any(|c| component(name, c))
}

fn component(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|i| rest.is_char_boundary(i) && component(tail, &rest[i..]))
}

/// An exception that a `Stoker` may ask for by name (`unprotect`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unprotect {
    /// `ignition.conf` in the data directory.
    IgnitionConf,
    /// `config/resources/local/<module>/<type>` and what lies below.
    LocalType {
        /// The module, for example `ignition`.
        module: String,
        /// The resource type, for example `api-token`.
        resource_type: String,
    },
}

/// An exception that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be unprotected; only \"ignition.conf\" and \"config/resources/local/<module>/<type>\" can, one by one and without wildcards"
)]
pub struct UnprotectError(pub String);

impl Fault for UnprotectError {
    fn category(&self) -> Category {
        Category::new("InvalidUnprotect")
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

impl FromStr for Unprotect {
    type Err = UnprotectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || UnprotectError(text.to_owned());
        let path = text.strip_suffix('/').unwrap_or(text);
        if path == "ignition.conf" {
            return Ok(Self::IgnitionConf);
        }
        let rest = path.strip_prefix("config/resources/local/").ok_or_else(refused)?;
        let (module, resource_type) = rest.split_once('/').ok_or_else(refused)?;
        if is_plain(module) && is_plain(resource_type) {
            return Ok(Self::LocalType {
                module: module.to_owned(),
                resource_type: resource_type.to_owned(),
            });
        }
        Err(refused())
    }
}

/// Module and type names are ids such as `com.inductiveautomation.opcua`: letters, digits, dot, dash, underscore.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['.', '-'])
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

impl fmt::Display for Unprotect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IgnitionConf => f.write_str("ignition.conf"),
            Self::LocalType { module, resource_type } => {
                write!(f, "config/resources/local/{module}/{resource_type}")
            }
        }
    }
}

impl Unprotect {
    fn opens(&self, row: &Protection, path: RelPath<'_>) -> bool {
        let row_opened = match self {
            Self::IgnitionConf => "/ignition.conf",
            Self::LocalType { .. } => "/config/resources/local",
        };
        row.pattern == row_opened && covers(&format!("/{self}"), path)
    }
}

/// The protection table with the exceptions of one `Stoker`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProtectionTable {
    unprotect: Vec<Unprotect>,
}

impl ProtectionTable {
    /// The table with these exceptions.
    #[must_use]
    pub fn new(unprotect: impl IntoIterator<Item = Unprotect>) -> Self {
        Self { unprotect: unprotect.into_iter().collect() }
    }

    /// The row that protects `path`; `None` when it may be written.
    ///
    /// An exception opens its own row only: a keystore or a `.resources` below an opened directory stays protected.
    #[must_use]
    pub fn protected(&self, path: RelPath<'_>) -> Option<&'static Protection> {
        PROTECTED
            .iter()
            .find(|row| covers(row.pattern, path) && !self.unprotect.iter().any(|u| u.opens(row, path)))
    }

    /// The same table as a list of patterns with reasons, exceptions written as `!` patterns.
    ///
    /// The last pattern that matches decides, so an exception stands directly after the row that it opens.
    #[must_use]
    pub fn patterns(&self) -> Vec<(String, &'static str)> {
        let mut list = Vec::with_capacity(PROTECTED.len() + self.unprotect.len());
        for row in PROTECTED {
            list.push((row.pattern.to_owned(), row.reason));
            for exception in &self.unprotect {
                let text = format!("/{exception}");
                if text == row.pattern || text.starts_with(&format!("{}/", row.pattern)) {
                    list.push((format!("!{text}"), row.reason));
                }
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stoker_core::{PatternSet, RelPathBuf};

    fn path(text: &str) -> RelPathBuf {
        RelPathBuf::parse(text).unwrap()
    }

    #[test]
    fn every_path_of_the_design_page_is_protected_and_their_neighbours_are_not() {
        for never in [
            "projects/.resources/a",
            "projects/p/.resources",
            ".resources",
            ".stoker/manifest",
            "config/local/a/b",
            "config/resources/local",
            "config/resources/local/ignition/api-token/k/config.json",
            "config/ignition/keys/root.json",
            "config/ignition/tags/valueStore.idb-wal",
            "var/ignition/x",
            "db/config.idb",
            "metricsdb/m",
            "logs/wrapper.log",
            "jar-cache/x",
            "autobackup/a.gwbk",
            "certificate-activation/x",
            "anything/config.idb",
            "valueStore.idb",
            "metro-keystore",
            "webserver/keystore",
            "a/b.p12",
            "redundancy.xml",
            "ignition.conf",
            "gateway.xml",
            "gateway.xml_clean",
            "commissioning.json",
            "modules.json",
            "logback.xml",
            ".ignition-seed-complete",
            ".container-init.conf",
        ] {
            assert!(protected(path(never).as_path()).is_some(), "{never}");
        }
        for ours in [
            "projects/p/project.json",
            "config/resources/core/ignition/x/config.json",
            "config/resources/external/a",
            "config/resources/locale/a",
            "projects/var/project.json",
            "projects/p/logs/x",
            "projects/p/modules.json",
            "config/resources/core/local/x",
            "config",
            "config/resources",
            "projects",
            "themes/x.css",
            "projects/p/ignition.conf",
            "config/com.inductiveautomation.opcua/x",
        ] {
            assert_eq!(protected(path(ours).as_path()), None, "{ours}");
        }
        assert_eq!(protected(RelPath::ROOT), None);
    }

    #[test]
    fn an_exception_opens_one_type_and_nothing_else() {
        let table = ProtectionTable::new(["config/resources/local/ignition/api-token".parse().unwrap()]);
        let opened = "config/resources/local/ignition/api-token/ci/config.json";
        assert_eq!(table.protected(path(opened).as_path()), None);
        for still in [
            "config/resources/local/ignition/api-token/.resources/x",
            "config/resources/local/ignition/api-token/keystore",
            "config/resources/local/ignition/api-token-2/x",
            "config/resources/local/config-mode.json",
            "config/local/x",
            "ignition.conf",
        ] {
            assert!(table.protected(path(still).as_path()).is_some(), "{still}");
        }
        let conf = ProtectionTable::new([Unprotect::IgnitionConf]);
        assert_eq!(conf.protected(path("ignition.conf").as_path()), None);
    }

    #[test]
    fn other_exceptions_are_refused_with_what_can_be_written() {
        for bad in [
            "",
            "config/resources/local",
            "config/resources/local/ignition",
            "config/resources/local/ignition/*",
            "config/resources/local/../core/x",
            "config/resources/local/a/b/c",
            "**",
            "var",
            "config/ignition/keys",
            "config/resources/local//x",
            "redundancy.xml",
        ] {
            let error = bad.parse::<Unprotect>().expect_err(bad);
            assert!(error.to_string().contains("config/resources/local/<module>/<type>"));
        }
    }

    fn any_path() -> impl Strategy<Value = String> {
        let words = prop::sample::select(vec![
            "config",
            "resources",
            "local",
            "ignition",
            "api-token",
            "projects",
            ".resources",
            "var",
            "db",
            "x.idb",
            "valueStore.idb",
            "keystore",
            "a.jks",
            "ignition.conf",
            "gateway.xml_clean",
            "core",
            ".stoker",
            "logs",
            "é",
        ]);
        prop::collection::vec(words, 1..5).prop_map(|c| c.join("/"))
    }

    proptest! {
        /// What the engine does with the exported patterns is what the table itself says.
        #[test]
        fn patterns_and_table_agree(text in any_path(), opened: bool, directory: bool) {
            let exceptions = ["config/resources/local/ignition/api-token", "ignition.conf"];
            let table = ProtectionTable::new(
                exceptions.iter().filter(|_| opened).map(|e| e.parse().unwrap()));
            let set = PatternSet::new(table.patterns().iter().map(|(p, _)| p)).unwrap();
            let path = path(&text);
            prop_assert_eq!(table.protected(path.as_path()).is_some(), set.excludes(path.as_path(), directory));
        }

        /// Protection is inherited: nothing below a protected directory can be written.
        #[test]
        fn everything_below_is_protected_too(text in any_path(), below in "[a-z]{1,3}") {
            let path = path(&text);
            if protected(path.as_path()).is_some() {
                prop_assert!(protected(path.as_path().child(&below).unwrap().as_path()).is_some());
            }
        }
    }
}
