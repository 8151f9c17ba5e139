//! The manifest section.

use plugin_api::{
    export::{Export, module},
    manifest::Manifest,
};

use crate::example::Example;

#[test]
fn the_section_says_what_the_plugin_is() {
    let manifest = Manifest::from_section(Example::manifest()).unwrap();
    assert_eq!(
        (manifest.id.as_str(), manifest.summary.as_str()),
        ("example", "Does \"what\" it is told.")
    );
    assert_eq!(manifest.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(
        manifest.slots,
        ["prepare", "batch", "layer", "loss_term", "observe", "state"]
    );
    assert_eq!(manifest.requires, ["lora", "other"]);
    assert!(
        manifest.conflicts.is_empty() && manifest.before.is_empty() && manifest.after.is_empty()
    );
    assert_eq!(
        manifest.settings["properties"]["batch"]["default"],
        "double"
    );
    assert_eq!(
        (
            manifest.abi.major,
            manifest.needs.minor,
            manifest.panic.as_str()
        ),
        (1, 0, "unwind")
    );
}

#[test]
fn the_root_module_and_the_section_agree() {
    let loaded = module::<Example>();
    assert_eq!(
        Manifest::from_json(loaded.manifest().as_str()).unwrap(),
        Manifest::from_section(Example::manifest()).unwrap()
    );
    assert_eq!(
        (loaded.abi_major(), loaded.abi_minor()),
        (plugin_api::abi::ABI_MAJOR, plugin_api::abi::ABI_MINOR)
    );
}

#[test]
fn padding_is_skipped_and_damage_is_named() {
    let section = Example::manifest();
    let padded = [&[0; 7], section, &[0; 9]].concat();
    assert_eq!(
        Manifest::from_section(&padded).unwrap(),
        Manifest::from_section(section).unwrap()
    );
    for cut in [0, 10, 18, section.len() - 1] {
        assert!(Manifest::from_section(&section[..cut]).is_err(), "{cut}");
    }
    let mut broken = section.to_vec();
    broken[20] = b'[';
    assert!(
        Manifest::from_section(&broken)
            .unwrap_err()
            .to_string()
            .starts_with("the manifest is damaged")
    );
}
