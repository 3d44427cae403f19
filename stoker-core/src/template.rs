//! Variables in paths and file contents: `{{.GatewayName}}`, `{{Vars.region}}`, `{{index .Labels "a.b/c"}}`.
//!
//! Nothing else of any template language is accepted: no conditions, no loops, no functions, no escaping. A variable
//! that does not exist is an error with its place, never an empty string. Text between the braces that is not one of
//! the forms above is an error too, so that a mistyped template never goes live as it stands.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fault::{Category, Fault, Retry};

/// The longest expression between `{{` and `}}`, in bytes.
const MAX_EXPRESSION_BYTES: usize = 512;

/// Where in a text something is, counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Position {
    /// The position of byte `offset` of `text`.
    #[must_use]
    pub fn of(text: &str, offset: usize) -> Self {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
        Self {
            line: before.iter().filter(|&&b| b == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[start..]).chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a template cannot be parsed or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("{at}: \"{{{{\" is never closed by \"}}}}\"")]
    Unclosed {
        /// Where it opens.
        at: Position,
    },
    /// What stands between the braces is not a variable.
    #[error(
        "{at}: {{{{{expression}}}}} is not a variable; write {{{{.Name}}}}, {{{{.Vars.key}}}} or {{{{index .Labels \"key\"}}}}"
    )]
    Expression {
        /// Where it opens.
        at: Position,
        /// The text between the braces, shortened.
        expression: String,
    },
    /// The variable does not exist.
    #[error("{at}: there is no variable {name}{}", known(.available))]
    Unknown {
        /// Where it is used.
        at: Position,
        /// The variable, as it was written.
        name: String,
        /// What there is instead.
        available: Vec<String>,
    },
    /// The result is larger than the caller allows.
    #[error("the rendered text is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
}

fn known(available: &[String]) -> String {
    if available.is_empty() { String::new() } else { format!(" (there are: {})", available.join(", ")) }
}

impl Fault for TemplateError {
    fn category(&self) -> Category {
        Category::new("TemplateError")
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

/// The values that templates can name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variables {
    names: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Map(BTreeMap<String, String>),
}

impl Variables {
    /// No variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `{{.name}}`.
    #[must_use]
    pub fn text(mut self, name: &str, value: impl Into<String>) -> Self {
        self.names.insert(name.to_owned(), Value::Text(value.into()));
        self
    }

    /// Adds `{{.name.key}}` and `{{index .name "key"}}` for every key.
    #[must_use]
    pub fn map<K: Into<String>, V: Into<String>>(
        mut self,
        name: &str,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let entries = entries.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        self.names.insert(name.to_owned(), Value::Map(entries));
        self
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, variable: &Variable) -> Option<&str> {
        match (self.names.get(&variable.name)?, &variable.key) {
            (Value::Text(text), None) => Some(text),
            (Value::Map(map), Some(key)) => map.get(key).map(String::as_str),
            _ => None,
        }
    }

    fn available(&self, missing: &Variable) -> Vec<String> {
        if let (Some(Value::Map(map)), Some(_)) = (self.names.get(&missing.name), &missing.key) {
            return map.keys().take(20).map(|key| Variable::keyed(&missing.name, key).to_string()).collect();
        }
        let each = self.names.iter().map(|(name, value)| match value {
            Value::Text(_) => format!(".{name}"),
            Value::Map(_) => format!(".{name}.<key>"),
        });
        each.take(20).collect()
    }
}

/// A variable as a template names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variable {
    /// The name, without the leading dot.
    pub name: String,
    /// The key, for maps such as `Vars` and `Labels`.
    pub key: Option<String>,
}

impl Variable {
    fn keyed(name: &str, key: &str) -> Self {
        Self { name: name.to_owned(), key: Some(key.to_owned()) }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            None => write!(f, ".{}", self.name),
            Some(key) if is_word(key) => write!(f, ".{}.{key}", self.name),
            Some(key) => write!(f, "index .{} {key:?}", self.name),
        }
    }
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable, Position),
}

