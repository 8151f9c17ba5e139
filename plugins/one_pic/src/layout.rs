//! Where on the canvas each tile lies, and the cutting and joining that follows from it.

use plugin_api::{Error, Result, Tensor, bail};

/// The tile that is predicted: the image itself.
pub const TARGET: &str = "target";

/// A tile without anything on it.
pub const BLANK: &str = "blank";

/// A grid of equal tiles, one of which is the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Row by row, what each tile shows.
    tiles: Vec<Vec<String>>,
    /// Row and column of the target.
    target: (usize, usize),
}

impl Layout {
    /// Reads rows of names.
    ///
    /// # Errors
    /// Rows that are empty or of different lengths, a tile without a name, or not exactly one target.
    pub fn new(tiles: Vec<Vec<String>>) -> Result<Self> {
        let across = tiles.first().map_or(0, Vec::len);
        if across == 0 {
            bail!("the layout has no tiles; write rows of names, as in [[\"source\", \"target\"]]");
        }
        if let Some(row) = tiles.iter().position(|row| row.len() != across) {
            let found = tiles[row].len();
            bail!(
                "row {} of the layout has {found} tiles and the first has {across}; every row needs as many (`{BLANK}` fills a gap)",
                row + 1
            );
        }
        if tiles.iter().flatten().any(String::is_empty) {
            bail!("a tile of the layout has no name; `{BLANK}` is one without a picture");
        }
        let places: Vec<(usize, usize)> = (0..tiles.len())
            .flat_map(|row| (0..across).map(move |column| (row, column)))
            .filter(|&(row, column)| tiles[row][column] == TARGET)
            .collect();
        match places.as_slice() {
            &[target] => Ok(Self { tiles, target }),
            found => bail!(
                "the layout has {} tiles called `{TARGET}`; it needs exactly one, the image to predict",
                found.len()
            ),
        }
    }

    /// Rows and columns of tiles.
    pub fn grid(&self) -> (usize, usize) {
        (self.tiles.len(), self.tiles[0].len())
    }

    /// Whether the target is all there is.
    pub fn is_single(&self) -> bool {
        self.grid() == (1, 1)
    }

    /// The names of the pictures that the canvas is made of beside the target, each once.
    pub fn sources(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tiles.iter().flatten().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| ![TARGET, BLANK].contains(name));
        names
    }

    /// One picture of all tiles; `tile` gives each by its name, all `[B, C, h, w]`, and what it gives for [`BLANK`] is used as it is.
    ///
    /// # Errors
    /// What `tile` fails with, or tiles of different shapes.
    pub fn compose(&self, tile: impl Fn(&str) -> Result<Tensor>) -> Result<Tensor> {
        let mut shape: Option<(String, Vec<usize>)> = None;
        let mut rows = Vec::with_capacity(self.tiles.len());
        for names in &self.tiles {
            let mut row = Vec::with_capacity(names.len());
            for name in names {
                let picture = tile(name)?;
                let (first, expected) = shape.get_or_insert_with(|| (name.clone(), picture.dims()));
                if picture.dims() != *expected {
                    return Err(Error::Shape {
                        what: format!("the tile `{name}` beside `{first}`"),
                        expected: expected.clone(),
                        got: picture.dims(),
                    });
                }
                row.push(picture);
            }
            rows.push(Tensor::cat(&row, 3)?); // [B, C, h, columns * w]
        }
        Tensor::cat(&rows, 2) // [B, C, rows * h, columns * w]
    }

    /// The target tile of a canvas: `[B, C, H, W]` to `[B, C, H / rows, W / columns]`.
    ///
    /// # Errors
    /// A canvas whose sides are no multiples of the grid.
    pub fn crop(&self, canvas: &Tensor) -> Result<Tensor> {
        let [_, _, height, width] = canvas.dims_n::<4>()?;
        let (high, wide) = self.tile(height, width)?;
        canvas
            .narrow(2, self.target.0 * high, high)?
            .narrow(3, self.target.1 * wide, wide)
    }

    /// A canvas that holds `tile` at the target's place and zeros elsewhere: `[B, C, h, w]` to `[B, C, rows * h, columns * w]`.
    ///
    /// # Errors
    /// When the host fails.
    pub fn place(&self, tile: &Tensor) -> Result<Tensor> {
        self.compose(|name| match name {
            TARGET => Ok(tile.clone()),
            _ => tile.zeros_like(),
        })
    }

    /// Height and width of a tile of a canvas.
    ///
    /// # Errors
    /// A canvas whose sides are no multiples of the grid.
    pub fn tile(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let (rows, columns) = self.grid();
        if !height.is_multiple_of(rows) || !width.is_multiple_of(columns) {
            bail!(
                "{rows} x {columns} tiles do not fit a canvas of {height}x{width}: its sides must be multiples of the grid"
            );
        }
        Ok((height / rows, width / columns))
    }
}
