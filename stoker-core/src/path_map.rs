//! A map by path: one sorted list, which takes half the memory of a tree of nodes that was filled in order.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::path::{RelPath, RelPathBuf};

/// Values by path, in the order of the paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathMap<V>(Vec<(RelPathBuf, V)>);

impl<V> Default for PathMap<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> PathMap<V> {
    /// Takes entries whose paths are in order and differ.
    pub(crate) fn from_sorted(entries: Vec<(RelPathBuf, V)>) -> Self {
        debug_assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b));
        Self(entries)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn entries(&self) -> &[(RelPathBuf, V)] {
        &self.0
    }

    pub(crate) fn into_entries(self) -> Vec<(RelPathBuf, V)> {
        self.0
    }

    pub(crate) fn paths(&self) -> impl DoubleEndedIterator<Item = &RelPathBuf> {
        self.0.iter().map(|(path, _)| path)
    }

    fn find(&self, path: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(at, _)| at.as_str().cmp(path))
    }

    pub(crate) fn get(&self, path: &str) -> Option<&V> {
        self.find(path).ok().map(|at| &self.0[at].1)
    }

    /// An entry by its place in [`PathMap::entries`].
    pub(crate) fn entry_mut(&mut self, at: usize) -> (&RelPathBuf, &mut V) {
        let (path, value) = &mut self.0[at];
        (path, value)
    }

    /// The path itself, for whoever wants to share it.
    pub(crate) fn path(&self, path: RelPath<'_>) -> Option<&RelPathBuf> {
        self.find(path.as_str()).ok().map(|at| &self.0[at].0)
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.find(path).is_ok()
    }

    /// Where in [`PathMap::entries`] the paths below a directory are: they lie side by side.
    pub(crate) fn range_below(&self, directory: RelPath<'_>) -> Range<usize> {
        if directory.is_root() {
            return self.0.partition_point(|(path, _)| path.as_path().is_root())..self.0.len();
        }
        let prefix = format!("{directory}/");
        let first = self.0.partition_point(|(path, _)| path.as_str() < prefix.as_str());
        let count = self.0[first..].partition_point(|(path, _)| path.as_str().starts_with(&prefix));
        first..first + count
    }

    /// The entries below a directory.
    pub(crate) fn below(&self, directory: RelPath<'_>) -> &[(RelPathBuf, V)] {
        &self.0[self.range_below(directory)]
    }

    /// Sets some values and removes others (`None`). The last word on a path counts.
    pub(crate) fn change(&mut self, mut changes: Vec<(RelPathBuf, Option<V>)>) {
        changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let old = std::mem::take(&mut self.0);
        changes.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        if old.is_empty() {
            // In place: a first sync has one for every file.
            self.0 = changes.into_iter().filter_map(|(path, value)| Some((path, value?))).collect();
            return;
        }
        self.0.reserve_exact(old.len() + changes.len());
        let mut old = old.into_iter().peekable();
        for (path, value) in changes {
            while let Some(entry) = old.next_if(|(at, _)| *at < path) {
                self.0.push(entry);
            }
            old.next_if(|(at, _)| *at == path);
            if let Some(value) = value {
                self.0.push((path, value));
            }
        }
        self.0.extend(old);
    }
}

/// An entry on disk: the path is what it shares with the one before, in bytes, and the rest.
#[derive(Serialize, Deserialize)]
struct Record<R, V> {
    shared: usize,
    rest: R,
    value: V,
}

impl<V: Serialize> Serialize for PathMap<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = "";
        serializer.collect_seq(self.0.iter().map(|(path, value)| {
            let (path, last) = (path.as_str(), std::mem::replace(&mut before, path.as_str()));
            let equal = path.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
            let shared = (0..=equal).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0);
            Record { shared, rest: &path[shared..], value }
        }))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for PathMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

struct Entries<V>(PhantomData<V>);

/// What is reserved for entries before they are read: a number on a disk may be any.
const MAX_RESERVED: usize = 1 << 17;

impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
    type Value = PathMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("paths in order")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut entries: Vec<(RelPathBuf, V)> =
            Vec::with_capacity(from.size_hint().unwrap_or(0).min(MAX_RESERVED));
        while let Some(Record { shared, rest, value }) = from.next_element::<Record<String, V>>()? {
            let last = entries.last().map(|(path, _)| path.as_path());
            let path = last.unwrap_or(RelPath::ROOT).with_end(shared, &rest).map_err(A::Error::custom)?;
            if last.is_some_and(|last| last >= path.as_path()) {
                return Err(A::Error::custom("paths are not in order"));
            }
            entries.push((path, value));
        }
        entries.shrink_to_fit();
        Ok(PathMap(entries))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn path() -> impl Strategy<Value = RelPathBuf> {
        "\\.|([a-c]|ä|ö|a-){1,2}(/([a-c]|ä|ö|a-){1,2}){0,2}"
            .prop_map(|text| RelPathBuf::parse(&text).unwrap())
    }

    proptest! {
        #[test]
        fn a_path_map_is_a_tree_map(
            old in proptest::collection::btree_map(path(), 0..9u8, 0..20),
            changes in proptest::collection::vec((path(), proptest::option::of(0..9u8)), 0..20),
            directory in path(),
        ) {
            let mut map = PathMap::from_sorted(old.clone().into_iter().collect());
            let mut tree: BTreeMap<RelPathBuf, u8> = old;
            map.change(changes.clone());
            for (path, value) in changes {
                match value {
                    Some(value) => tree.insert(path, value),
                    None => tree.remove(&path),
                };
            }
            prop_assert!(map.entries().iter().map(|(p, v)| (p, v)).eq(tree.iter()));
            prop_assert_eq!(map.get(directory.as_str()), tree.get(&directory));
            for directory in [directory.as_path(), RelPath::ROOT] {
                let below = tree.keys().filter(|p| p.as_path() != directory && p.as_path().starts_with(directory));
                prop_assert!(map.below(directory).iter().map(|(p, _)| p).eq(below));
            }
            let bytes = postcard::to_allocvec(&map).unwrap();
            prop_assert_eq!(postcard::from_bytes::<PathMap<u8>>(&bytes).unwrap(), map);
        }

        #[test]
        fn any_bytes_are_a_map_in_order_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(map) = postcard::from_bytes::<PathMap<u8>>(&bytes) {
                prop_assert!(map.paths().is_sorted_by(|a, b| a < b));
            }
        }
    }
}
