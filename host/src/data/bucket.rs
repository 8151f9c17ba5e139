//! Aspect-ratio buckets (Podell et al. 2023, section 2.3): sizes of about one area, so that pictures are trained on in their own shape, one shape a batch.

use super::Size;

/// Sizes of about `side * side` pixels whose sides are multiples of `multiple`, from twice as high as wide, over the square, to twice as wide as high in each
/// side; the widest last.
pub(super) fn sizes(side: usize, multiple: usize) -> Vec<Size> {
    let multiple = multiple.max(1);
    let (least, most) = (side.div_ceil(2), 2 * side);
    let heights = (1..).map(|count| count * multiple);
    let mut sizes: Vec<Size> = heights
        .skip_while(|&height| height < least)
        .take_while(|&height| height <= most)
        .flat_map(|height| {
            let width = (side * side / height).min(most) / multiple * multiple;
            let lying = Size {
                height: width,
                width: height,
            };
            [Size { height, width }, lying]
        })
        .filter(|size| size.height.min(size.width) >= least)
        .chain([Size::square(side)])
        .collect();
    sizes.sort_by(|a, b| (a.shape().total_cmp(&b.shape())).then(a.height.cmp(&b.height)));
    sizes.dedup();
    sizes
}

/// The place in `sizes` whose shape is most like that of a picture, the larger of two alike.
pub(super) fn nearest(sizes: &[Size], picture: Size) -> usize {
    let apart = |size: &Size| (size.shape() - picture.shape()).abs();
    (0..sizes.len())
        .min_by(|&a, &b| {
            let (a, b) = (&sizes[a], &sizes[b]);
            let area = |size: &Size| std::cmp::Reverse(size.height * size.width);
            (apart(a).total_cmp(&apart(b))).then(area(a).cmp(&area(b)))
        })
        .unwrap_or(0)
}

/// What the sides of buckets around `side` are multiples of, where the network needs multiples of `network`: an eighth of the side, 64 pixels at most.
pub fn step(side: usize, network: usize) -> usize {
    let network = network.max(1);
    ((side / 8).min(64) / network * network).max(network)
}

impl Size {
    /// The logarithm of width by height: 0 for a square, equally far from it for a shape and the same shape lying.
    fn shape(&self) -> f64 {
        (self.width as f64 / self.height as f64).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_about_one_area_and_sides_that_fit() {
        for (side, multiple) in [(512, 64), (1024, 64), (32, 4), (72, 16)] {
            let sizes = sizes(side, multiple);
            assert!(sizes.contains(&Size::square(side)));
            assert!(sizes.len() >= 5, "{sizes:?}");
            for size in &sizes {
                let area = (size.height * size.width) as f64 / (side * side) as f64;
                assert!(area <= 1.0 && area > 0.7, "{size:?}");
                let fits =
                    |length: usize| length.is_multiple_of(multiple) || *size == Size::square(side);
                assert!(fits(size.height) && fits(size.width), "{size:?}");
            }
        }
        assert_eq!((step(512, 8), step(1024, 8), step(32, 2)), (64, 64, 4));
        assert_eq!(step(64, 64), 64);
    }

    #[test]
    fn a_picture_goes_where_least_is_cut_off() {
        let sizes = sizes(512, 64);
        let of = |height, width| sizes[nearest(&sizes, Size { height, width })];
        assert_eq!(of(3000, 3000), Size::square(512));
        let wide = of(1080, 1920);
        assert!(wide.width > wide.height, "{wide:?}");
        let tall = of(1920, 1080);
        assert_eq!((wide.height, wide.width), (tall.width, tall.height));
        assert_eq!(of(10, 4000).height, sizes[sizes.len() - 1].height);
    }
}
