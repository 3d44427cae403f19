//! Which `Stoker` a pod belongs to.

use std::sync::Arc;

use super::{Obstacle, Reason, Stokers};
use crate::roster::StokerView;

/// Most names in a message.
const NAMED: usize = 5;

/// The named one, or the only one. One that is being deleted counts as gone.
pub(super) fn stoker<'a>(
    named: Option<&str>,
    namespace: &str,
    stokers: Stokers<'a>,
) -> Result<&'a StokerView, Obstacle> {
    let known = match stokers {
        Stokers::Known(known) => known,
        Stokers::Unknown => {
            return Err(Obstacle::new(
                Reason::StokersUnknown,
                format!(
                    "the Stokers of namespace {namespace:?} cannot be read just now; restart the pod later"
                ),
            ));
        }
        Stokers::OutOfScope => {
            return Err(Obstacle::new(
                Reason::NamespaceNotWatched,
                format!("this installation of Stoker does not look after namespace {namespace:?}"),
            ));
        }
    };
    let mut live = known.iter().filter(|view| !view.deleting);
    if let Some(named) = named {
        return live.find(|view| view.name == named).map(Arc::as_ref).ok_or_else(|| {
            Obstacle::new(
                Reason::StokerNotFound,
                format!(
                    "namespace {namespace:?} has no Stoker {named:?} (annotation stoker.io/cr-name); create it, then restart the pod"
                ),
            )
        });
    }
    match (live.next(), live.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Obstacle::new(
            Reason::NoStoker,
            format!("namespace {namespace:?} has no Stoker; create one, then restart the pod"),
        )),
        (Some(_), Some(_)) => {
            let names: Vec<&str> = known.iter().filter(|v| !v.deleting).map(|v| v.name.as_str()).collect();
            let more = if names.len() > NAMED { ", …" } else { "" };
            let list = names[..names.len().min(NAMED)].join(", ");
            Err(Obstacle::new(
                Reason::SeveralStokers,
                format!(
                    "namespace {namespace:?} has {} Stokers; name one with the annotation stoker.io/cr-name: {list}{more}",
                    names.len()
                ),
            ))
        }
    }
}
