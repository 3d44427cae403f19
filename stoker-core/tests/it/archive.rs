//! All owned files in one file, and back.

use std::io::Write;

use proptest::prelude::*;
use stoker_core::{ArchiveSource, Fault, Limits};

use crate::world::{Tree, World, files};

fn exported(world: &World) -> Vec<u8> {
    let mut archive = Vec::new();
    world.engine().begin(false).unwrap().export(&mut archive).unwrap();
    archive
}

fn read(archive: &[u8], limits: &Limits) -> Result<ArchiveSource, stoker_core::ArchiveError> {
    ArchiveSource::read(archive, std::env::temp_dir(), limits)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_archive_brings_back_what_was_exported_and_the_same_files_make_the_same_bytes(
        tree in proptest::collection::btree_map("[abc]|d/[xy]|d/e/run\\.sh|é", "[1-3]{0,2000}", 0..7),
    ) {
        let (world, copy) = (World::new(), World::new());
        let tree = Tree(tree.into_iter().map(|(path, content)| (path, content.into_bytes())).collect());
        world.sync(&tree, "r1");
        world.write("theirs", "stays where it is");
        let archive = exported(&world);
        prop_assert_eq!(&exported(&world), &archive);

        let source = read(&archive, &Limits::default()).unwrap();
        prop_assert_eq!((source.header().revision.as_str(), source.header().files), ("r1", tree.0.len() as u64));
        let engine = copy.engine();
        engine.sync(&source, "r1", &copy.spec).unwrap();
        let mut expected = files(world.directory.path());
        expected.remove("theirs");
        prop_assert_eq!(files(copy.directory.path()), expected.clone());

        // Cut off anywhere, it is refused; with a byte turned over, it is refused or nothing of it has changed.
        for at in [archive.len() / 3, archive.len() - 1] {
            prop_assert!(read(&archive[..at], &Limits::default()).is_err());
            let mut broken = archive.clone();
            broken[at] ^= 1;
            // Some bits of a compressed stream mean nothing.
            if let Ok(source) = read(&broken, &Limits::default()) {
                let other = World::new();
                other.engine().sync(&source, "r1", &other.spec).unwrap();
                prop_assert_eq!(files(other.directory.path()), expected.clone());
            }
        }
    }
}

#[test]
fn what_somebody_changed_is_exported_as_it_is_and_what_they_deleted_is_not() {
    let world = World::new();
    world.sync(&Tree::of([("a", "1"), ("b", "1")]), "r1");
    world.write("a", "theirs");
    std::fs::remove_file(world.path("b")).unwrap();
    let source = read(&exported(&world), &Limits::default()).unwrap();
    assert_eq!((source.header().files, source.header().bytes), (1, 6));
}

#[test]
fn an_archive_of_somebody_else_is_refused_by_name() {
    let world = World::new();
    let nothing = world.engine().begin(false).unwrap().export(Vec::new()).unwrap_err();
    assert_eq!(nothing.category().as_str(), "HistoryNotKept");
    let header = |files: u64, bytes: u64, format: u32| {
        format!("{{\"format\":{format},\"revision\":\"r\",\"at\":0,\"files\":{files},\"bytes\":{bytes}}}")
    };
    let first = ".stoker-archive.json";
    let small = Limits { max_files: 2, max_total_bytes: 10, max_file_bytes: 5 };
    for (entries, says) in [
        (vec![], "it is empty"),
        (vec![("a", "1".to_owned())], "begins with \"a\""),
        (vec![(first, "{}".to_owned())], "cannot be read"),
        (vec![(first, header(0, 0, 9))], "its format is 9"),
        (vec![(first, header(2, 1, 1)), ("a", "1".to_owned())], "holds 1 files and says 2"),
        (vec![(first, header(1, 9, 1)), ("a", "1".to_owned())], "it is damaged"),
        (vec![(first, header(2, 2, 1)), ("a", "1".to_owned()), ("a", "1".to_owned())], "is there twice"),
        (vec![(first, header(1, 1, 1)), (".stoker/head", "1".to_owned())], "not the path of an owned file"),
        (vec![(first, header(1, 1, 1)), ("/etc/x", "1".to_owned())], "not usable"),
        (vec![(first, header(1, 1, 1)), ("a/../../x", "1".to_owned())], "not usable"),
        (vec![(first, header(1, 6, 1)), ("a", "123456".to_owned())], "bytes in one file"),
        (vec![(first, header(3, 3, 1)), ("a", "1".into()), ("b", "1".into()), ("c", "1".into())], "2 files"),
    ] {
        let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 0).unwrap());
        for (name, content) in &entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, content.as_bytes()).unwrap();
        }
        let archive = tar.into_inner().unwrap().finish().unwrap();
        let error = stoker_core::chain(&read(&archive, &small).unwrap_err());
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
    let mut link = tar::Builder::new(zstd::Encoder::new(Vec::new(), 0).unwrap());
    let mut entry = tar::Header::new_gnu();
    entry.set_entry_type(tar::EntryType::Symlink);
    entry.set_size(0);
    link.append_link(&mut entry, "a", "/etc/passwd").unwrap();
    let mut archive = link.into_inner().unwrap().finish().unwrap();
    archive.flush().unwrap();
    assert!(read(&archive, &small).unwrap_err().to_string().contains("is not a regular file"));
}
