//! What stands where: one scene drawn from (seed, index), the same in every style.

use super::domain::{Content, NEW_CLASSES};
use super::solid::{SOURCE, Shape, Solid};
use super::vector::{Vec3, vec3};
use crate::random::Stream;

/// A scene before it is drawn: solids and hues, nothing of the style.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) class: u32,
    /// One solid, or two.
    pub(super) solids: Vec<Solid>,
    /// Hue of the floor, 0..1.
    pub(super) floor_hue: f32,
    /// Hue of the sky, 0..1.
    pub(super) sky_hue: f32,
    /// Identifies the scene to anything that wants reproducible texture.
    pub(super) grain: u32,
    /// What is to be seen, without the style: "a red cone on a blue floor".
    pub(super) caption: String,
}

/// Hue names and their degrees. Every hue in a scene lies within 8 degrees of one of these, so its name is beyond doubt.
const HUES: [(&str, f32); 8] = [
    ("red", 0.0),
    ("orange", 28.0),
    ("yellow", 52.0),
    ("green", 115.0),
    ("cyan", 180.0),
    ("blue", 220.0),
    ("purple", 272.0),
    ("pink", 322.0),
];

/// How many uniform numbers a scene is made of, whatever its content: so that seeds stay comparable across domains.
const DRAWS: usize = 24;

struct Draws(std::vec::IntoIter<f32>);

impl Draws {
    fn unit(&mut self) -> f32 {
        self.0.next().unwrap_or(0.5)
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.unit() * bound as f32) as usize).min(bound - 1)
    }

    /// A hue in 0..1 and its name.
    fn hue(&mut self) -> (f32, &'static str) {
        let (name, degrees) = HUES[self.below(HUES.len())];
        (
            ((degrees + self.between(-8.0, 8.0)) / 360.0).rem_euclid(1.0),
            name,
        )
    }
}

/// Those of the numbers that say where the first solid stands and how it is turned.
const POSE: std::ops::Range<usize> = 8..11;

/// Draws scene `index`. Classes take turns, so that every run of as many scenes as classes shows each once.
pub(super) fn draw(content: Content, seed: u64, index: u64) -> Scene {
    let numbers = Stream::new(seed, &format!("scene/{index}")).uniforms(DRAWS);
    build(content, index, numbers)
}

/// Draws what scene `index` shows once more, standing elsewhere and turned otherwise: the `number`th such picture of it.
pub(super) fn draw_again(content: Content, seed: u64, index: u64, number: u32) -> Scene {
    let mut numbers = Stream::new(seed, &format!("scene/{index}")).uniforms(DRAWS);
    let pose = Stream::new(seed, &format!("scene/{index}/reference/{number}")).uniforms(POSE.len());
    numbers[POSE].copy_from_slice(&pose);
    build(content, index, numbers)
}

