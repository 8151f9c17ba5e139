//! The boundary's surface against its committed listing.

use std::{collections::BTreeSet, fs, path::Path};

use plugin_api::{abi::ABI_MINOR, listing, ops, services, slots};

/// After a change that is meant: `UPDATE_ABI=1 cargo test -p plugin-api --test api listing`, and look at the difference. Lines may be
/// added (with the next `ABI_MINOR`); a line that changes or goes breaks every plugin file there is.
#[test]
#[cfg(target_pointer_width = "64")]
fn the_boundary_is_as_listed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("abi.txt");
    let now = listing::text();
    if std::env::var_os("UPDATE_ABI").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap();
    for (number, (now, listed)) in now.lines().zip(listed.lines()).enumerate() {
        assert_eq!(now, listed, "abi.txt, line {}", number + 1);
    }
    assert_eq!(
        now.lines().count(),
        listed.lines().count(),
        "abi.txt has another number of lines"
    );
}

#[test]
fn codes_are_unique_and_no_newer_than_the_boundary() {
    let operations: BTreeSet<_> = ops::ALL.iter().map(|op| (op.code, op.revision)).collect();
    assert_eq!(operations.len(), ops::ALL.len());
    let slot_codes: BTreeSet<_> = slots::ALL.iter().map(|slot| slot.code).collect();
    let slot_names: BTreeSet<_> = slots::ALL.iter().map(|slot| slot.name).collect();
    assert_eq!(
        (slot_codes.len(), slot_names.len()),
        (slots::ALL.len(), slots::ALL.len())
    );
    let service_codes: BTreeSet<_> = services::ALL.iter().map(|service| service.code).collect();
    assert_eq!(service_codes.len(), services::ALL.len());
    let since = ops::ALL
        .iter()
        .map(|op| op.since)
        .chain(slots::ALL.iter().map(|slot| slot.since));
    let newest = since
        .chain(services::ALL.iter().map(|service| service.since))
        .max();
    assert_eq!(
        newest,
        Some(ABI_MINOR),
        "the boundary's minor is the newest thing's"
    );
}
