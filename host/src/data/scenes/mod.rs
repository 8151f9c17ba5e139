//! Procedural scenes of lit solids: data that is always at hand, in several visual domains, with exact maps.
//!
//! A scene is drawn from (seed, index) alone and marched once; the same march gives the picture and every map.
//! The same seed and index in two styles show the same geometry, so the two pictures are a pair.

mod column;
mod domain;
mod layout;
mod lines;
mod mixed;
mod render;
mod solid;
mod style;
#[cfg(test)]
mod tests;
mod vector;

use std::collections::BTreeMap;

pub use domain::{Content, DOMAINS, Domain, Style};
pub use mixed::Mixed;
pub use render::FAR;

use super::{DataOptions, Dataset, Error, Item, Map, MapKind, Size};
use column::SceneColumn;
use layout::Scene;
use render::{Camera, FLOOR, SAMPLES, SKY, SOLID, Samples};
use style::Palette;
use vector::Vec3;

/// Changes whenever the same (seed, index) would give another picture, so that caches keyed by the fingerprint are not reused.
const VERSION: u32 = 1;

/// How many scenes a dataset has where the options do not say.
pub const DEFAULT_COUNT: usize = 50_000;

/// A dataset of rendered scenes. Items are rendered when asked for, in well under a millisecond at 32x32.
#[derive(Clone, Debug)]
pub struct Scenes {
    domain: Domain,
    classes: Vec<String>,
    size: usize,
    seed: u64,
    count: usize,
    flip: bool,
    maps: Vec<MapKind>,
    columns: Vec<SceneColumn>,
}

impl Scenes {
    /// A dataset of a domain; `size`, `seed`, `count`, `flip`, `maps` and `columns` come from the options.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a size outside 8..=2048 or a count of 0; what is wrong with a column.
    pub fn new(domain: Domain, options: &DataOptions) -> Result<Self, Error> {
        let count = options.count.unwrap_or(DEFAULT_COUNT);
        if count == 0 {
            return Err(Error::OutOfRange {
                setting: "count",
                value: "0".to_owned(),
                expected: "at least 1",
            });
        }
        super::check_size(options.size)?;
        let asked = |columns: &BTreeMap<String, String>| {
            (columns.iter())
                .map(|(name, source)| SceneColumn::parse(name, source, domain))
                .collect::<Result<_, Error>>()
        };
        let columns = match &options.columns {
            Some(columns) => asked(columns)?,
            None => SceneColumn::unasked(),
        };
        Ok(Self {
            domain,
            classes: domain.content.classes(),
            size: options.size,
            seed: options.seed,
            count,
            flip: options.flip,
            maps: options.maps.clone(),
            columns,
        })
    }

    /// Renders a scene as a domain has it: the picture as RGB bytes, row by row, and these maps.
    fn drawn(&self, domain: Domain, scene: Scene, maps: &[MapKind]) -> Rendered {
        let camera = Camera::new();
        let style = domain.style;
        let samples = render::march(&scene, &camera, style::light(style), self.size);
        let palette = Palette::new(style, &scene);
        let colours = style::shade(style, &scene, &palette, &samples, self.size);
        let rgb = resolve(&colours, self.size);
        let maps = maps
            .iter()
            .map(|&kind| {
                (
                    kind,
                    map(kind, &scene, &camera, &palette, &samples, self.size),
                )
            })
            .collect();
        Rendered { scene, rgb, maps }
    }
}

struct Rendered {
    scene: Scene,
    rgb: Vec<u8>,
    maps: BTreeMap<MapKind, Map>,
}

impl Dataset for Scenes {
    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, index: usize) -> Result<Item, Error> {
        let scene = layout::draw(self.domain.content, self.seed, index as u64);
        let wanted = [self.maps.clone(), self.column_maps()].concat();
        let mut rendered = self.drawn(self.domain, scene, &wanted);
        let columns = self
            .columns
            .iter()
            .map(|column| (column.name.clone(), self.column(column, index, &rendered)))
            .collect();
        rendered.maps.retain(|kind, _| self.maps.contains(kind));
        let Rendered { scene, rgb, maps } = rendered;
        Ok(Item {
            image: super::transform::planes(&rgb, 3),
            size: Size::square(self.size),
            origin: None,
            class: Some(scene.class),
            caption: Some(captioned(self.domain.style, &scene.caption)),
            name: format!("{}/{index:06}", self.domain.name()),
            maps,
            columns,
        })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        format!(
            "{} rendered scenes ({}, seed {})",
            self.count,
            self.domain.name(),
            self.seed
        )
    }

    fn fingerprint(&self) -> String {
        format!(
            "scenes-v{VERSION}:{}:seed{}:count{}:size{}{}",
            self.domain.name(),
            self.seed,
            self.count,
            self.size,
            self.columns_named()
        )
    }

    fn size(&self) -> usize {
        self.size
    }

    fn flips(&self) -> bool {
        self.flip
    }

    fn columns(&self) -> Vec<String> {
        self.columns
            .iter()
            .map(|column| column.name.clone())
            .collect()
    }
}

