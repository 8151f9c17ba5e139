//! Outlines and creases, found where neighbouring samples show different things.

use super::render::{FLOOR, SAMPLES, SKY, SOLID, Sample, Samples};

/// Which samples a line covers, and whose line it is.
pub(super) struct Lines {
    /// Per sample: the region whose line covers it, or [`Lines::NONE`].
    pub(super) regions: Vec<u8>,
}

impl Lines {
    pub(super) const NONE: u8 = u8::MAX;
}

/// Draws lines of half width `radius`, in pixels of a 32-pixel picture, wherever an edge is.
pub(super) fn outlines(samples: &Samples, radius: f32, size: usize) -> Lines {
    let side = samples.side;
    let radius = radius * SAMPLES as f32 * size as f32 / 32.0;
    let reach = radius.ceil() as isize;
    let disc: Vec<(isize, isize)> = (-reach..=reach)
        .flat_map(|dy| (-reach..=reach).map(move |dx| (dx, dy)))
        .filter(|(dx, dy)| ((dx * dx + dy * dy) as f32) <= radius * radius)
        .collect();
    let mut regions = vec![Lines::NONE; samples.all.len()];
    let mut draw = |x: usize, y: usize, region: u8| {
        for (dx, dy) in &disc {
            let (column, row) = (x as isize + dx, y as isize + dy);
            if (0..side as isize).contains(&column) && (0..side as isize).contains(&row) {
                let at = &mut regions[row as usize * side + column as usize];
                // A solid's line lies over the horizon's.
                if *at == Lines::NONE || region >= SOLID {
                    *at = region;
                }
            }
        }
    };
    for y in 0..side {
        for x in 0..side {
            let here = &samples.all[y * side + x];
            let right = (x + 1 < side).then(|| (x + 1, y));
            let below = (y + 1 < side).then(|| (x, y + 1));
            for (nx, ny) in [right, below].into_iter().flatten() {
                let there = &samples.all[ny * side + nx];
                if differs(here, there) {
                    let (owner, at) = if owns(here, there) {
                        (here, (x, y))
                    } else {
                        (there, (nx, ny))
                    };
                    draw(at.0, at.1, owner.region);
                }
            }
        }
    }
    Lines { regions }
}

/// Whether an edge runs between two neighbours: another thing, a crease, or one part of a thing before another.
fn differs(a: &Sample, b: &Sample) -> bool {
    if a.region != b.region {
        return true;
    }
    !matches!(a.region, SKY | FLOOR)
        && (a.normal.dot(b.normal) < 0.72 || (a.depth - b.depth).abs() > 0.22)
}

/// Whether the line between two neighbours is `a`'s: a solid's rather than the floor's it stands on, else the nearer thing's.
fn owns(a: &Sample, b: &Sample) -> bool {
    match (a.region >= SOLID, b.region >= SOLID) {
        (true, false) => true,
        (false, true) => false,
        _ => a.depth <= b.depth,
    }
}
