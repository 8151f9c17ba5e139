//! The solids: their signed distances, which alone decide where a ray hits, the normal there, and the shadow.
//!
//! Every distance is a lower bound of the true one (exact for most shapes), so that marching never steps through a surface.

use super::vector::{Vec3, vec3};

/// A kind of solid. The first six are the source domain's classes, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Sphere,
    Box,
    Cylinder,
    Cone,
    Torus,
    Pyramid,
    Capsule,
    Star,
    Arch,
    Dome,
    Cross,
}

/// The source domain's shapes, in the order of their labels.
pub(super) const SOURCE: [Shape; 6] = [
    Shape::Sphere,
    Shape::Box,
    Shape::Cylinder,
    Shape::Cone,
    Shape::Torus,
    Shape::Pyramid,
];

impl Shape {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sphere => "sphere",
            Self::Box => "box",
            Self::Cylinder => "cylinder",
            Self::Cone => "cone",
            Self::Torus => "torus",
            Self::Pyramid => "pyramid",
            Self::Capsule => "capsule",
            Self::Star => "star",
            Self::Arch => "arch",
            Self::Dome => "dome",
            Self::Cross => "cross",
        }
    }
}

impl Shape {
    /// Whether no part of it can cast a shadow on another.
    pub(super) fn convex(self) -> bool {
        !matches!(self, Self::Torus | Self::Star | Self::Arch | Self::Cross)
    }
}

/// A solid in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Solid {
    pub(super) shape: Shape,
    /// Half width, half height and half depth, before the turn.
    pub(super) half: Vec3,
    /// The middle of the solid, in the world.
    pub(super) centre: Vec3,
    /// Cosine and sine of the turn about the vertical.
    turn: (f32, f32),
    /// Radius of a sphere about `centre` that holds the solid.
    pub(super) bound: f32,
    /// Hue in 0..1.
    pub(super) hue: f32,
    /// Brightness of its colour, relative to the domain's: about 0.9..1.1.
    pub(super) value: f32,
}

impl Solid {
    /// A solid that stands on the height `base`, turned by `turn` radians.
    pub(super) fn standing(shape: Shape, half: Vec3, foot: Vec3, turn: f32) -> Self {
        // A star of radius a has its tips at a above the middle and its feet at a cos 36 degrees below.
        let below = if shape == Shape::Star {
            half.y * 0.809
        } else {
            half.y
        };
        let reach = if shape == Shape::Star {
            half.x
        } else {
            half.x.hypot(half.y)
        };
        Self {
            shape,
            half,
            centre: foot + vec3(0.0, below, 0.0),
            turn: (turn.cos(), turn.sin()),
            bound: match shape {
                Shape::Sphere => half.x,
                Shape::Torus | Shape::Capsule | Shape::Cylinder | Shape::Cone | Shape::Dome => {
                    reach
                }
                _ => reach.hypot(half.z),
            } + 0.02,
            hue: 0.0,
            value: 1.0,
        }
    }

    /// A world point in the solid's own frame.
    pub(super) fn local(&self, point: Vec3) -> Vec3 {
        let p = point - self.centre;
        let (cos, sin) = self.turn;
        vec3(cos * p.x - sin * p.z, p.y, sin * p.x + cos * p.z)
    }

