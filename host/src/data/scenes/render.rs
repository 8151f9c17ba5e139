//! The march: one ray a sample, giving everything that a style needs and every exact map.

use super::layout::Scene;
use super::solid::Solid;
use super::vector::{Vec3, smoothstep, vec3};

/// Samples along each side of a pixel. Odd, so that the middle one lies at the pixel's centre, where the maps are read.
pub(super) const SAMPLES: usize = 3;

/// Depth of the sky, in world units; nothing else lies so far.
pub const FAR: f32 = 16.0;

/// Region of a sample that shows the sky.
pub(super) const SKY: u8 = 0;
/// Region of a sample that shows the floor.
pub(super) const FLOOR: u8 = 1;
/// Region of the first solid; the second's is one more.
pub(super) const SOLID: u8 = 2;

/// The floor is a stage that ends here, seen from above; the sky stands behind its edge.
const STAGE_END: f32 = -2.6;

/// What one ray met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Distance along the optical axis; [`FAR`] for the sky.
    pub(super) depth: f32,
    /// Unit normal in the world; zero for the sky.
    pub(super) normal: Vec3,
    /// Unit direction of the ray.
    pub(super) ray: Vec3,
    /// The point met, in the world.
    pub(super) point: Vec3,
    /// Sky, floor, or which solid.
    pub(super) region: u8,
    /// How much of the key light arrives, 0..1, apart from the surface's slope.
    pub(super) light: f32,
    /// How much of the ambient light arrives, 0..1.
    pub(super) open: f32,
}

/// All the samples of a picture, row by row, `side` by `side`.
pub(super) struct Samples {
    pub(super) side: usize,
    pub(super) all: Vec<Sample>,
}

/// The camera, which never moves: above the stage, looking down at its middle.
pub(super) struct Camera {
    eye: Vec3,
    right: Vec3,
    up: Vec3,
    forward: Vec3,
    /// Half the picture's height at distance 1.
    half: f32,
}

impl Camera {
    pub(super) fn new() -> Self {
        let eye = vec3(0.0, 3.05, 5.15);
        let forward = (vec3(0.0, 0.6, 0.0) - eye).normalized();
        let right = forward.cross(vec3(0.0, 1.0, 0.0)).normalized();
        Self {
            eye,
            right,
            up: right.cross(forward),
            forward,
            half: 0.28,
        }
    }

    /// Unit direction through a point of the picture, `x` and `y` in 0..1 from the top left.
    fn ray(&self, x: f32, y: f32) -> Vec3 {
        let (u, v) = ((2.0 * x - 1.0) * self.half, (1.0 - 2.0 * y) * self.half);
        (self.forward + self.right * u + self.up * v).normalized()
    }

    /// A world direction as seen from the camera: x right, y up, z towards the viewer.
    pub(super) fn view(&self, direction: Vec3) -> Vec3 {
        vec3(
            direction.dot(self.right),
            direction.dot(self.up),
            -direction.dot(self.forward),
        )
    }
}

/// Marches every sample of a picture of `size` pixels a side. `light` is the unit direction towards the key light.
pub(super) fn march(scene: &Scene, camera: &Camera, light: Vec3, size: usize) -> Samples {
    let side = size * SAMPLES;
    let mut all = Vec::with_capacity(side * side);
    for row in 0..side {
        for column in 0..side {
            let ray = camera.ray(
                (column as f32 + 0.5) / side as f32,
                (row as f32 + 0.5) / side as f32,
            );
            all.push(sample(scene, camera, light, ray));
        }
    }
    Samples { side, all }
}

