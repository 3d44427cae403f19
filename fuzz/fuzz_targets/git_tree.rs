//! A raw directory, however odd: adding one file to it leaves every other entry as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;

const NAME: &str = "stoker-fuzz-new";

fuzz_target!(|raw: &[u8]| {
    let Some(Ok((before, after))) = stoker_git::fuzz::tree(raw, NAME) else { return };
    let others = |entries: &stoker_git::fuzz::Entries| {
        let mut others: Vec<_> =
            entries.iter().filter(|entry| entry.0 != NAME.as_bytes()).cloned().collect();
        others.sort();
        others
    };
    assert_eq!(after.iter().filter(|entry| entry.0 == NAME.as_bytes()).count(), 1);
    let mut expected = others(&before);
    // A map of names is all that a directory can be: of two entries with one name the last one stays.
    expected.dedup_by(|a, b| a.0 == b.0);
    if expected.len() == others(&before).len() {
        assert_eq!(others(&after), expected);
    }
});
