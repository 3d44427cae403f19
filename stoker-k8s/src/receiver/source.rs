//! Who sends, as far as headers tell.

use axum::http::HeaderMap;

/// The kind of sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// Forgejo.
    Forgejo,
    /// Gitea.
    Gitea,
    /// Gogs.
    Gogs,
    /// GitHub.
    GitHub,
    /// Anybody who signs JSON.
    Generic,
}

impl Source {
    const ALL: [Self; 5] = [Self::Forgejo, Self::Gitea, Self::Gogs, Self::GitHub, Self::Generic];

    /// As in metrics and in `stoker.io/requested-by`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forgejo => "forgejo",
            Self::Gitea => "gitea",
            Self::Gogs => "gogs",
            Self::GitHub => "github",
            Self::Generic => "generic",
        }
    }
}

/// Where a delivery comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The kind of sender.
    pub source: Source,
    /// The forge's name of the event; none for [`Source::Generic`].
    pub event: Option<String>,
    /// What the sender calls this delivery; a redelivery has the same. At most 128 printable characters.
    pub delivery: Option<String>,
}

/// Event and delivery headers. Forgejo sends Gitea's, Gogs's and GitHub's headers too, Gitea sends those of the other
/// two: the order decides.
const FORGES: [(Source, &str, &str); 4] = [
    (Source::Forgejo, "x-forgejo-event", "x-forgejo-delivery"),
    (Source::Gitea, "x-gitea-event", "x-gitea-delivery"),
    (Source::Gogs, "x-gogs-event", "x-gogs-delivery"),
    (Source::GitHub, "x-github-event", "x-github-delivery"),
];

const MAX_DELIVERY: usize = 128;

impl Origin {
    /// Reads the headers.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let id = |name: &str| {
            let text = text(name).filter(|id| !id.is_empty() && id.len() <= MAX_DELIVERY)?;
            text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.to_owned())
        };
        for (source, event, delivery) in FORGES {
            if let Some(event) = text(event) {
                return Self { source, event: Some(event.to_owned()), delivery: id(delivery) };
            }
        }
        Self { source: Source::Generic, event: None, delivery: id("webhook-id") }
    }

    /// As in `stoker.io/requested-by`.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.delivery {
            Some(delivery) => format!("{}/{delivery}", self.source.as_str()),
            None => self.source.as_str().to_owned(),
        }
    }

    /// Source and delivery from a [`label`](Self::label); `None` when a person wrote it.
    #[must_use]
    pub fn read_label(label: &str) -> Option<(Source, Option<&str>)> {
        let (name, delivery) = match label.split_once('/') {
            Some((name, delivery)) => (name, Some(delivery)),
            None => (label, None),
        };
        Some((Source::ALL.into_iter().find(|source| source.as_str() == name)?, delivery))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(pairs: &[(&'static str, &'static str)]) -> Origin {
        Origin::of(&pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect())
    }

    #[test]
    fn forges_that_imitate_others_are_told_apart() {
        let mut headers = vec![("x-github-event", "push"), ("x-github-delivery", "1")];
        for (source, event, delivery) in [
            (Source::GitHub, "x-github-event", "x-github-delivery"),
            (Source::Gogs, "x-gogs-event", "x-gogs-delivery"),
            (Source::Gitea, "x-gitea-event", "x-gitea-delivery"),
            (Source::Forgejo, "x-forgejo-event", "x-forgejo-delivery"),
        ] {
            headers.extend([(event, "push"), (delivery, "d-1")]);
            let origin = origin(&headers);
            assert_eq!((origin.source, origin.event.as_deref()), (source, Some("push")));
        }
    }

    #[test]
    fn a_delivery_id_fits_into_an_annotation() {
        assert_eq!(origin(&[("webhook-id", "msg_1")]).label(), "generic/msg_1");
        assert_eq!(Origin::read_label("generic/msg_1"), Some((Source::Generic, Some("msg_1"))));
        assert_eq!(Origin::read_label("github"), Some((Source::GitHub, None)));
        assert_eq!(Origin::read_label("ada"), None);
        for bad in ["", "a b", "a\tb"] {
            let headers = [("webhook-id".parse().unwrap(), bad.parse().unwrap())].into_iter().collect();
            assert_eq!(Origin::of(&headers).label(), "generic");
        }
        let long = [("webhook-id".parse().unwrap(), "x".repeat(129).parse().unwrap())].into_iter().collect();
        assert_eq!(Origin::of(&long).delivery, None);
    }
}
