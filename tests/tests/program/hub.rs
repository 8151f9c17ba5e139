//! `host model download`: from a hub of this test's own into the cache, and from there as a backbone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use integration_tests::Lab;
use serde_json::json;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the files as the model `org/tiny`, until the test's program ends; gives the address.
fn serve(folder: PathBuf, files: Vec<PathBuf>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that went away is its own affair.
            let _ = answer(stream.unwrap(), &folder, &files);
        }
    });
    address
}

fn answer(mut stream: TcpStream, folder: &Path, files: &[PathBuf]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let mut range = None;
    for line in lines {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        range = line
            .strip_prefix("range: bytes=")
            .map(str::to_owned)
            .or(range);
    }
    let (status, headers, body) = match path.strip_prefix("/org/tiny/resolve/main/") {
        _ if path == "/api/models/org/tiny/revision/main" => {
            let siblings = files.iter().map(|file| json!({"rfilename": file}));
            let info = json!({"sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()});
            ("200 OK", String::new(), info.to_string().into_bytes())
        }
        Some(file) if files.iter().any(|known| known == Path::new(file)) => {
            let bytes = std::fs::read(folder.join(file))?;
            let range = range.unwrap_or("0-".to_owned());
            let (start, end) = range.split_once('-').unwrap();
            let start: usize = start.parse().unwrap();
            let end = end.parse().map_or(bytes.len(), |last: usize| last + 1);
            let headers = format!(
                "x-repo-commit: {COMMIT}\r\netag: \"{}\"\r\ncontent-range: bytes {start}-{}/{}\r\n",
                file.replace('/', "-"),
                end - 1,
                bytes.len()
            );
            ("206 Partial Content", headers, bytes[start..end].to_vec())
        }
        _ => ("404 Not Found", String::new(), Vec::new()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    )?;
    stream.write_all(&body)
}

#[test]
fn a_pipeline_is_downloaded_when_asked_and_then_a_backbone() {
    let lab = Lab::of_text();
    lab.host("plan --backbone hf:org/tiny")
        .refused(2, &["hf:org/tiny", "host model download hf:org/tiny"]);

    lab.write("sd/README.md", "of no use here");
    lab.write(
        "sd/unet/diffusion_pytorch_model.bin",
        "the same in another format",
    );
    let address = serve(lab.path("sd"), lab.files("sd").into_keys().collect());
    let hub = [("HF_ENDPOINT", address.as_str())];
    let told = lab.host_under(&hub, "model download hf:org/tiny").done();
    let folder = format!("models--org--tiny/snapshots/{COMMIT}");
    assert!(told.stdout.contains(&folder), "{}", told.told());
    let snapshot = lab.files(&format!("home/.cache/huggingface/hub/{folder}"));
    let mut expected = lab.files("sd");
    for unread in [
        "README.md",
        "unet/diffusion_pytorch_model.bin",
        "vae/case.safetensors",
    ] {
        expected.remove(Path::new(unread)).unwrap();
    }
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&snapshot), names(&expected));
    assert!(snapshot == expected, "the same bytes");

    // From here on without a hub.
    let mut cached = lab.host("model inspect hf:org/tiny --json").done().json();
    let mut direct = lab.host("model inspect sd --json").done().json();
    for inspection in [&mut cached, &mut direct] {
        inspection.as_object_mut().unwrap().remove("path");
    }
    assert_eq!(cached, direct);
}

#[test]
fn what_cannot_be_downloaded_is_told_in_a_sentence() {
    let lab = Lab::new();
    let address = serve(lab.path("tiny"), vec!["notes.txt".into()]);
    let hub = [("HF_ENDPOINT", address.as_str())];
    let refused = |name: &str, parts: &[&str]| {
        lab.host_under(&hub, &format!("model download {name}"))
            .refused(2, parts);
    };
    refused(
        "hf:org/other",
        &["hf:org/other", &address, "404", "HF_TOKEN"],
    );
    refused("hf:org/tiny", &["hf:org/tiny", "model_index.json"]);
    refused("hf:../tiny", &["hf:../tiny", "hf:ORG/NAME"]);
    let nobody = [("HF_ENDPOINT", "http://127.0.0.1:1")];
    lab.host_under(&nobody, "model download hf:org/tiny")
        .refused(2, &["hf:org/tiny", "connection"]);
}
