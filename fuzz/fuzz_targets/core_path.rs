//! A path that is accepted stays inside, has one spelling, and survives being written and joined.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stoker_core::path::{MAX_COMPONENT_BYTES, MAX_PATH_BYTES};
use stoker_core::{RelPath, RelPathBuf};

// A path, then the name of a child.
fuzz_target!(|input: &str| {
    let (text, name) = input.split_once("=====\n").unwrap_or((input, "child"));
    let Ok(path) = RelPathBuf::parse(text) else { return };
    let view = path.as_path();
    assert!(path.as_str().len() <= MAX_PATH_BYTES && !path.as_str().starts_with('/'));
    for component in view.components() {
        assert!(!component.is_empty() && component.len() <= MAX_COMPONENT_BYTES);
        assert!(component != "." && component != ".." && !component.eq_ignore_ascii_case(".git"));
        assert!(!component.contains(['/', '\\']) && !component.chars().any(char::is_control));
    }
    assert_eq!(view.components().collect::<Vec<_>>().join("/"), path.as_str());
    assert_eq!(RelPathBuf::parse(&path.to_string()).as_ref(), Ok(&path));
    let json = serde_json::to_string(&path).expect("a path is text");
    assert_eq!(serde_json::from_str::<RelPathBuf>(&json).expect("its own text"), path);

    for above in view.ancestors() {
        let rest = view.strip_prefix(above).expect("an ancestor is a prefix");
        assert_eq!(above.join(rest).expect("no longer than before"), path);
    }
    assert_eq!(view.strip_prefix(RelPath::ROOT), Some(view));
    if let Ok(child) = view.child(name) {
        assert_eq!(child.as_path().parent(), Some(view));
        assert_eq!(child.as_path().file_name(), Some(name));
        assert_eq!(RelPathBuf::parse(&child.to_string()).as_ref(), Ok(&child));
    }
});
