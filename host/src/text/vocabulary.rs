//! Makes a CLIP tokenizer for texts of one kind: byte pairs learned from them, in the files that transformers reads.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Model, Trainer};

use super::Error;
use super::tokenizer::{BEGIN, END};
use crate::fs::write_atomic;

/// What closes a word.
const SUFFIX: &str = "</w>";

/// Learns byte pairs from texts and writes a `tokenizer/` folder, whose texts have at most `longest` tokens. Any text can be spelled in it, byte by byte. Gives
/// how many tokens there are.
///
/// # Errors
/// A disk that refuses.
pub fn make_tokenizer(
    texts: impl Iterator<Item = String> + Send,
    longest: usize,
    dir: &Path,
) -> Result<usize, Error> {
    let refuse = |reason: String| Error::Tokenizer {
        dir: dir.to_owned(),
        reason,
    };
    let other = |error: tokenizers::Error| refuse(error.to_string());
    let io = |error: std::io::Error| refuse(error.to_string());
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .end_of_word_suffix(SUFFIX.to_owned())
        .build();
    let words = |text: &str| {
        Ok(text
            .to_lowercase()
            .split_whitespace()
            .map(str::to_owned)
            .collect())
    };
    trainer.feed(texts, words).map_err(other)?;
    let mut learned = BPE::default();
    trainer.train(&mut learned).map_err(other)?;
    // The pairs in their order, one a line behind a first line with the version.
    std::fs::create_dir_all(dir).map_err(io)?;
    learned.save(dir, None).map_err(other)?;
    let merges = std::fs::read_to_string(dir.join("merges.txt")).map_err(io)?;

    // The order of OpenAI's vocabulary: bytes, bytes that close a word, merged pairs, and the two ends.
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let bytes = alphabet.iter().map(char::to_string);
    let closing = alphabet.iter().map(|byte| format!("{byte}{SUFFIX}"));
    let merged = (merges.lines().skip(1)).map(|pair| pair.replace(' ', ""));
    let ends = [BEGIN, END].map(str::to_owned);
    let mut known = HashSet::new();
    let tokens: Vec<String> = (bytes.chain(closing).chain(merged).chain(ends))
        .filter(|token| known.insert(token.clone()))
        .collect();
    let vocab: Map<_, _> = (tokens.iter().enumerate())
        .map(|(number, token)| (token.clone(), json!(number)))
        .collect();
    let special = json!({
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    });
    let mut settings = special.clone();
    settings["tokenizer_class"] = json!("CLIPTokenizer");
    settings["model_max_length"] = json!(longest);
    settings["do_lower_case"] = json!(true);
    for (name, text) in [
        ("vocab.json", json!(vocab).to_string()),
        ("special_tokens_map.json", format!("{special:#}")),
        ("tokenizer_config.json", format!("{settings:#}")),
    ] {
        write_atomic(&dir.join(name), text.as_bytes())
            .map_err(|error| refuse(error.to_string()))?;
    }
    Ok(tokens.len())
}
