//! The looks: how a marched scene becomes colours. Light adds up in linear light; display values are its square root.

use super::domain::Style;
use super::layout::Scene;
use super::lines::{Lines, outlines};
use super::render::{FLOOR, SKY, SOLID, Sample, Samples};
use super::vector::{Vec3, smoothstep, vec3};

/// The flat colours of a scene in a style, and its light.
pub(super) struct Palette {
    /// Base colour of each region: sky, floor, solids.
    pub(super) regions: Vec<Vec3>,
    /// The sky's colour at its top.
    zenith: Vec3,
    key: Vec3,
    ambient: Vec3,
}

/// A hue in 0..1 with saturation and value as display values, in linear light.
fn hsv(hue: f32, saturation: f32, value: f32) -> Vec3 {
    let channel = |offset: f32| {
        let k = (offset + hue * 6.0).rem_euclid(6.0);
        let shown = value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0);
        shown * shown
    };
    vec3(channel(5.0), channel(3.0), channel(1.0))
}

/// Unit direction towards the key light.
pub(super) fn light(style: Style) -> Vec3 {
    match style {
        // Low, from the right and slightly behind: long shadows towards the viewer.
        Style::Dusk => vec3(0.82, 0.42, 0.12).normalized(),
        _ => vec3(-0.55, 0.92, 0.42).normalized(),
    }
}

impl Palette {
    pub(super) fn new(style: Style, scene: &Scene) -> Self {
        let (sky, floor) = (scene.sky_hue, scene.floor_hue);
        let solids = |saturation: f32, value: f32| {
            scene
                .solids
                .iter()
                .map(move |solid| hsv(solid.hue, saturation, (value * solid.value).min(1.0)))
                .collect::<Vec<_>>()
        };
        let white = vec3(1.0, 1.0, 1.0);
        let build = |sky_low, zenith, floor, solids: Vec<Vec3>, key, ambient| Self {
            regions: [vec![sky_low, floor], solids].concat(),
            zenith,
            key,
            ambient,
        };
        match style {
            Style::Studio | Style::Checker => build(
                hsv(sky, 0.26, 0.95),
                hsv(sky, 0.36, 0.88),
                hsv(floor, 0.26, 0.86),
                solids(0.82, 0.95),
                white * 0.88,
                white * 0.32,
            ),
            Style::Dusk => build(
                vec3(0.95, 0.42, 0.16).mix(hsv(sky, 0.6, 0.9), 0.12),
                vec3(0.16, 0.09, 0.30).mix(hsv(sky, 0.6, 0.5), 0.2),
                hsv(floor, 0.22, 0.55),
                solids(0.6, 0.8),
                vec3(1.5, 0.85, 0.42),
                vec3(0.20, 0.22, 0.40),
            ),
            Style::Neon => build(
                vec3(0.004, 0.003, 0.012),
                vec3(0.002, 0.002, 0.006),
                vec3(0.006, 0.004, 0.016),
                solids(0.75, 1.0),
                white,
                white,
            ),
            Style::Sketch => build(
                vec3(0.92, 0.89, 0.80),
                vec3(0.92, 0.89, 0.80),
                vec3(0.90, 0.87, 0.78),
                solids(0.5, 0.9),
                white * 0.8,
                white * 0.3,
            ),
            Style::Poster => {
                let low = hsv(sky, 0.45, 1.0);
                build(
                    low,
                    low,
                    hsv(floor, 0.5, 0.78),
                    solids(0.95, 1.0),
                    white,
                    white,
                )
            }
            Style::Fog => build(
                vec3(0.70, 0.72, 0.74),
                vec3(0.78, 0.80, 0.82),
                hsv(floor, 0.18, 0.62),
                solids(0.75, 0.85),
                white * 0.5,
                white * 0.5,
            ),
        }
    }

    /// The palette's colour of a region, in linear light.
    pub(super) fn flat(&self, region: u8) -> Vec3 {
        self.regions[usize::from(region)]
    }

