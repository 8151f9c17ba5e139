//! Kills, full disks and leftovers: whatever happens, what was saved before stays whole.

#![allow(clippy::unwrap_used)]

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn writing_replaces_the_file_and_leaves_no_temporary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deeper/state.json");
    write_atomic(&path, b"one").unwrap();
    write_atomic(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(path.parent().unwrap()), ["state.json"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_keeps_the_old_file_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    write_atomic(&path, b"good").unwrap();
    let error = write_atomic_with(&path, |writer| {
        writer.write_all(&[0; 100_000])?;
        // The kernel's own ENOSPC, as a write to a full disk returns it.
        OpenOptions::new()
            .write(true)
            .open("/dev/full")?
            .write_all(b"more")
    })
    .unwrap_err();
    assert!(error.is_disk_full());
    let text = error.to_string();
    assert!(
        text.contains("model.safetensors") && text.contains("disk is full"),
        "{text}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"good");
    assert_eq!(names(dir.path()), ["model.safetensors"]);
}

#[test]
fn a_failed_checkpoint_leaves_the_previous_one_whole() {
    let dir = tempfile::tempdir().unwrap();
    let step = dir.path().join("step-100");
    publish_dir::<_, Error>(&step, |tmp| write_atomic(&tmp.join("a"), b"1")).unwrap();
    let error = publish_dir::<(), Error>(&step, |tmp| {
        write_atomic(&tmp.join("a"), b"2")?;
        Err(Error::io(
            "write",
            tmp.join("b"),
            io::ErrorKind::StorageFull.into(),
        ))
    })
    .unwrap_err();
    assert!(error.is_disk_full());
    assert_eq!(fs::read(step.join("a")).unwrap(), b"1");
    assert_eq!(names(dir.path()), ["step-100"]);
}

#[test]
fn a_published_folder_replaces_the_old_one_entirely() {
    let dir = tempfile::tempdir().unwrap();
    let step = dir.path().join("step-100");
    publish_dir::<_, Error>(&step, |tmp| write_atomic(&tmp.join("only_in_old"), b"1")).unwrap();
    let answer = publish_dir::<_, Error>(&step, |tmp| {
        write_atomic(&tmp.join("nested/new"), b"2")?;
        assert!(
            !step.join("nested").exists(),
            "nothing may show before it is complete"
        );
        Ok(7)
    })
    .unwrap();
    assert_eq!(answer, 7);
    assert_eq!(names(&step), ["nested"]);
    assert_eq!(names(dir.path()), ["step-100"]);
}

#[test]
fn recovery_removes_leftovers_and_restores_a_folder_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        ".tmp-step-3-1-0",
        ".old-step-1",
        ".old-step-2",
        "step-2",
        "unrelated",
    ] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join(".old-step-1/a"), b"kept").unwrap();
    assert_eq!(recover(dir.path()).unwrap().len(), 3);
    assert_eq!(names(dir.path()), ["step-1", "step-2", "unrelated"]);
    assert_eq!(fs::read(dir.path().join("step-1/a")).unwrap(), b"kept");
    assert!(recover(&dir.path().join("missing")).unwrap().is_empty());
}

#[test]
fn a_path_without_a_name_is_refused() {
    assert!(matches!(
        write_atomic(Path::new("/"), b""),
        Err(Error::NoName { .. })
    ));
}
