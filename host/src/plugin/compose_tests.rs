//! The composition algebra: modes, order, requirements, and the sentences for what does not compose.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::plugin::manifest::tests::manifest;

fn choice(id: &str, slots: &[&str]) -> Choice {
    Choice::new(manifest(id, slots))
}

fn before(mut choice: Choice, names: &[&str]) -> Choice {
    choice.manifest.before = names.iter().map(|&name| name.into()).collect();
    choice
}

fn after(mut choice: Choice, names: &[&str]) -> Choice {
    choice.manifest.after = names.iter().map(|&name| name.into()).collect();
    choice
}

fn names(composition: &Composition) -> Vec<&str> {
    composition
        .plugins
        .iter()
        .map(|member| member.name.as_str())
        .collect()
}

fn diff_tuning() -> Choice {
    choice(
        "diff_tuning",
        &["prepare", "batch", "timesteps", "loss_weight"],
    )
}

fn e2e_ft() -> Choice {
    choice(
        "e2e_ft",
        &[
            "batch",
            "timesteps",
            "noise",
            "denoiser_input",
            "objective",
            "output",
        ],
    )
}

fn one_pic() -> Choice {
    choice(
        "one_pic",
        &["batch", "noise_mask", "sample_begin", "sample_step"],
    )
}

fn lora() -> Choice {
    choice("lora", &["prepare", "layer"])
}

fn controlnet() -> Choice {
    choice("controlnet", &["prepare", "residuals"])
}

#[test]
fn combinations_the_design_promises_compose() {
    let mut second_lora = lora();
    second_lora.alias = Some("style".into());
    for choices in [
        vec![lora(), diff_tuning()],
        vec![lora(), one_pic()],
        vec![one_pic(), diff_tuning(), lora()],
        vec![controlnet(), diff_tuning()],
        vec![e2e_ft(), lora()],
        vec![lora(), second_lora],
    ] {
        let composition = compose(&choices).unwrap();
        assert_eq!(composition.plugins.len(), choices.len());
    }
}

#[test]
fn slots_list_their_plugins_in_order_and_empty_slots_their_default() {
    let composition = compose(&[one_pic(), diff_tuning(), lora()]).unwrap();
    assert_eq!(composition.at(Slot::Batch), ["one_pic", "diff_tuning"]);
    assert_eq!(composition.at(Slot::Prepare), ["diff_tuning", "lora"]);
    assert_eq!(composition.at(Slot::Noise), [] as [&str; 0]);
    let table = composition.to_string();
    assert!(
        table.contains("batch           chain      one_pic -> diff_tuning\n"),
        "{table}"
    );
    assert!(
        table.contains("noise           exclusive  (standard normal)\n"),
        "{table}"
    );
}