/// The scene that these [`DRAWS`] numbers in 0..1 describe.
fn build(content: Content, index: u64, numbers: Vec<f32>) -> Scene {
    let mut draws = Draws(numbers.into_iter());
    let class = (index % 6) as usize;
    let (hue, hue_name) = draws.hue();
    let (floor_hue, floor_name) = another_hue(&mut draws, hue_name);
    let (sky_hue, _) = draws.hue();
    let grain = (draws.unit() * 16_777_216.0) as u32;
    let size = draws.between(0.0, 1.0);
    let place = vec3(draws.between(-0.62, 0.62), 0.0, draws.between(-0.5, 0.45));
    let turn = draws.between(0.0, std::f32::consts::TAU);
    let value = draws.between(0.9, 1.1);
    let mut scene = Scene {
        class: class as u32,
        solids: Vec::with_capacity(2),
        floor_hue,
        sky_hue,
        grain,
        caption: String::new(),
    };
    let mut put = |mut solid: Solid, hue: f32| {
        (solid.hue, solid.value) = (hue, value);
        scene.solids.push(solid);
    };
    let bulk = match size {
        ..0.33 => "small ",
        0.67.. => "large ",
        _ => "",
    };
    scene.caption = match content {
        Content::Source => {
            let shape = SOURCE[class];
            put(stand(shape, size, 1.0, place, turn), hue);
            format!(
                "a {bulk}{hue_name} {} on a {floor_name} floor",
                shape.name()
            )
        }
        Content::Solids => {
            let name = NEW_CLASSES[class];
            if name == "stack" {
                let (second_hue, second_name) = another_hue(&mut draws, hue_name);
                let below = stand(Shape::Box, size * 0.5, 0.92, place, turn);
                let foot = vec3(
                    below.centre.x,
                    below.centre.y + below.half.y,
                    below.centre.z,
                );
                put(below, hue);
                put(
                    stand(Shape::Sphere, size * 0.5, 0.68, foot, turn),
                    second_hue,
                );
                format!(
                    "a {bulk}{second_name} sphere stacked on a {hue_name} box on a {floor_name} floor"
                )
            } else {
                let shape = [
                    Shape::Capsule,
                    Shape::Star,
                    Shape::Arch,
                    Shape::Arch,
                    Shape::Dome,
                    Shape::Cross,
                ][class];
                // Flat things stay within 35 degrees of facing the camera: edge on, nobody could name them.
                let turn = match shape {
                    Shape::Star | Shape::Arch | Shape::Cross | Shape::Capsule => {
                        (turn / std::f32::consts::PI - 1.0) * 0.6
                    }
                    _ => turn,
                };
                put(stand(shape, size, 1.0, place, turn), hue);
                format!("a {bulk}{hue_name} {name} on a {floor_name} floor")
            }
        }
        Content::Pairs => {
            let (second_hue, second_name) = another_hue(&mut draws, hue_name);
            let shape = SOURCE[class];
            let other = SOURCE[(class + 1 + draws.below(5)) % 6];
            let side = if draws.unit() < 0.5 { -1.0 } else { 1.0 };
            let large = vec3(-side * draws.between(0.45, 0.62), 0.0, place.z * 0.7 - 0.1);
            let small = vec3(
                side * draws.between(0.75, 0.95),
                0.0,
                draws.between(-0.2, 0.6),
            );
            put(stand(shape, size * 0.7, 0.92, large, turn), hue);
            put(
                stand(other, size * 0.7, 0.58, small, turn * 1.7),
                second_hue,
            );
            format!(
                "a large {hue_name} {} and a small {second_name} {} on a {floor_name} floor",
                shape.name(),
                other.name()
            )
        }
    };
    scene
}

/// A hue of another name. Two draws always, so that the count does not depend on the outcome.
fn another_hue(draws: &mut Draws, taken: &str) -> (f32, &'static str) {
    let (first, second) = (draws.below(HUES.len() - 1), draws.between(-8.0, 8.0));
    let others = HUES.iter().filter(|(name, _)| *name != taken);
    let (name, degrees) = others.clone().nth(first).copied().unwrap_or(HUES[0]);
    (((degrees + second) / 360.0).rem_euclid(1.0), name)
}

/// A solid of a size in 0..1 (times `scale`), with its foot at `foot`.
fn stand(shape: Shape, size: f32, scale: f32, foot: Vec3, turn: f32) -> Solid {
    let s = (0.84 + 0.34 * size) * scale;
    let half = match shape {
        Shape::Sphere => vec3(0.68, 0.68, 0.68),
        Shape::Box => vec3(0.58, 0.58, 0.58),
        Shape::Cylinder => vec3(0.46, 0.74, 0.46),
        Shape::Cone => vec3(0.66, 0.82, 0.66),
        Shape::Torus => vec3(0.92, 0.25, 0.92),
        Shape::Pyramid => vec3(0.72, 0.66, 0.72),
        Shape::Capsule => vec3(0.98, 0.38, 0.38),
        Shape::Star => vec3(0.95, 0.95, 0.22),
        Shape::Arch => vec3(0.74, 0.78, 0.32),
        Shape::Dome => vec3(0.84, 0.42, 0.84),
        Shape::Cross => vec3(0.72, 0.9, 0.26),
    };
    Solid::standing(shape, half * s, foot, turn)
}
