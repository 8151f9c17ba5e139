//! Pictures that belong to a scene and can stand beside it in a batch: its maps, the scene in another style, the same things standing otherwise.

use image::{DynamicImage, GrayImage, Luma, RgbImage};

use super::super::column::{Column, ColumnKind, check_name};
use super::super::{Error, MapKind, Size, export, instead};
use super::domain::{Domain, Style};
use super::{Rendered, Scenes, layout};
use crate::random::Stream;

/// Other pictures of the same things, at most.
const REFERENCES: u32 = 9;

/// A column of the batch and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct SceneColumn {
    pub(super) name: String,
    kind: ColumnKind,
    source: Source,
    /// Whether it was asked for; what was not says nothing about the data.
    asked: bool,
}

/// Where a column of a scene comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A map, as [`export`] draws it.
    Map(MapKind),
    /// The same scene in another style.
    Style(Style),
    /// The same things, standing elsewhere and turned otherwise.
    Reference(u32),
    /// A random rectangle, for holes to fill.
    Hole,
}

impl SceneColumn {
    /// Reads `name` and where it is to come from, for scenes of a domain.
    ///
    /// # Errors
    /// [`Error::ColumnName`], [`Error::NoColumn`], or a domain that is not there or shows other things.
    pub(super) fn parse(name: &str, source: &str, domain: Domain) -> Result<Self, Error> {
        check_name(name)?;
        let parsed = if let Some(other) = source.strip_prefix("domain:") {
            let other = Domain::parse(other)?;
            if other.content != domain.content {
                return Err(Error::OtherContent {
                    name: name.to_owned(),
                    other: other.name(),
                    domain: domain.name(),
                });
            }
            Some(Source::Style(other.style))
        } else if let Some(number) = source.strip_prefix("reference_") {
            let number = number.parse().ok();
            number
                .filter(|number| (1..=REFERENCES).contains(number))
                .map(Source::Reference)
        } else if source == "hole" {
            Some(Source::Hole)
        } else {
            MapKind::from_name(source).map(Source::Map)
        };
        let kind = ColumnKind::of(name, source);
        let measured = match kind {
            ColumnKind::Depth => Some(MapKind::Depth),
            ColumnKind::Normals => Some(MapKind::Normals),
            ColumnKind::Picture | ColumnKind::NormalsPicture | ColumnKind::Mask => None,
        };
        if let (Some(measured), Some(found)) = (measured, parsed)
            && found != Source::Map(measured)
        {
            return Err(Error::OtherMeasure {
                name: name.to_owned(),
                measure: measured.name(),
                source_name: source.to_owned(),
            });
        }
        let Some(parsed) = parsed else {
            let maps = MapKind::ALL.map(MapKind::name);
            let known = maps.into_iter().chain(["hole", "reference_1"]);
            return Err(Error::NoColumn {
                name: name.to_owned(),
                source_name: source.to_owned(),
                place: format!("scenes:{}", domain.name()),
                instead: instead(
                    source,
                    known,
                    &format!(
                        "{}, hole, reference_1 to reference_{REFERENCES}, domain:NAME for the same scene in another style",
                        maps.join(", ")
                    ),
                ),
            });
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
            source: parsed,
            asked: true,
        })
    }

    /// What comes with scenes where nothing is said: their depth and their normals, which cost next to nothing.
    pub(super) fn unasked() -> Vec<Self> {
        let measured = [
            (MapKind::Depth, ColumnKind::Depth),
            (MapKind::Normals, ColumnKind::Normals),
        ];
        let column = |(map, kind): (MapKind, ColumnKind)| Self {
            name: map.name().to_owned(),
            kind,
            source: Source::Map(map),
            asked: false,
        };
        measured.map(column).into()
    }
}

impl Scenes {
    /// The columns' part of the fingerprint.
    pub(super) fn columns_named(&self) -> String {
        let one = |column: &SceneColumn| format!(":{}={:?}", column.name, column.source);
        (self.columns.iter())
            .filter(|column| column.asked)
            .map(one)
            .collect()
    }

    /// One column of scene `index`, of which the maps are there if any column wants them.
    pub(super) fn column(&self, column: &SceneColumn, index: usize, scene: &Rendered) -> Column {
        let rgb = |rgb: Vec<u8>| {
            let side = self.size as u32;
            RgbImage::from_raw(side, side, rgb).map(DynamicImage::from)
        };
        let picture = match column.source {
            Source::Map(kind) => scene.maps.get(&kind).map(|map| match column.kind {
                ColumnKind::Depth => export::levels(map, self.size).into(),
                _ => export::picture(kind, map, self.size),
            }),
            Source::Style(style) => {
                let other = Domain {
                    style,
                    ..self.domain
                };
                let same = layout::draw(self.domain.content, self.seed, index as u64);
                rgb(self.drawn(other, same, &[]).rgb)
            }
            Source::Reference(number) => {
                let other =
                    layout::draw_again(self.domain.content, self.seed, index as u64, number);
                rgb(self.drawn(self.domain, other, &[]).rgb)
            }
            Source::Hole => Some(hole(self.seed, index as u64, self.size).into()),
        };
        // A picture of the scene's own size is never missing; an empty one would be refused when batches are made.
        let picture = picture.unwrap_or_default();
        // What a scene shows nowhere (it may be sky alone) is known nowhere.
        let blank = || vec![0; column.kind.pixel_bytes() * self.size * self.size];
        let bytes = column.kind.cropped(picture, Size::square(self.size));
        column.kind.column(&bytes.unwrap_or_else(|_| blank()))
    }

    /// The maps that columns are drawn from.
    pub(super) fn column_maps(&self) -> Vec<MapKind> {
        let map = |column: &SceneColumn| match column.source {
            Source::Map(kind) => Some(kind),
            _ => None,
        };
        self.columns.iter().filter_map(map).collect()
    }
}

/// White where a rectangle lies whose sides are a third to two thirds of the picture's, else black.
fn hole(seed: u64, index: u64, size: usize) -> GrayImage {
    let draws = Stream::new(seed, &format!("scene/{index}/hole")).uniforms(4);
    let span = |extent: f32, place: f32| {
        let length = ((extent + 1.0) / 3.0 * size as f32).round() as u32;
        let first = (place * (size as u32 - length) as f32).round() as u32;
        first..first + length
    };
    let (across, down) = (span(draws[0], draws[1]), span(draws[2], draws[3]));
    GrayImage::from_fn(size as u32, size as u32, |x, y| {
        Luma([255 * u8::from(across.contains(&x) && down.contains(&y))])
    })
}
