//! An edit changes one value, and not one byte outside of it.
#![no_main]

use std::fmt;

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use stoker_core::json::{self, JsonPath};

// A document, then the steps to a value, one a line, then the new value.
fuzz_target!(|input: &str| {
    let mut parts = input.split("=====\n");
    let mut next = || parts.next().unwrap_or_default();
    let (document, steps, value) = (next(), next().lines().collect::<Vec<_>>(), next());
    let strict = serde_json::from_str::<serde::de::IgnoredAny>(document).is_ok();
    assert_eq!(json::check(document.as_bytes()).is_ok(), strict);
    // The short form is only read.
    let _ = JsonPath::parse(value);

    let pointer: String =
        steps.iter().map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1"))).collect();
    let Ok(path) = JsonPath::parse(&pointer) else { return };
    // Any JSON, or a plain text.
    let value: Value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let Ok(edited) = json::set(document, &path, &value) else { return };
    // Numbers of many digits are read to within one unit in the last place, so the text is what is compared.
    let written: Value = serde_json::from_str(&value.to_string()).expect("its own text");
    assert!(strict, "a document with a mistake was edited");
    json::check(edited.as_bytes()).expect("the result parses");

    match find(document, &steps) {
        // What each reader makes of an object with two members of one name is its own affair.
        Found::Twice => return,
        Found::At(start, end) => {
            let (before, after) = (&document[..start], &document[end..]);
            assert!(edited.starts_with(before) && edited.ends_with(after), "{edited}");
            let middle = &edited[before.len()..edited.len() - after.len()];
            assert_eq!(serde_json::from_str::<Value>(middle).expect("a value"), written);
        }
        Found::Nowhere => {
            let same = document.bytes().zip(edited.bytes()).take_while(|(a, b)| a == b).count();
            let (old, new) = (&document.as_bytes()[same..], &edited.as_bytes()[same..]);
            let kept = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
            let lost = &old[..old.len() - kept];
            assert!(lost.iter().all(u8::is_ascii_whitespace), "{:?} is lost", String::from_utf8_lossy(lost));
            let Found::At(start, end) = find(&edited, &steps) else { panic!("{pointer} is not in {edited}") };
            assert_eq!(serde_json::from_str::<Value>(&edited[start..end]).expect("a value"), written);
        }
    }
    // What is as wanted stays as it is: an edit of its own result is no change.
    assert_eq!(json::set(&edited, &path, &value).expect("what was set is there"), edited);
});

enum Found {
    Nowhere,
    /// From and up to these bytes.
    At(usize, usize),
    Twice,
}

/// Finds a value with another parser.
fn find(document: &str, steps: &[&str]) -> Found {
    let Ok(mut raw) = serde_json::from_str::<&RawValue>(document) else { return Found::Nowhere };
    for step in steps {
        let text = raw.get();
        let next = if text.starts_with('{') {
            let Ok(Members(members)) = serde_json::from_str(text) else { return Found::Nowhere };
            let mut named = members.into_iter().filter(|(name, _)| name == step).map(|(_, value)| value);
            let found = named.next();
            if named.next().is_some() {
                return Found::Twice;
            }
            found
        } else {
            let elements: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
            let index = step.parse::<usize>().ok().filter(|index| index.to_string() == **step);
            index.and_then(|index| elements.get(index).copied())
        };
        match next {
            Some(value) => raw = value,
            None => return Found::Nowhere,
        }
    }
    let start = raw.get().as_ptr() as usize - document.as_ptr() as usize;
    Found::At(start, start + raw.get().len())
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = map.next_entry()? {
                    all.push(member);
                }
                Ok(Members(all))
            }
        }
        deserializer.deserialize_map(All)
    }
}