    fn sky(&self, ray: Vec3) -> Vec3 {
        self.flat(SKY)
            .mix(self.zenith, smoothstep(-0.36, -0.16, ray.y))
    }

    /// A matt surface of the given base colour with a slight gloss.
    fn lit(&self, base: Vec3, sample: &Sample, light: Vec3) -> Vec3 {
        let slope = sample.normal.dot(light).max(0.0);
        let hemisphere = 0.72 + 0.28 * sample.normal.y;
        let shade = self.key * (slope * sample.light) + self.ambient * (hemisphere * sample.open);
        let gloss = if sample.region >= SOLID {
            let half = (light - sample.ray).normalized();
            let peak = sample.normal.dot(half).max(0.0);
            // The 32nd power, by squaring five times.
            let peak = (0..5).fold(peak, |p, _| p * p);
            0.22 * peak * sample.light
        } else {
            0.0
        };
        base.tinted(shade) + self.key * gloss
    }
}

/// Colours every sample, in linear light.
pub(super) fn shade(
    style: Style,
    scene: &Scene,
    palette: &Palette,
    samples: &Samples,
    size: usize,
) -> Vec<Vec3> {
    let light = light(style);
    let each =
        |colour: &dyn Fn(&Sample) -> Vec3| samples.all.iter().map(colour).collect::<Vec<_>>();
    match style {
        Style::Studio | Style::Dusk => each(&|s| match s.region {
            SKY => palette.sky(s.ray),
            region => palette.lit(palette.flat(region), s, light),
        }),
        Style::Checker => each(&|s| match s.region {
            SKY => palette.sky(s.ray),
            region => palette.lit(checkered(scene, palette.flat(region), s), s, light),
        }),
        Style::Fog => each(&|s| {
            let clear = match s.region {
                SKY => return palette.sky(s.ray),
                region => palette.lit(palette.flat(region), s, light),
            };
            let thick = smoothstep(3.6, 8.6, s.depth) * 0.62 + 0.30;
            clear.mix(palette.flat(SKY), thick)
        }),
        Style::Poster => each(&|s| {
            let base = palette.flat(s.region);
            match s.region {
                SKY => base,
                FLOOR if s.light < 0.5 => base * 0.38,
                FLOOR => base,
                _ => match s.normal.dot(light) * s.light {
                    bright if bright > 0.62 => base.mix(vec3(1.0, 1.0, 1.0), 0.3),
                    dark if dark < 0.3 => base * 0.36,
                    _ => base,
                },
            }
        }),
        Style::Neon => neon(palette, samples, size),
        Style::Sketch => sketch(scene, palette, samples, size, light),
    }
}

/// Squares of half a unit on the floor; on a solid, squares of its own frame.
fn checkered(scene: &Scene, base: Vec3, sample: &Sample) -> Vec3 {
    let (odd, other) = if sample.region == FLOOR {
        let cell = |v: f32| (v / 0.62).floor() as i32;
        (
            (cell(sample.point.x) + cell(sample.point.z)) & 1 == 1,
            base * 0.42,
        )
    } else {
        let solid = &scene.solids[usize::from(sample.region - SOLID)];
        let p = solid.local(sample.point);
        // Offset by a fraction of a cell, or flat faces would lie on a boundary and flicker between both colours.
        let cell = |v: f32| (v / 0.36 + 0.5).floor() as i32;
        (
            (cell(p.x) + cell(p.y) + cell(p.z)) & 1 == 1,
            base.mix(vec3(1.0, 1.0, 1.0), 0.72),
        )
    };
    if odd { other } else { base }
}

