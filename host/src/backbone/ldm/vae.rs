//! The autoencoder's names in the original code of latent diffusion (`autoencoder.py`), and what a file says of its shape.

/// Parts of the attention in the middle: diffusers' names and the original ones.
const ATTENTION: [(&str, &str); 5] = [
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
];

/// The original name of a parameter by its diffusers name, for an autoencoder of so many levels; nothing for one that the original code does not have.
pub(crate) fn original(name: &str, levels: usize) -> Option<String> {
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_owned());
    }
    let (half, rest) = name.split_once('.')?;
    let rest = match rest.split_once('.')? {
        ("conv_in" | "conv_out", _) => rest.to_owned(),
        ("conv_norm_out", parameter) => format!("norm_out.{parameter}"),
        ("mid_block", rest) => {
            let (part, rest) = rest.split_once('.')?;
            let (index, rest) = rest.split_once('.')?;
            match (part, index.parse::<usize>().ok()?) {
                ("resnets", index) => format!("mid.block_{}.{}", index + 1, resnet(rest)),
                ("attentions", 0) => {
                    let (part, parameter) = rest.rsplit_once('.')?;
                    let (_, original) = ATTENTION.iter().find(|(known, _)| *known == part)?;
                    format!("mid.attn_1.{original}.{parameter}")
                }
                _ => return None,
            }
        }
        (blocks, rest) => {
            let words: Vec<&str> = rest.splitn(4, '.').collect();
            let &[level, part, index, rest] = words.as_slice() else {
                return None;
            };
            let level: usize = level.parse().ok()?;
            let (way, level) = match blocks {
                "down_blocks" => ("down", level),
                // The original counts levels from the pictures inwards, on both ways.
                "up_blocks" => ("up", levels.checked_sub(level + 1)?),
                _ => return None,
            };
            match part {
                "resnets" => format!("{way}.{level}.block.{index}.{}", resnet(rest)),
                "downsamplers" => format!("{way}.{level}.downsample.{rest}"),
                "upsamplers" => format!("{way}.{level}.upsample.{rest}"),
                _ => return None,
            }
        }
    };
    Some(format!("{half}.{rest}"))
}

fn resnet(name: &str) -> String {
    name.replace("conv_shortcut.", "nin_shortcut.")
}