    /// Signed distance from a world point, negative inside.
    pub(super) fn distance(&self, point: Vec3) -> f32 {
        let p = self.local(point);
        let Vec3 { x: a, y: b, z: c } = self.half;
        match self.shape {
            Shape::Sphere => p.length() - a,
            Shape::Box => {
                let round = 0.03;
                boxed(
                    p.x.abs() - a + round,
                    p.y.abs() - b + round,
                    p.z.abs() - c + round,
                ) - round
            }
            Shape::Cylinder => corner(p.x.hypot2(p.z) - a, p.y.abs() - b),
            Shape::Cone => slope(p.x.hypot2(p.z), p.y, a, b),
            Shape::Pyramid => slope(p.x.abs().max(p.z.abs()), p.y, a, b),
            Shape::Torus => (p.x.hypot2(p.z) - (a - b)).hypot2(p.y) - b,
            Shape::Capsule => {
                let along = a - b;
                vec3(p.x - p.x.clamp(-along, along), p.y, p.z).length() - b
            }
            Shape::Star => corner(star(p.x, p.y, a), p.z.abs() - c),
            Shape::Arch => {
                let outer = tombstone(p.x, p.y - (b - a), a).max(-p.y - b);
                let inner = tombstone(p.x, p.y - (b - a), a * 0.52);
                outer.max(-inner).max(p.z.abs() - c)
            }
            Shape::Dome => (vec3(p.x, p.y + b, p.z).length() - a).max(-p.y - b),
            Shape::Cross => {
                let arm = a * 0.36;
                let upright = corner(p.x.abs() - arm, p.y.abs() - b);
                let across = corner(p.x.abs() - a, (p.y - b * 0.2).abs() - arm);
                corner(upright.min(across), p.z.abs() - c)
            }
        }
    }

    /// Unit outward normal near a surface point, from differences along the corners of a tetrahedron.
    pub(super) fn normal(&self, point: Vec3) -> Vec3 {
        const STEP: f32 = 6e-4;
        const CORNERS: [Vec3; 4] = [
            vec3(1.0, -1.0, -1.0),
            vec3(-1.0, -1.0, 1.0),
            vec3(-1.0, 1.0, -1.0),
            vec3(1.0, 1.0, 1.0),
        ];
        let mut sum = Vec3::default();
        for corner in CORNERS {
            sum = sum + corner * self.distance(point + corner * STEP);
        }
        sum.normalized()
    }
}

/// `f32::hypot` guards against overflow at five times the price; scene coordinates are about 1.
trait Hypot2 {
    fn hypot2(self, other: f32) -> f32;
}

impl Hypot2 for f32 {
    fn hypot2(self, other: f32) -> f32 {
        (self * self + other * other).sqrt()
    }
}

/// Distance to the meeting of two perpendicular half spaces at distances `u` and `v`.
fn corner(u: f32, v: f32) -> f32 {
    u.max(0.0).hypot2(v.max(0.0)) + u.max(v).min(0.0)
}

fn boxed(x: f32, y: f32, z: f32) -> f32 {
    vec3(x.max(0.0), y.max(0.0), z.max(0.0)).length() + x.max(y).max(z).min(0.0)
}

/// A side that runs from radius `a` at `-b` to the apex at `b`, and a base: a cone or a pyramid by what `radius` is.
fn slope(radius: f32, y: f32, a: f32, b: f32) -> f32 {
    let length = (2.0 * b).hypot2(a);
    ((radius * 2.0 * b + (y - b) * a) / length).max(-y - b)
}

/// The upright outline of an arch: a half disc of radius `a` on a strip of the same width.
fn tombstone(x: f32, y: f32, a: f32) -> f32 {
    if y > 0.0 {
        x.hypot2(y) - a
    } else {
        x.abs() - a
    }
}

/// A five-pointed star of radius `a` with a tip up, by folding the plane into one half of one point.
fn star(x: f32, y: f32, a: f32) -> f32 {
    // Mirror lines through the middle, at 36 and 72 degrees.
    const COS: f32 = 0.809_017;
    const SIN: f32 = 0.587_785_25;
    let (mut px, mut py) = (x.abs(), y);
    let fold = px * COS - py * SIN;
    if fold > 0.0 {
        px -= 2.0 * fold * COS;
        py += 2.0 * fold * SIN;
    }
    px = px.abs();
    let fold = px * COS - py * SIN;
    if fold > 0.0 {
        px -= 2.0 * fold * COS;
        py += 2.0 * fold * SIN;
    }
    px = px.abs();
    // The edge runs from the tip (0, a) to the notch at 36 degrees, at this radius.
    let notch = a * 0.46;
    let (nx, ny) = (notch * SIN, notch * COS);
    let (ex, ey) = (nx, ny - a);
    let length = ex.hypot2(ey);
    (-(ey) * px + ex * (py - a)) / length
}
