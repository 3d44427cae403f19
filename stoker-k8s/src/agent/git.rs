//! Commits from the repository that the metadata names.
