//! Figures, and whether they are good enough.

use std::io::Write;

use anyhow::Result;
use serde::{Serialize, Serializer};

/// What a figure must not pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// It is told, not judged.
    None,
    /// At most this much, in the figure's unit.
    AtMost(f64),
}

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The measurement it belongs to, such as `idle`.
    pub bench: &'static str,
    /// What was measured, such as `agent_rss_max`.
    pub figure: String,
    /// How much.
    pub value: f64,
    /// Of what: `MiB`, `ms`, `requests`, `ratio`.
    pub unit: &'static str,
    /// What it must not pass.
    #[serde(rename = "atMost", serialize_with = "limit")]
    pub bound: Bound,
    /// Whether it keeps the bound.
    pub ok: bool,
    /// What a reader must know to read it right.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// All figures of a measurement.
#[derive(Debug, Default)]
pub struct Report {
    bench: &'static str,
    figures: Vec<Figure>,
}

fn limit<S: Serializer>(bound: &Bound, serializer: S) -> Result<S::Ok, S::Error> {
    match bound {
        Bound::None => serializer.serialize_none(),
        Bound::AtMost(most) => serializer.serialize_some(most),
    }
}

impl Report {
    /// An empty one.
    pub fn new(bench: &'static str) -> Self {
        Self { bench, figures: Vec::new() }
    }

    /// Adds a figure, rounded to three digits after the point.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: Bound,
        note: impl Into<String>,
    ) -> &mut Self {
        let ok = match bound {
            Bound::None => true,
            Bound::AtMost(most) => value <= most,
        };
        let value = (value * 1000.0).round() / 1000.0;
        let (figure, note) = (name.into(), note.into());
        self.figures.push(Figure { bench: self.bench, figure, value, unit, bound, ok, note });
        self
    }

    /// The figures so far.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// Those that break their bound, in sentences.
    pub fn broken(&self) -> Vec<String> {
        let broken = self.figures.iter().filter(|figure| !figure.ok);
        broken
            .map(|figure| {
                let most = if let Bound::AtMost(most) = figure.bound { most } else { f64::NAN };
                let Figure { figure, value, unit, note, .. } = figure;
                format!("{figure} is {value} {unit}; at most {most} are allowed ({note})")
            })
            .collect()
    }

    /// Prints the lines for programs on standard output, and the table for people on standard error.
    ///
    /// # Errors
    ///
    /// The output is closed.
    pub fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for figure in &self.figures {
            writeln!(out, "{}", serde_json::to_string(figure)?)?;
        }
        out.flush()?;
        let width = self.figures.iter().map(|figure| figure.figure.len()).max().unwrap_or_default();
        let mut people = std::io::stderr().lock();
        writeln!(people)?;
        for Figure { figure, value, unit, bound, ok, note, .. } in &self.figures {
            let bound = match bound {
                Bound::None => String::new(),
                Bound::AtMost(most) => format!("≤ {most} {}", if *ok { "ok" } else { "BROKEN" }),
            };
            writeln!(people, "  {figure:width$} {value:>10} {unit:<9} {bound:<12} {note}")?;
        }
        writeln!(people)?;
        Ok(())
    }
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The largest; 0 of none.
pub fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_bound_is_named() {
        let mut report = Report::new("idle");
        report.add("agent_rss_max", 20.0, "MiB", Bound::AtMost(20.0), "of 10");
        report.add("controller_rss", 41.2, "MiB", Bound::AtMost(40.0), "with 10 gateways");
        report.add("git_requests", 900.0, "requests", Bound::None, "");
        assert_eq!(
            report.broken(),
            ["controller_rss is 41.2 MiB; at most 40 are allowed (with 10 gateways)"]
        );
        let line = serde_json::to_string(&report.figures()[2]).unwrap();
        assert_eq!(
            line,
            r#"{"bench":"idle","figure":"git_requests","value":900.0,"unit":"requests","atMost":null,"ok":true}"#
        );
    }

    #[test]
    fn the_middle_of_few_values() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(max(&[1.0, 3.0, 2.0]), 3.0);
    }
}
