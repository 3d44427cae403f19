//! The demo's repository: a small but complete service, in the layout that Ignition 8.3 reads.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::git;

/// The view that the demo edits.
pub(super) const VIEW_PATH: &str =
    "services/line/projects/conveyor/com.inductiveautomation.perspective/views/Overview/view.json";

pub(super) const VIEW: &str = r#"{
  "custom": {},
  "params": {},
  "root": {
    "children": [
      {
        "meta": {
          "name": "Speed"
        },
        "props": {
          "text": "Speed: 42 m/min"
        },
        "type": "ia.display.label"
      }
    ],
    "meta": {
      "name": "root"
    },
    "type": "ia.container.flex"
  }
}"#;

pub(super) const VIEW_CHANGED: &str = r#"{
  "custom": {},
  "params": {},
  "root": {
    "children": [
      {
        "meta": {
          "name": "Speed"
        },
        "props": {
          "text": "Speed: 0.7 m/s"
        },
        "type": "ia.display.label"
      }
    ],
    "meta": {
      "name": "root"
    },
    "type": "ia.container.flex"
  }
}"#;

pub(super) const BROKEN_VIEW: &str = r#"{
  "custom": {},
  "root": {
    "children": [
      {
        "props": {
          "text": "Speed: ?"
        },
        "type": "ia.display.label"
    ]
  }
}"#;

const FILES: &[(&str, &str)] = &[
    (
        "services/line/projects/conveyor/project.json",
        "{\n  \"title\": \"Conveyor\",\n  \"description\": \"Line overview\",\n  \"enabled\": true,\n  \"inheritable\": false,\n  \"parent\": \"\"\n}",
    ),
    (VIEW_PATH, VIEW),
    (
        "services/line/projects/conveyor/com.inductiveautomation.perspective/views/Overview/resource.json",
        "{\n  \"scope\": \"G\",\n  \"version\": 1,\n  \"restricted\": false,\n  \"overridable\": true,\n  \"files\": [\n    \"view.json\"\n  ],\n  \"attributes\": {}\n}",
    ),
    (
        "services/line/projects/conveyor/ignition/script-python/units/code.py",
        "def metres_per_second(metres_per_minute):\n    return metres_per_minute / 60.0\n",
    ),
    (
        "services/line/projects/conveyor/ignition/script-python/units/resource.json",
        "{\n  \"scope\": \"A\",\n  \"version\": 1,\n  \"restricted\": false,\n  \"overridable\": true,\n  \"files\": [\n    \"code.py\"\n  ],\n  \"attributes\": {}\n}",
    ),
    (
        "services/line/config/resources/core/config-mode.json",
        "{\n  \"title\": \"core\",\n  \"description\": \"\",\n  \"enabled\": true,\n  \"inheritable\": true,\n  \"parent\": \"external\"\n}",
    ),
    (
        "services/line/config/resources/core/ignition/tag-provider/default/config.json",
        "{\n  \"profile\": {\n    \"type\": \"STANDARD\"\n  },\n  \"settings\": {}\n}",
    ),
    (
        "services/line/config/resources/core/ignition/tag-provider/default/resource.json",
        "{\n  \"scope\": \"A\",\n  \"version\": 1,\n  \"restricted\": false,\n  \"overridable\": true,\n  \"files\": [\n    \"config.json\"\n  ],\n  \"attributes\": {\n    \"enabled\": true\n  }\n}",
    ),
    (
        "services/line/config/resources/core/ignition/tag-definition/default/Conveyor/unary-resource.json",
        "{\n  \"scope\": \"G\",\n  \"version\": 1,\n  \"restricted\": false,\n  \"overridable\": true,\n  \"files\": [\n    \"tags.json\"\n  ],\n  \"attributes\": {\n    \"config\": {}\n  }\n}",
    ),
    (
        "services/line/config/resources/core/ignition/tag-definition/default/Conveyor/tags.json",
        "[\n  {\n    \"name\": \"Speed\",\n    \"tagType\": \"AtomicTag\",\n    \"valueSource\": \"memory\",\n    \"dataType\": \"Float8\",\n    \"value\": 42.0\n  }\n]",
    ),
];

/// A developer's clone and the bare repository that it pushes to.
pub(super) struct Repository {
    clone: PathBuf,
    served: PathBuf,
}

impl Repository {
    pub(super) fn create(root: &Path) -> Result<Self> {
        let (clone, served) = (root.join("developer"), root.join("git"));
        std::fs::create_dir_all(&served)?;
        git(&served, &["init", "--quiet", "--bare", "plant.git"])?;
        let bare = served.join("plant.git").display().to_string();
        git(root, &["clone", "--quiet", &bare, "developer"])?;
        let repository = Self { clone, served };
        for (path, content) in FILES {
            repository.write(path, content)?;
        }
        Ok(repository)
    }

    /// The folder whose repositories are served.
    pub(super) fn served(&self) -> &Path {
        &self.served
    }

    pub(super) fn write(&self, path: &str, content: &str) -> Result<()> {
        let path = self.clone.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(std::fs::write(path, content)?)
    }

    /// Commits everything and pushes it to `main`. Returns the commit.
    pub(super) fn push(&self, message: &str) -> Result<String> {
        git(&self.clone, &["add", "--all"])?;
        git(&self.clone, &["commit", "--quiet", "--message", message])?;
        git(&self.clone, &["push", "--quiet", "origin", "HEAD:main"])?;
        git(&self.clone, &["rev-parse", "HEAD"])
    }

    pub(super) fn files(&self) -> Result<usize> {
        Ok(git(&self.clone, &["ls-files"])?.lines().count())
    }
}