/// Lines in the solids' colours on near black, with a glow around them.
fn neon(palette: &Palette, samples: &Samples, size: usize) -> Vec<Vec3> {
    let lines = outlines(samples, 0.55, size);
    let side = samples.side;
    let line_colour = |region: u8| match region {
        Lines::NONE => Vec3::default(),
        SKY | FLOOR => vec3(0.05, 0.02, 0.11),
        solid => palette.flat(solid),
    };
    let drawn: Vec<Vec3> = lines
        .regions
        .iter()
        .map(|&region| line_colour(region))
        .collect();
    let glow = blurred(&drawn, side, (side * 3 / 64).max(1));
    samples
        .all
        .iter()
        .zip(drawn.iter().zip(&glow))
        .map(|(sample, (line, glow))| {
            let ground = match sample.region {
                SKY => palette.sky(sample.ray),
                FLOOR => palette.flat(FLOOR) * (0.4 + 0.6 * sample.open),
                solid => palette.flat(solid) * (0.012 + 0.035 * sample.normal.y.max(0.0)),
            };
            ground + *glow * 0.35 + *line
        })
        .collect()
}

/// Two passes of a box blur along each axis.
fn blurred(colours: &[Vec3], side: usize, radius: usize) -> Vec<Vec3> {
    let mut source = colours.to_vec();
    let mut target = vec![Vec3::default(); source.len()];
    let scale = 1.0 / (2 * radius + 1) as f32;
    for _ in 0..4 {
        // Along rows, and written transposed: the next pass then runs along columns.
        for line in 0..side {
            let at = |i: isize| source[line * side + i.clamp(0, side as isize - 1) as usize];
            let mut sum =
                (-(radius as isize)..=radius as isize).fold(Vec3::default(), |sum, i| sum + at(i));
            for i in 0..side {
                target[i * side + line] = sum * scale;
                sum = sum + at((i + radius + 1) as isize) - at(i as isize - radius as isize);
            }
        }
        std::mem::swap(&mut source, &mut target);
    }
    source
}

/// Graphite on paper: outlines, and hatching that thickens with the dark.
fn sketch(
    scene: &Scene,
    palette: &Palette,
    samples: &Samples,
    size: usize,
    light: Vec3,
) -> Vec<Vec3> {
    let lines = outlines(samples, 0.42, size);
    let side = samples.side as f32;
    let graphite = vec3(0.035, 0.035, 0.045);
    let colour = |index: usize, sample: &Sample| {
        let (row, column) = (
            (index / samples.side) as f32 / side,
            (index % samples.side) as f32 / side,
        );
        let paper = palette.flat(FLOOR) * (0.95 + 0.07 * grain(scene.grain, index as u32));
        let dark = match sample.region {
            SKY => 0.0,
            FLOOR => (1.0 - sample.light) * 0.62 + (1.0 - sample.open) * 0.4,
            solid => {
                0.92 - palette
                    .lit(palette.flat(solid), sample, light)
                    .luminance()
                    .sqrt()
                    * 0.95
            }
        };
        // Strokes lean one way; a second set crosses them in the darkest parts. The wobble is a hand's.
        let wobble =
            0.012 * ((row * 19.0 + scene.grain as f32 * 1e-3).sin() + (column * 13.0).sin());
        let stroke = |lean: f32, dark: f32| {
            let across = ((column + row * lean + wobble) * 11.5).rem_euclid(1.0);
            smoothstep(0.12, 0.0, (across - 0.5).abs() - dark * 0.5)
        };
        let hatch = (stroke(1.0, dark.clamp(0.0, 0.9)) * smoothstep(0.04, 0.12, dark) * 0.62)
            .max(stroke(-1.0, (dark - 0.45).clamp(0.0, 0.9)) * smoothstep(0.45, 0.55, dark) * 0.7);
        let tone = (dark * 0.30).clamp(0.0, 0.3);
        let line = match lines.regions[index] {
            Lines::NONE => 0.0,
            SKY | FLOOR => 0.35,
            _ => 0.93,
        };
        paper.mix(graphite, tone.max(hatch).max(line))
    };
    samples
        .all
        .iter()
        .enumerate()
        .map(|(index, sample)| colour(index, sample))
        .collect()
}

/// White noise in 0..1 by a position and a seed.
fn grain(seed: u32, index: u32) -> f32 {
    let mut x = index.wrapping_mul(0x9E37_79B9) ^ seed;
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    (x ^ (x >> 16)) as f32 / u32::MAX as f32
}