/// A caption that also names the style, where it is not the source's.
fn captioned(style: Style, what: &str) -> String {
    match style {
        Style::Studio => what.to_owned(),
        Style::Dusk => format!("{what} at dusk"),
        Style::Neon => format!("{what}, in neon lines"),
        Style::Sketch => format!("a pencil sketch of {what}"),
        Style::Poster => format!("a flat poster of {what}"),
        Style::Checker => format!("{what}, checkered"),
        Style::Fog => format!("{what} in fog"),
    }
}

/// Averages the samples of each pixel in linear light, and encodes for display.
fn resolve(colours: &[Vec3], size: usize) -> Vec<u8> {
    let side = size * SAMPLES;
    let mut rgb = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        for x in 0..size {
            let mut sum = Vec3::default();
            for row in y * SAMPLES..(y + 1) * SAMPLES {
                for colour in &colours[row * side + x * SAMPLES..row * side + (x + 1) * SAMPLES] {
                    // Clipped before averaging: an overbright highlight would otherwise eat its neighbours' edge.
                    sum = sum + colour.map(|v| v.clamp(0.0, 1.0));
                }
            }
            let mean = sum * (1.0 / (SAMPLES * SAMPLES) as f32);
            let shown = mean.map(f32::sqrt) * 255.0;
            rgb.extend([
                shown.x.round() as u8,
                shown.y.round() as u8,
                shown.z.round() as u8,
            ]);
        }
    }
    rgb
}

fn map(
    kind: MapKind,
    scene: &Scene,
    camera: &Camera,
    palette: &Palette,
    samples: &Samples,
    size: usize,
) -> Map {
    let middle = |index: usize| {
        let (row, column) = (
            index / size * SAMPLES + SAMPLES / 2,
            index % size * SAMPLES + SAMPLES / 2,
        );
        &samples.all[row * samples.side + column]
    };
    let pixels = 0..size * size;
    let values = match kind {
        MapKind::Depth => pixels.map(|i| middle(i).depth).collect(),
        MapKind::Normals => {
            let normals: Vec<Vec3> = pixels.map(|i| camera.view(middle(i).normal)).collect();
            split(&normals)
        }
        MapKind::Mask => pixels
            .map(|i| f32::from(u8::from(middle(i).region >= SOLID)))
            .collect(),
        MapKind::Segmentation => pixels
            .map(|i| match middle(i).region {
                region @ (SKY | FLOOR) => f32::from(region),
                solid => {
                    f32::from(SOLID) + scene.solids[usize::from(solid - SOLID)].shape as u8 as f32
                }
            })
            .collect(),
        MapKind::Edges => {
            let lines = lines::outlines(samples, 0.42, size);
            let covered = |i: usize| {
                let (row, column) = (i / size * SAMPLES, i % size * SAMPLES);
                let hits = (row..row + SAMPLES)
                    .flat_map(|r| (column..column + SAMPLES).map(move |c| r * samples.side + c))
                    .filter(|&at| lines.regions[at] != lines::Lines::NONE)
                    .count();
                hits as f32 / (SAMPLES * SAMPLES) as f32
            };
            pixels.map(covered).collect()
        }
        MapKind::Fill => {
            let colours: Vec<Vec3> = pixels
                .map(|i| {
                    palette
                        .flat(middle(i).region)
                        .map(|v| v.clamp(0.0, 1.0).sqrt())
                })
                .collect();
            split(&colours)
        }
    };
    Map {
        channels: kind.channels(),
        values,
    }
}

/// Three planes, one a component.
fn split(vectors: &[Vec3]) -> Vec<f32> {
    let plane = |f: fn(&Vec3) -> f32| vectors.iter().map(f);
    plane(|v| v.x)
        .chain(plane(|v| v.y))
        .chain(plane(|v| v.z))
        .collect()
}
