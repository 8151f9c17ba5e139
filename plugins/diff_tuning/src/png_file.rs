//! Pictures as PNG files of 8-bit RGB, and no other kind: what a memory bank writes and reads back.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::Path,
};

use png::{BitDepth, ColorType, Decoder, DecodingError, Encoder, EncodingError};

/// A picture of 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// `[H, W, 3]`.
    pub(crate) bytes: Vec<u8>,
}

/// Writes the picture as a PNG file.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(path: &Path, picture: &Picture) -> Result<(), EncodingError> {
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = Encoder::new(file, picture.width as u32, picture.height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.bytes)?;
    // Finished by hand, because a writer that is dropped keeps its errors to itself.
    writer.finish()
}

/// Reads a PNG file of 8-bit RGB.
///
/// # Errors
/// In words that follow the file's name: a file that cannot be read, is damaged, or holds another kind of picture.
pub(crate) fn read(path: &Path) -> Result<Picture, String> {
    let said = |error: DecodingError| error.to_string();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut reader = Decoder::new(BufReader::new(file))
        .read_info()
        .map_err(said)?;
    let kind = reader.output_color_type();
    if kind != (ColorType::Rgb, BitDepth::Eight) {
        return Err(format!(
            "it holds {:?} at {} bits a channel, not 8-bit RGB",
            kind.0, kind.1 as u8
        ));
    }
    let size = reader.output_buffer_size().ok_or("it is too large")?;
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(said)?;
    Ok(Picture {
        width: frame.width as usize,
        height: frame.height as usize,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn picture() -> Picture {
        Picture {
            width: 3,
            height: 2,
            bytes: (0..18).map(|byte| byte * 14).collect(),
        }
    }

    #[test]
    fn a_picture_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        write(&path, &picture()).unwrap();
        assert_eq!(read(&path).unwrap(), picture());
    }

    #[test]
    fn a_cut_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        write(&path, &picture()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn grey_and_16_bit_pictures_are_refused() {
        for (color, depth, bytes) in [
            (ColorType::Grayscale, BitDepth::Eight, 6),
            (ColorType::Rgb, BitDepth::Sixteen, 36),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("picture.png");
            let mut encoder = Encoder::new(File::create(&path).unwrap(), 3, 2);
            encoder.set_color(color);
            encoder.set_depth(depth);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&vec![7; bytes]).unwrap();
            writer.finish().unwrap();
            assert!(read(&path).unwrap_err().contains("not 8-bit RGB"));
        }
    }
}
