//! Whatever a server says first ends in an answer, and what is taken from it can be asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match stoker_git::fuzz::greeting(bytes) {
        Ok(Some(advertisement)) => {
            assert!(advertisement.refs.len() <= bytes.len() / 40);
            for found in &advertisement.refs {
                assert!(found.name.starts_with("refs/") && !found.name.ends_with("^{}"));
                assert!(advertisement.get(&found.name).is_some());
            }
            let text = serde_json::to_string(&advertisement).expect("it is sent as JSON");
            assert_eq!(
                serde_json::from_str::<stoker_git::Advertisement>(&text).expect("its own"),
                advertisement
            );
        }
        Ok(None) => {}
        // What a server says ends up in conditions and on terminals.
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
});
