//! Reads event files back with an independent little decoder, and compares records with bytes that TensorFlow's own
//! tools produced.

#![allow(clippy::unwrap_used)]

use super::*;

/// One field of a message: number and content.
#[derive(Debug, PartialEq)]
enum Field {
    Varint(u32, u64),
    Fixed(u32, Vec<u8>),
    Bytes(u32, Vec<u8>),
}

fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    unreachable!()
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (head, tail) = bytes.split_at(length);
    *bytes = tail;
    head
}

fn decode(mut bytes: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes);
        let number = (key >> 3) as u32;
        fields.push(match key & 7 {
            0 => Field::Varint(number, take_varint(&mut bytes)),
            1 => Field::Fixed(number, take(&mut bytes, 8).to_vec()),
            2 => {
                let length = take_varint(&mut bytes) as usize;
                Field::Bytes(number, take(&mut bytes, length).to_vec())
            }
            5 => Field::Fixed(number, take(&mut bytes, 4).to_vec()),
            other => panic!("wire type {other}"),
        });
    }
    fields
}

/// The payloads of a file, each checked against both of its checksums.
fn payloads(path: &Path) -> Vec<Vec<u8>> {
    let all = std::fs::read(path).unwrap();
    let mut rest = all.as_slice();
    let mut payloads = Vec::new();
    while !rest.is_empty() {
        let length = take(&mut rest, 8);
        assert_eq!(take(&mut rest, 4), masked_crc(length).to_le_bytes());
        let payload = take(
            &mut rest,
            u64::from_le_bytes(length.try_into().unwrap()) as usize,
        );
        assert_eq!(take(&mut rest, 4), masked_crc(payload).to_le_bytes());
        payloads.push(payload.to_vec());
    }
    payloads
}

/// The fields after wall time and step, and the step.
fn event(payload: &[u8]) -> (u64, Vec<Field>) {
    let mut fields = decode(payload);
    assert!(
        matches!(&fields[0], Field::Fixed(1, time) if f64::from_le_bytes(time.as_slice().try_into().unwrap()) > 1e9)
    );
    let Field::Varint(2, step) = fields[1] else {
        panic!("no step in {fields:?}")
    };
    fields.drain(..2);
    (step, fields)
}

fn bytes(field: &Field) -> &[u8] {
    let Field::Bytes(_, bytes) = field else {
        panic!("{field:?} is not bytes")
    };
    bytes
}

fn png() -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(3, 2, image::Rgb([200, 40, 10]))
        .write_to(&mut png, image::ImageFormat::Png)
        .unwrap();
    png.into_inner()
}

#[test]
fn records_equal_those_of_tensorboards_own_writer() {
    // `tensorboard.summary.writer.record_writer.RecordWriter` (2.21.0) on `Event(wall_time=1.5, step=300,
    // summary=[Value(tag="train/loss", simple_value=0.25)])`.
    let mut message = Message::default();
    message
        .double(1, 1.5)
        .varint(2, 300)
        .message(FIELD_SUMMARY, |summary| {
            summary.message(1, |entry| {
                entry.text(1, "train/loss").float(2, 0.25);
            });
        });
    let golden = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/goldens/tensorboard_record/scalar_record.bin"
    ));
    assert_eq!(record(&message.0), golden);
}

#[test]
fn a_file_begins_with_its_version_and_then_has_the_steps() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(dir.path(), 0).unwrap();
    let named = [
        ("plugin/diff_tuning/loss_memory".to_owned(), 0.5),
        ("plugin/x/bad".to_owned(), f64::NAN),
    ]
    .into();
    writer
        .step(&StepMetrics {
            step: 1,
            loss: 0.25,
            grad_norm: f64::INFINITY,
            named,
            ..Default::default()
        })
        .unwrap();

    let payloads = payloads(writer.path());
    assert_eq!(
        event(&payloads[0]),
        (0, vec![Field::Bytes(3, b"brain.Event:2".to_vec())])
    );
    let (step, fields) = event(&payloads[2]);
    assert_eq!(step, 1);
    let values: Vec<_> = decode(bytes(&fields[0]))
        .iter()
        .map(|value| decode(bytes(value)))
        .collect();
    let tags: Vec<_> = values
        .iter()
        .map(|value| String::from_utf8(bytes(&value[0]).to_vec()).unwrap())
        .collect();
    let expected = [
        "train/loss",
        "train/lr",
        "train/step_ms",
        "train/samples_per_s",
        "plugin/diff_tuning/loss_memory",
    ];
    assert_eq!(tags, expected, "numbers that are not finite are left out");
    assert_eq!(
        values[0][1],
        Field::Fixed(2, 0.25f32.to_le_bytes().to_vec())
    );
}

#[test]
fn images_carry_their_size_and_anything_but_a_png_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(dir.path(), 0).unwrap();
    writer.image(7, "samples", &png()).unwrap();
    let (step, fields) = event(&payloads(writer.path())[2]);
    let value = decode(bytes(&decode(bytes(&fields[0]))[0]));
    assert_eq!(step, 7);
    assert_eq!(bytes(&value[0]), b"samples");
    let image = decode(bytes(&value[1]));
    assert_eq!(
        image[..2],
        [Field::Varint(1, 2), Field::Varint(2, 3)],
        "height, then width"
    );
    assert_eq!(bytes(&image[3]), png());

    let error = writer.image(8, "samples", b"GIF89a").unwrap_err();
    assert!(matches!(error, Error::NotPng { length: 6, .. }), "{error}");
}

#[test]
fn a_resumed_session_writes_a_new_file_that_purges_later_steps() {
    let dir = tempfile::tempdir().unwrap();
    let first = EventWriter::create(dir.path(), 0).unwrap();
    let second = EventWriter::create(dir.path(), 40).unwrap();
    assert!(first.path() < second.path());
    for (writer, from) in [(first, 1), (second, 41)] {
        let start = event(&payloads(writer.path())[1]);
        assert_eq!(start, (from, vec![Field::Bytes(7, vec![1 << 3, 1])]));
    }
}

#[test]
fn text_is_a_string_tensor_of_the_text_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(dir.path(), 0).unwrap();
    writer.text(0, "run", "**lr** 1e-4").unwrap();
    let (_, fields) = event(&payloads(writer.path())[2]);
    let value = decode(bytes(&decode(bytes(&fields[0]))[0]));
    assert_eq!(
        decode(bytes(&value[1]))[2],
        Field::Bytes(8, b"**lr** 1e-4".to_vec())
    );
    assert_eq!(
        decode(bytes(&decode(bytes(&value[2]))[0])),
        [Field::Bytes(1, b"text".to_vec())]
    );
}
