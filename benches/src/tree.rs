//! A repository in the shape of a large Ignition project, the same on every machine.
//!
//! Two files a folder, `resource.json` and `view.json`, as Perspective stores views. Sizes as in such projects: most
//! views are small (median below 1 KB), a few are large; 10,000 files are about 27 MB.

use std::path::Path;

use anyhow::{Context, Result};

/// The folder that all others are in.
pub const ROOT: &str = "services/gateway/projects/line/com.inductiveautomation.perspective/views";

/// One folder of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Below [`ROOT`], such as `area-03/view-00317`.
    pub path: String,
    /// Its `resource.json`.
    pub resource: String,
    /// Its `view.json`.
    pub view: String,
}

impl View {
    /// The view of a number; `revision` changes its `view.json`, not the size of it.
    pub fn new(number: usize, revision: u32) -> Self {
        let mut random = Random(number as u64 ^ 0x9e37_79b9_7f4a_7c15);
        let path = format!("area-{:02}/view-{number:05}", number % 40);
        let resource = format!(
            "{{\n  \"scope\": \"G\",\n  \"version\": 1,\n  \"restricted\": false,\n  \"overridable\": true,\n  \"files\": [\n    \"view.json\"\n  ],\n  \"attributes\": {{\n    \"lastModification\": {{\n      \"actor\": \"admin\",\n      \"timestamp\": \"2026-01-01T00:00:00Z\"\n    }},\n    \"lastModificationSignature\": \"{:016x}{:016x}{:016x}{:016x}\"\n  }}\n}}",
            random.next(),
            random.next(),
            random.next(),
            random.next()
        );
        let components = components(&mut random);
        let mut view = format!(
            "{{\n  \"custom\": {{\"revision\": {revision}}},\n  \"params\": {{}},\n  \"props\": {{}},\n  \"root\": {{\n    \"children\": ["
        );
        for at in 0..components {
            let comma = if at == 0 { "" } else { "," };
            view.push_str(&format!(
                "{comma}\n      {{\n        \"meta\": {{\"name\": \"Label_{at}\"}},\n        \"position\": {{\"x\": {}, \"y\": {}}},\n        \"props\": {{\"text\": \"{:x}\"}},\n        \"type\": \"ia.display.label\"\n      }}",
                random.next() % 1920,
                random.next() % 1080,
                random.next()
            ));
        }
        view.push_str(
            "\n    ],\n    \"meta\": {\"name\": \"root\"},\n    \"type\": \"ia.container.flex\"\n  }\n}",
        );
        Self { path, resource, view }
    }

    /// Writes it below a folder.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        let folder = root.join(&self.path);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        std::fs::write(folder.join("resource.json"), &self.resource)?;
        std::fs::write(folder.join("view.json"), &self.view)?;
        Ok(())
    }
}

/// Writes a tree of `files` files below a folder, which is the root of a repository; returns its bytes.
///
/// # Errors
///
/// A file cannot be written.
pub fn write(root: &Path, files: usize) -> Result<u64> {
    let mut bytes = 0;
    for number in 0..files / 2 {
        let view = View::new(number, 0);
        bytes += (view.resource.len() + view.view.len()) as u64;
        view.write(&root.join(ROOT))?;
    }
    Ok(bytes)
}

/// Components of a view: half of all views have few, one in fifty has hundreds.
fn components(random: &mut Random) -> u64 {
    match random.next() % 100 {
        0..60 => random.next() % 4,
        60..85 => 4 + random.next() % 40,
        85..98 => 40 + random.next() % 120,
        _ => 200 + random.next() % 400,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): equal numbers everywhere, without a dependency.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_files_have_the_sizes_of_a_large_project() {
        let mut sizes: Vec<usize> = Vec::new();
        for number in 0..5000 {
            let view = View::new(number, 0);
            assert!(serde_json::from_str::<serde_json::Value>(&view.view).is_ok());
            assert!(serde_json::from_str::<serde_json::Value>(&view.resource).is_ok());
            sizes.extend([view.resource.len(), view.view.len()]);
        }
        sizes.sort_unstable();
        let total: usize = sizes.iter().sum();
        assert!((24_000_000..30_000_000).contains(&total), "{total}");
        assert!(sizes[sizes.len() / 2] < 1000, "{}", sizes[sizes.len() / 2]);
        assert_eq!(View::new(7, 0), View::new(7, 0));
        assert_ne!(View::new(7, 0).view, View::new(7, 1).view);
    }
}