impl Template {
    /// Parses a text.
    ///
    /// ```
    /// use stoker_core::template::{Template, Variables};
    /// let variables = Variables::new().text("GatewayName", "line-1").map("Vars", [("provider", "edge")]);
    /// let template = Template::parse("{{.GatewayName}}/{{ Vars.provider }}")?;
    /// assert_eq!(template.render(&variables, 1024)?, "line-1/edge");
    /// # Ok::<(), stoker_core::template::TemplateError>(())
    /// ```
    ///
    /// # Errors
    /// When braces are not closed or hold anything but a variable.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = 0;
        while let Some(open) = text[rest..].find("{{").map(|n| rest + n) {
            if open > rest {
                parts.push(Part::Text(text[rest..open].to_owned()));
            }
            let at = Position::of(text, open);
            let Some(length) = text[open + 2..].find("}}") else {
                return Err(TemplateError::Unclosed { at });
            };
            let expression = &text[open + 2..open + 2 + length];
            let variable = parse_expression(expression).ok_or_else(|| TemplateError::Expression {
                at,
                expression: expression.chars().take(60).collect(),
            })?;
            parts.push(Part::Variable(variable, at));
            rest = open + 2 + length + 2;
        }
        if rest < text.len() {
            parts.push(Part::Text(text[rest..].to_owned()));
        }
        Ok(Self { parts })
    }

    /// The variables that the template uses, in order of appearance.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(variable, _) => Some(variable),
            Part::Text(_) => None,
        })
    }

    /// Whether the template is plain text.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.variables().next().is_none()
    }

    /// Fills in the variables; the result has at most `max_bytes`.
    ///
    /// # Errors
    /// When a variable does not exist or the result would be too large.
    pub fn render(&self, variables: &Variables, max_bytes: usize) -> Result<String, TemplateError> {
        let mut out = String::new();
        for part in &self.parts {
            let piece = match part {
                Part::Text(text) => text.as_str(),
                Part::Variable(variable, at) => {
                    variables.get(variable).ok_or_else(|| TemplateError::Unknown {
                        at: *at,
                        name: variable.to_string(),
                        available: variables.available(variable),
                    })?
                }
            };
            if out.len() + piece.len() > max_bytes {
                return Err(TemplateError::TooLarge { limit: max_bytes });
            }
            out.push_str(piece);
        }
        Ok(out)
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn parse_expression(expression: &str) -> Option<Variable> {
    if expression.len() > MAX_EXPRESSION_BYTES {
        return None;
    }
    let expression = expression.trim();
    if let Some(arguments) = expression.strip_prefix("index").filter(|a| a.starts_with([' ', '\t'])) {
        let (name, key) = arguments.trim_start().split_once([' ', '\t'])?;
        let key = key.trim().strip_prefix('"')?.strip_suffix('"')?;
        let name = name.strip_prefix('.').unwrap_or(name);
        let fits = is_word(name) && !key.is_empty() && !key.contains(['"', '\\']);
        return fits.then(|| Variable::keyed(name, key));
    }
    let path = expression.strip_prefix('.').unwrap_or(expression);
    match path.split_once('.') {
        None => is_word(path).then(|| Variable { name: path.to_owned(), key: None }),
        Some((name, key)) => (is_word(name) && is_word(key)).then(|| Variable::keyed(name, key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variables() -> Variables {
        Variables::new()
            .text("GatewayName", "line-1")
            .map("Vars", [("region", "emea")])
            .map("Labels", [("a.b/c", "deep"), ("site", "x")])
    }

    fn render(text: &str) -> Result<String, TemplateError> {
        Template::parse(text)?.render(&variables(), 10_000)
    }

    #[test]
    fn all_spellings() {
        for spelling in ["{{.GatewayName}}", "{{GatewayName}}", "{{ .GatewayName }}", "{{\tGatewayName}}"] {
            assert_eq!(render(spelling).unwrap(), "line-1");
        }
        assert_eq!(
            render("{{.Vars.region}}-{{index .Labels \"a.b/c\"}}-{{index Vars \"region\"}}").unwrap(),
            "emea-deep-emea"
        );
        assert_eq!(
            render("no braces } { }} {\"a\":{\"b\":1}}").unwrap(),
            "no braces } { }} {\"a\":{\"b\":1}}"
        );
    }

    #[test]
    fn mistakes_are_placed() {
        assert_eq!(
            render("a\nbé {{.Gatewayname}}").unwrap_err().to_string(),
            "line 2, column 4: there is no variable .Gatewayname (there are: .GatewayName, .Labels.<key>, .Vars.<key>)"
        );
        assert!(
            matches!(render("{{.Vars.zone}}"), Err(TemplateError::Unknown { name, .. }) if name == ".Vars.zone")
        );
        assert!(matches!(render("{{.Vars}}"), Err(TemplateError::Unknown { .. })));
        assert!(matches!(render("{{.GatewayName.x}}"), Err(TemplateError::Unknown { .. })));
        assert!(matches!(render("x {{"), Err(TemplateError::Unclosed { .. })));
        for bad in [
            "{{}}",
            "{{if .X}}",
            "{{.X | upper}}",
            "{{#each}}",
            "{{.Labels.a.b}}",
            "{{index .Labels a}}",
            "{{{.X}}}",
            "{{\"x\"}}",
        ] {
            assert!(matches!(render(bad), Err(TemplateError::Expression { .. })), "{bad}");
        }
    }

    #[test]
    fn expansion_is_capped() {
        let big = Variables::new().text("X", "y".repeat(1000));
        let template = Template::parse(&"{{.X}}".repeat(1000)).unwrap();
        assert_eq!(template.render(&big, 5000), Err(TemplateError::TooLarge { limit: 5000 }));
    }

    proptest! {
        /// No input panics, and text without braces comes back unchanged.
        #[test]
        fn any_text(text in "\\PC{0,40}|[{}. a\n\"]{0,30}") {
            let result = render(&text);
            if !text.contains("{{") {
                prop_assert_eq!(result.unwrap(), text);
            }
        }
    }
}