fn sample(scene: &Scene, camera: &Camera, light: Vec3, ray: Vec3) -> Sample {
    let (mut nearest, mut region) = (f32::INFINITY, SKY);
    if ray.y < 0.0 {
        let t = -camera.eye.y / ray.y;
        if camera.eye.z + ray.z * t > STAGE_END {
            (nearest, region) = (t, FLOOR);
        }
    }
    for (index, solid) in scene.solids.iter().enumerate() {
        if let Some(t) = hit(solid, camera.eye, ray, nearest) {
            (nearest, region) = (t, SOLID + index as u8);
        }
    }
    let point = camera.eye + ray * nearest.min(FAR);
    let normal = match region {
        SKY => {
            return Sample {
                depth: FAR,
                normal: Vec3::default(),
                ray,
                point,
                region,
                light: 1.0,
                open: 1.0,
            };
        }
        FLOOR => vec3(0.0, 1.0, 0.0),
        _ => scene.solids[usize::from(region - SOLID)].normal(point),
    };
    Sample {
        depth: nearest * ray.dot(camera.forward),
        normal,
        ray,
        point,
        region,
        light: lit(scene, region, point, normal, light),
        open: openness(scene, region, point, normal),
    }
}

/// How much of the key light reaches a point, 0..1; none where the surface faces away from it.
fn lit(scene: &Scene, region: u8, point: Vec3, normal: Vec3, light: Vec3) -> f32 {
    if normal.dot(light) <= 0.0 {
        return 0.0;
    }
    let start = point + normal * 0.012;
    let mut open = 1.0f32;
    for (index, solid) in scene.solids.iter().enumerate() {
        let own = region == SOLID + index as u8;
        if !(own && solid.shape.convex()) {
            open = open.min(shadow(solid, start, light));
        }
    }
    open
}

/// Where a ray enters and leaves a sphere about the solid's middle, if it does ahead of its origin.
fn span(solid: &Solid, radius: f32, origin: Vec3, ray: Vec3) -> Option<(f32, f32)> {
    let to = origin - solid.centre;
    let (b, c) = (to.dot(ray), to.dot(to) - radius * radius);
    let discriminant = b * b - c;
    if discriminant <= 0.0 {
        return None;
    }
    let root = discriminant.sqrt();
    (root > b).then(|| ((-b - root).max(0.0), root - b))
}

/// Distance along the ray to the solid's surface, where it is nearer than `limit`.
fn hit(solid: &Solid, origin: Vec3, ray: Vec3, limit: f32) -> Option<f32> {
    let (mut t, end) = span(solid, solid.bound, origin, ray)?;
    let end = end.min(limit);
    for _ in 0..64 {
        if t > end {
            return None;
        }
        let distance = solid.distance(origin + ray * t);
        if distance < 2e-4 {
            return Some(t);
        }
        t += distance;
    }
    None
}

/// How much light passes the solid, 0..1; the nearer a ray passes by, the less: a penumbra.
fn shadow(solid: &Solid, origin: Vec3, light: Vec3) -> f32 {
    const SHARPNESS: f32 = 9.0;
    let Some((start, end)) = span(solid, solid.bound * 1.3, origin, light) else {
        return 1.0;
    };
    let (mut t, mut open) = (start.max(0.02), 1.0f32);
    for _ in 0..28 {
        if t > end {
            break;
        }
        let distance = solid.distance(origin + light * t);
        open = open.min(SHARPNESS * distance / t);
        if open < 0.01 {
            return 0.0;
        }
        t += distance.max(0.03);
    }
    smoothstep(0.0, 1.0, open)
}

/// Ambient light near the floor and near the other solid is less: what makes a solid stand rather than float.
fn openness(scene: &Scene, region: u8, point: Vec3, normal: Vec3) -> f32 {
    const REACH: f32 = 0.35;
    let mut open = 1.0f32;
    for (index, solid) in scene.solids.iter().enumerate() {
        let apart = (point - solid.centre).length() - solid.bound;
        if region != SOLID + index as u8 && apart < REACH {
            open = open.min(0.45 + 0.55 * smoothstep(0.0, REACH, solid.distance(point)));
        }
    }
    if region >= SOLID {
        let lift = point.y + normal.y * REACH;
        open = open.min(0.6 + 0.4 * smoothstep(-0.2, REACH, lift));
    }
    open
}
