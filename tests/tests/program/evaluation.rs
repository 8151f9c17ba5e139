//! `host eval`: the numbers of a run, of a backbone and of a folder, that they repeat, and what is refused before anything is drawn.

use integration_tests::Lab;
use serde_json::Value;

/// Draws little, in one step, with the embedded backbone.
const QUICK: &str =
    "eval --count 36 --steps 1 --guidance 1 --batch-size 18 --reference-count 60 --json";

#[track_caller]
fn number(evaluation: &Value, key: &str) -> f64 {
    let value = evaluation.pointer(key).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {key} of {evaluation:#}"))
}

#[test]
fn the_same_seed_gives_the_same_numbers_on_any_number_of_threads() {
    let lab = Lab::new();
    let of = |further: &str| {
        let told = lab.host(&format!("{QUICK} {further}")).done().json();
        told["evaluation"].clone()
    };
    let first = of("--threads 1 --out one");
    assert_eq!(first, of("--threads 3"));
    let saved = lab.json("one/eval.json");
    assert_eq!(saved, first, "what is printed is what is saved");
    let other = of("--threads 3 --seed 5");
    assert_ne!(number(&first, "/frechet"), number(&other, "/frechet"));

    assert_eq!(number(&first, "/generated/count"), 36.0);
    assert_eq!(number(&first, "/reference/count"), 60.0);
    assert!(number(&first, "/frechet") > number(&first, "/frechet_mean"));
    assert!(number(&first, "/kernel/mean") > 0.0);
    let note = first["notes"][0].as_str().unwrap();
    assert!(
        note.contains("36 generated images do not fill 128"),
        "{note}"
    );
    let classes = first["classes"].as_array().unwrap();
    let names: Vec<_> = classes
        .iter()
        .map(|class| class["name"].as_str().unwrap())
        .collect();
    let all = ["sphere", "box", "cylinder", "cone", "torus", "pyramid"];
    assert_eq!(names, all);
    for class in classes {
        assert_eq!(number(class, "/generated"), 6.0);
        assert_eq!(number(class, "/reference"), 10.0);
    }
}

#[test]
fn a_runs_evaluation_lies_in_its_folder_and_on_its_page() {
    let lab = Lab::new();
    lab.train("--steps 2 --checkpoint-every 1 --out run").done();
    let quick = "eval --run run --reference pictures --count 8 --steps 2";
    let told = lab.host(quick).done();
    assert!(told.stdout.contains("Frechet distance"), "{}", told.told());
    assert!(told.stderr.contains("rank-deficient"), "{}", told.told());
    let newest = lab.json("run/eval.json");
    assert_eq!(number(&newest, "/generated/step"), 2.0);
    assert_eq!(newest["generated"]["averaged"], true);
    let page = std::fs::read_to_string(lab.path("run/report.html")).unwrap();
    assert!(page.contains("id=\"evaluation\""));
    assert!(page.contains("8 images of run after 2 steps"));

    lab.host(&format!("{quick} --checkpoint 1 --no-ema --out first"))
        .done();
    let first = lab.json("first/eval.json");
    assert_eq!(number(&first, "/generated/step"), 1.0);
    assert_ne!(number(&first, "/frechet"), number(&newest, "/frechet"));
    assert_eq!(
        lab.json("run/eval.json"),
        newest,
        "--out leaves the run alone"
    );

    // Without a reference it is the run's own data, which for a folder is what it was trained on.
    let told = lab.host("eval --run run --count 8 --steps 1").done();
    assert!(told.stderr.contains("was trained on"), "{}", told.told());
}

#[test]
fn a_folder_is_at_no_distance_from_itself_and_farther_from_others() {
    let lab = Lab::new();
    for (domain, out) in [("solids", "same"), ("solids+neon", "other")] {
        let export = "--count 60 --seed 4";
        lab.host(&format!("data export scenes:{domain} --out {out} {export}"))
            .done();
    }
    let of = |images: &str, reference: &str| {
        let told = lab.host(&format!(
            "eval --images {images} --reference {reference} --json"
        ));
        told.done().json()["evaluation"].clone()
    };
    let same = of("same", "same");
    assert!(number(&same, "/frechet").abs() < 1e-6);
    for key in ["/precision", "/recall", "/agreement"] {
        assert_eq!(number(&same, key), 1.0, "{key}");
    }
    assert_eq!(same["classes"].as_array().unwrap().len(), 6);
    let other = of("other", "same");
    assert!(number(&other, "/frechet") > 1.0, "{other:#}");
    assert!(number(&other, "/kernel/mean") > 5.0 * number(&other, "/kernel/std"));
    assert_eq!(number(&other, "/precision"), 0.0);
    // Other scenes of the domain: near, though not the same.
    let fresh = of("same", "scenes:solids --reference-count 120");
    assert!(number(&fresh, "/frechet") < 0.5 * number(&other, "/frechet"));
    assert!(number(&fresh, "/agreement") > 0.8);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_drawn() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("empty")).unwrap();
    lab.write("words.safetensors", "not a network");
    let refused = |arguments: &str, parts: &[&str]| {
        lab.host(&format!("eval {arguments}")).refused(2, parts);
    };
    refused(
        "--images empty --reference pictures",
        &["no images in", "empty"],
    );
    refused(
        "--images pictures",
        &["nothing says what to compare with", "--reference"],
    );
    refused(
        "--images pictures --count 3 --reference pictures",
        &["3 generated images are too few"],
    );
    refused("--count 2 --steps 1", &["2 generated images are too few"]);
    refused("--count 0", &["--count is 0"]);
    refused("--reference scenes:solid", &["did you mean `solids`?"]);
    refused("--reference empty", &["no images in"]);
    refused(
        "--features words.safetensors",
        &["words.safetensors", "no safetensors file"],
    );
    refused("--features nowhere.safetensors", &["nowhere.safetensors"]);
    refused(
        "--features tiny/transformer/diffusion_pytorch_model.safetensors",
        &["no feature network that this host knows"],
    );
    refused(
        "--reference-seed 0",
        &["trained on", "studio", "--reference-seed"],
    );
    refused("--run empty", &["no run folder"]);
    refused("--backbone tiny --count 8", &["--reference"]);
}

#[test]
fn a_classifier_is_trained_by_a_recipe_and_measures() {
    let lab = Lab::new();
    lab.write(
        "recipe.toml",
        "[classifier]\nscenes = 100\ntest_scenes = 20\nsteps = 2\nbatch_size = 4\n",
    );
    let told = lab.host("pretrain --config recipe.toml --out made").done();
    assert!(told.stdout.contains("of 20 test scenes"), "{}", told.told());
    assert!(lab.path("made/recipe.toml").is_file());
    let eval = "eval --images pictures --reference pictures --json";
    let told = lab.host(&format!(
        "{eval} --features made/scene_classifier.safetensors"
    ));
    let own = told.done().json();
    let embedded = lab.host(eval).done().json();
    let hash = |told: &Value| told["evaluation"]["network"]["sha256"].clone();
    assert_ne!(hash(&own), hash(&embedded));

    lab.host("pretrain --config recipe.toml --out made")
        .refused(2, &["exists already"]);
    lab.host("pretrain --config recipe.toml --resume --out made")
        .refused(2, &["cannot be resumed"]);
    lab.host("pretrain --config recipe.toml --set classifier.lr=0 --out no")
        .refused(2, &["classifier.lr", "above 0"]);
    lab.host("pretrain --config recipe.toml --set classifier.rate=1 --out no")
        .refused(2, &["rate"]);
}
