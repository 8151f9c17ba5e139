//! From two sets of pictures to their distances: over all of them, and class by class.

use super::Error;
use super::distance::{self, Neighbours, SUBSETS, share};
use super::features::Features;
use super::network::Network;
use super::pictures::Pictures;
use crate::cancel::Cancel;
use crate::report::Progress;
use crate::report::evaluation::{ClassScores, FeatureNetwork, Kernel, Scores};

/// Measures generated pictures against a reference.
///
/// # Errors
/// Too few pictures, a network that gives no finite numbers, or an interruption.
pub fn measure(
    generated: &Pictures,
    reference: &Pictures,
    network: &Network,
    seed: u64,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Scores, Error> {
    // Before the network looks at any of them, which takes long.
    for (what, set) in [("generated", generated), ("reference", reference)] {
        if set.images.len() < LEAST {
            return Err(Error::TooFew {
                what,
                count: set.images.len(),
                least: LEAST,
            });
        }
    }
    let of = |pictures: &Pictures, label: &str| {
        let mut task = progress.count(label, "image", pictures.images.len() as u64);
        let features = network.features(&pictures.images, &mut |done| {
            task.set(done as u64);
            match cancel.requested() {
                true => Err(Error::Interrupted),
                false => Ok(()),
            }
        })?;
        task.finish();
        Ok::<_, Error>(features)
    };
    let reference_features = of(reference, "features of the reference")?;
    let features = of(generated, "features of the images")?;

    let frechet = distance::frechet(&features, &reference_features)?;
    let neighbours = distance::neighbours(&features, &reference_features)?;
    let agrees = agreements(generated, reference, &neighbours);
    let mut scores = Scores {
        network: FeatureNetwork {
            name: network.name().to_owned(),
            source: network.source.clone(),
            sha256: network.sha256.clone(),
            dimensions: network.dimensions() as u64,
        },
        seed,
        frechet: frechet.distance,
        frechet_mean: frechet.mean,
        frechet_covariance: frechet.covariance,
        kernel: kernel(&features, &reference_features, seed)?,
        precision: neighbours.precision(),
        recall: neighbours.recall(),
        neighbours: distance::NEIGHBOURS as u64,
        agreement: agrees.as_deref().map(share),
        classes: Vec::new(),
        notes: notes(&features, &reference_features),
    };
    for name in &reference.names {
        let (ours, theirs) = (generated.of_class(name), reference.of_class(name));
        if ours.len() < LEAST || theirs.len() < LEAST {
            continue;
        }
        scores.classes.push(ClassScores {
            name: name.clone(),
            generated: ours.len() as u64,
            reference: theirs.len() as u64,
            kernel: kernel(
                &features.select(&ours),
                &reference_features.select(&theirs),
                seed,
            )?,
            precision: share(&pick(&neighbours.realistic, &ours)),
            recall: share(&pick(&neighbours.covered, &theirs)),
            agreement: agrees.as_ref().map(|agrees| share(&pick(agrees, &ours))),
        });
    }
    Ok(scores)
}

/// The least number of pictures in a set, and of a class in its table.
const LEAST: usize = 2 * distance::NEIGHBOURS;

fn kernel(features: &Features, reference: &Features, seed: u64) -> Result<Kernel, Error> {
    let kernel = distance::kernel(features, reference, seed)?;
    Ok(Kernel {
        mean: kernel.mean,
        std: kernel.std,
        subsets: SUBSETS as u64,
        subset_size: kernel.subset_size as u64,
    })
}

/// For each generated picture, whether the real one nearest to it is of the class it was asked for; none where the sets share no names of classes.
fn agreements(
    generated: &Pictures,
    reference: &Pictures,
    neighbours: &Neighbours,
) -> Option<Vec<bool>> {
    let shared = generated
        .names
        .iter()
        .any(|name| reference.names.contains(name));
    shared.then(|| {
        let agrees = |(place, &nearest): (usize, &usize)| {
            let asked = generated.class_name(place);
            asked.is_some() && asked == reference.class_name(nearest)
        };
        neighbours.nearest.iter().enumerate().map(agrees).collect()
    })
}

/// What a reader of the numbers must know.
fn notes(features: &Features, reference: &Features) -> Vec<String> {
    let dimensions = features.dimensions();
    let few = |what: &str, count: usize| {
        (count <= dimensions).then(|| {
            format!(
                "{count} {what} images do not fill {dimensions} dimensions, so their covariance is rank-deficient and the Frechet distance too large: \
                 compare it only with distances of as many images, or look at the kernel distance, which is unbiased"
            )
        })
    };
    [
        few("generated", features.count()),
        few("reference", reference.count()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn pick(flags: &[bool], places: &[usize]) -> Vec<bool> {
    places.iter().map(|&place| flags[place]).collect()
}
