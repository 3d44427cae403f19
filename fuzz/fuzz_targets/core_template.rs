//! Rendering is replacing: what is between the braces by its value, and not one other byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stoker_core::{Template, TemplateError, Variables};

const LIMIT: usize = 4096;

// A template, then the value of all variables, then the key of one of them.
fuzz_target!(|input: &str| {
    let mut parts = input.split("=====\n");
    let mut next = || parts.next().unwrap_or_default();
    let (text, value, key) = (next(), next(), next());
    let variables =
        Variables::new().text("Name", value).map("Vars", [("zone", value)]).map("Labels", [(key, value)]);
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(error) => {
            assert!(text.contains("{{"), "{error}");
            return;
        }
    };
    assert_eq!(template.is_plain(), !text.contains("{{"));
    match template.render(&variables, LIMIT) {
        Ok(rendered) => {
            assert!(rendered.len() <= LIMIT);
            assert_eq!(rendered, replaced(text, value));
            assert!(template.variables().all(|variable| variables.get(variable) == Some(value)));
        }
        Err(TemplateError::TooLarge { .. }) => assert!(replaced(text, value).len() > LIMIT),
        Err(TemplateError::Unknown { .. }) => {
            assert!(template.variables().any(|variable| variables.get(variable).is_none()));
        }
        Err(error) => panic!("a template that was parsed: {error}"),
    }
});

/// Every pair of braces becomes the value: all variables have the same one.
fn replaced(text: &str, value: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        out.push_str(value);
        rest = after.split_once("}}").map_or("", |(_, after)| after);
    }
    out + rest
}
