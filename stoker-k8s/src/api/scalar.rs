//! Durations and sizes as people write them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScalarError {
    /// Not a duration.
    #[error("{0:?} is not a duration; write it like 30s, 5m or 1h30m")]
    Period(String),
    /// Not a size.
    #[error("{0:?} is not a size; write it like 512Mi or 2Gi")]
    Size(String),
}

/// A span of time, written as Go does: `90s`, `1h30m`, `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// A period of whole seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl FromStr for Period {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ScalarError::Period(text.to_owned());
        let mut rest = text;
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            // Five digits: no sum can overflow, whatever the unit.
            if digits == 0 || digits > 5 {
                return Err(error());
            }
            let number: u64 = number.parse().map_err(|_| error())?;
            let (part, tail) = if let Some(tail) = tail.strip_prefix("ms") {
                (Duration::from_millis(number), tail)
            } else if let Some(tail) = tail.strip_prefix('s') {
                (Duration::from_secs(number), tail)
            } else if let Some(tail) = tail.strip_prefix('m') {
                (Duration::from_secs(number * 60), tail)
            } else if let Some(tail) = tail.strip_prefix('h') {
                (Duration::from_secs(number * 3600), tail)
            } else {
                return Err(error());
            };
            total = total.checked_add(part).ok_or_else(error)?;
            rest = tail;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if h > 0 {
            write!(f, "{h}h")?;
        }
        if m > 0 {
            write!(f, "{m}m")?;
        }
        if s > 0 || (seconds == 0 && millis == 0) {
            write!(f, "{s}s")?;
        }
        if millis > 0 {
            write!(f, "{millis}ms")?;
        }
        Ok(())
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 24,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([0-9]{1,5}(ms|s|m|h)){1,4}$')",
                "message": "write a duration like 30s, 5m or 1h30m",
            }],
        })
    }
}

/// A number of bytes, written as Kubernetes does: `512Mi`, `2Gi`, `1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ScalarError::Size(text.to_owned());
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .unwrap_or((text, 1));
        if number.is_empty() || number.len() > 15 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS[..4].iter().rev().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 20,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[0-9]{1,15}(Ki|Mi|Gi|Ti|k|M|G|T)?$')",
                "message": "write a size like 512Mi or 2Gi",
            }],
        })
    }
}

macro_rules! text_serde {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_serde!(Period, ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written_and_written_back() {
        for (text, millis, again) in [
            ("60s", 60_000, "1m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("250ms", 250, "250ms"),
            ("0s", 0, "0s"),
            ("1m1s1ms", 61_001, "1m1s1ms"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.0.as_millis(), millis, "{text}");
            assert_eq!(period.to_string(), again);
            assert_eq!(again.parse::<Period>().unwrap(), period);
        }
        for bad in ["", "60", "s", "1d", "-1s", "1.5h", "1 s", "100000s", "1ns", "1sm"] {
            let error = bad.parse::<Period>().expect_err(bad).to_string();
            assert!(error.contains("write it like"), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_as_written_and_written_back() {
        for (text, bytes, again) in [
            ("2Gi", 2 << 30, "2Gi"),
            ("512Mi", 512 << 20, "512Mi"),
            ("1000", 1000, "1000"),
            ("1k", 1000, "1000"),
            ("0", 0, "0"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string(), again);
        }
        for bad in ["", "Gi", "1.5Gi", "-1", "1 Gi", "1Pi", "99999999999999Ti"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }
}