#[test]
fn two_on_an_exclusive_slot_names_both_the_slot_and_the_way_out() {
    let error = compose(&[diff_tuning(), e2e_ft()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`diff_tuning` and `e2e_ft` both take the exclusive slot `timesteps`, which only one plugin can hold: \
         drop one of them, or keep `e2e_ft` out of that slot with `--set e2e_ft.without=timesteps`"
    );
}

#[test]
fn the_way_out_of_an_exclusive_conflict_works() {
    let mut e2e_ft = e2e_ft();
    e2e_ft.without = vec!["timesteps".into()];
    let composition = compose(&[diff_tuning(), e2e_ft]).unwrap();
    assert_eq!(composition.at(Slot::Timesteps), ["diff_tuning"]);
}

#[test]
fn without_names_only_slots_the_plugin_takes() {
    let mut lora = lora();
    lora.without = vec!["timesteps".into()];
    assert_eq!(
        compose(&[lora]).unwrap_err().to_string(),
        "`lora.without` names `timesteps`, but that plugin takes `prepare`, `layer`"
    );
}

#[test]
fn the_same_plugin_twice_needs_an_alias() {
    let error = compose(&[lora(), lora()]).unwrap_err();
    assert_eq!(
        error,
        Error::SameName {
            name: "lora".into(),
            id: "lora".into()
        }
    );
}

#[test]
fn an_alias_that_is_another_plugins_id_is_refused() {
    let mut impostor = lora();
    impostor.alias = Some("diff_tuning".into());
    assert!(matches!(
        compose(&[diff_tuning(), impostor]),
        Err(Error::SameName { .. })
    ));
}

#[test]
fn a_missing_requirement_is_named() {
    let mut needy = lora();
    needy.manifest.requires = vec!["controlnet".into()];
    assert_eq!(
        compose(std::slice::from_ref(&needy))
            .unwrap_err()
            .to_string(),
        "`lora` requires the plugin `controlnet`, which is not chosen: add `--plugin controlnet`"
    );
    compose(&[needy, controlnet()]).unwrap();
}

#[test]
fn a_declared_conflict_is_named_whoever_comes_first() {
    let mut hostile = lora();
    hostile.manifest.conflicts = vec!["controlnet".into()];
    for choices in [[hostile.clone(), controlnet()], [controlnet(), hostile]] {
        assert_eq!(
            compose(&choices).unwrap_err(),
            Error::Conflicts {
                plugin: "lora".into(),
                with: "controlnet".into()
            }
        );
    }
}

#[test]
fn a_slot_from_a_newer_host_is_named() {
    assert_eq!(
        compose(&[choice("x", &["quantise"])]).unwrap_err(),
        Error::UnknownSlot {
            plugin: "x".into(),
            slot: "quantise".into()
        }
    );
}

#[test]
fn before_and_after_move_only_what_they_must() {
    let choices = [
        after(choice("a", &["batch"]), &["d"]),
        choice("b", &["batch"]),
        choice("c", &["batch"]),
        choice("d", &["batch"]),
        before(choice("e", &["batch"]), &["b"]),
    ];
    let composition = compose(&choices).unwrap();
    assert_eq!(names(&composition), ["c", "d", "a", "e", "b"]);
    assert_eq!(composition.at(Slot::Batch), ["c", "d", "a", "e", "b"]);
}

#[test]
fn order_declarations_about_absent_plugins_bind_nothing() {
    let composition = compose(&[after(lora(), &["one_pic"]), before(diff_tuning(), &["x"])]);
    assert_eq!(names(&composition.unwrap()), ["lora", "diff_tuning"]);
}

#[test]
fn a_circle_is_told_in_its_order() {
    let choices = [
        choice("z", &[]),
        before(choice("a", &[]), &["b"]),
        before(choice("b", &[]), &["c"]),
        before(choice("c", &[]), &["a"]),
    ];
    let error = compose(&choices).unwrap_err();
    let Error::Cycle { cycle } = &error else {
        panic!("{error}")
    };
    assert_eq!(cycle.len(), 4);
    assert_eq!(cycle.first(), cycle.last());
    let told = error.to_string();
    assert!(
        ["`a` before `b`", "`b` before `c`", "`c` before `a`"]
            .iter()
            .filter(|part| told.contains(*part))
            .count()
            >= 2,
        "{told}"
    );
    assert!(!told.contains('z'), "{told}");
}

#[test]
fn a_composition_survives_json() {
    let composition = compose(&[one_pic(), diff_tuning(), lora()]).unwrap();
    let json = serde_json::to_string(&composition).unwrap();
    assert_eq!(
        serde_json::from_str::<Composition>(&json).unwrap(),
        composition
    );
}

proptest! {
    /// A chain of declarations leaves one order, whichever way round the plugins were chosen.
    #[test]
    fn declared_order_does_not_depend_on_the_order_chosen(
        shuffled in Just((0..7usize).collect::<Vec<_>>()).prop_shuffle(),
        as_before in proptest::collection::vec(any::<bool>(), 6),
    ) {
        let mut choices: Vec<Choice> = (0..7).map(|i| choice(&format!("p{i}"), &["batch"])).collect();
        for (i, &as_before) in as_before.iter().enumerate() {
            if as_before {
                choices[i].manifest.before.push(format!("p{}", i + 1));
            } else {
                choices[i + 1].manifest.after.push(format!("p{i}"));
            }
        }
        let chosen: Vec<Choice> = shuffled.iter().map(|&i| choices[i].clone()).collect();
        let composition = compose(&chosen).unwrap();
        prop_assert_eq!(names(&composition), ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]);
    }

    /// Any declarations without a circle are obeyed, and plugins not bound to each other by any of them keep the order chosen
    /// when nothing is declared at all.
    #[test]
    fn acyclic_declarations_are_obeyed(edges in proptest::collection::vec((0..6usize, 0..6usize), 0..12),
                                       shuffled in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut choices: Vec<Choice> = (0..6).map(|i| choice(&format!("p{i}"), &["batch"])).collect();
        let edges: Vec<(usize, usize)> = edges.into_iter().filter(|(a, b)| a < b).collect();
        for &(a, b) in &edges {
            choices[a].manifest.before.push(format!("p{b}"));
        }
        let chosen: Vec<Choice> = shuffled.iter().map(|&i| choices[i].clone()).collect();
        let composition = compose(&chosen).unwrap();
        let order = names(&composition);
        let place = |i: usize| order.iter().position(|name| *name == format!("p{i}")).unwrap();
        for &(a, b) in &edges {
            prop_assert!(place(a) < place(b));
        }
        if edges.is_empty() {
            let expected: Vec<String> = shuffled.iter().map(|i| format!("p{i}")).collect();
            prop_assert_eq!(order, expected);
        }
    }
}
