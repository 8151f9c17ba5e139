//! One setting: the shape of its type, its piece of schema, its default and how it is read.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{GenericArgument, PathArguments, Type};

use crate::{attributes::Setting, literal::quoted};

/// What the derive knows of a type by its name.
pub(crate) enum Shape<'a> {
    Option(Box<Shape<'a>>),
    List(Box<Shape<'a>>),
    /// Values by names that the user chooses.
    Map(Box<Shape<'a>>),
    /// A whole number, with the type's own limits as JSON.
    Whole(&'a Type, (Option<&'static str>, Option<&'static str>)),
    Float(&'a Type),
    Bool,
    Text(&'a Type),
    /// Another type that derives `Settings`.
    Other(&'a Type),
}

impl<'a> Shape<'a> {
    pub(crate) fn of(ty: &'a Type) -> Self {
        let Type::Path(path) = ty else {
            return Shape::Other(ty);
        };
        let Some(last) = path.path.segments.last() else {
            return Shape::Other(ty);
        };
        if let PathArguments::AngleBracketed(arguments) = &last.arguments {
            let arguments: Vec<_> = arguments.args.iter().collect();
            match (last.ident.to_string().as_str(), arguments.as_slice()) {
                ("Option", [GenericArgument::Type(inner)]) => {
                    return Shape::Option(Box::new(Shape::of(inner)));
                }
                ("Vec", [GenericArgument::Type(inner)]) => {
                    return Shape::List(Box::new(Shape::of(inner)));
                }
                // The keys are `String`: the reader compiles with nothing else.
                ("BTreeMap", [_, GenericArgument::Type(inner)]) => {
                    return Shape::Map(Box::new(Shape::of(inner)));
                }
                _ => {}
            }
        }
        match last.ident.to_string().as_str() {
            "u8" => Shape::Whole(ty, (Some("0"), Some("255"))),
            "u16" => Shape::Whole(ty, (Some("0"), Some("65535"))),
            "u32" => Shape::Whole(ty, (Some("0"), Some("4294967295"))),
            "u64" | "usize" => Shape::Whole(ty, (Some("0"), None)),
            "i32" => Shape::Whole(ty, (Some("-2147483648"), Some("2147483647"))),
            "i64" => Shape::Whole(ty, (None, None)),
            "f32" | "f64" => Shape::Float(ty),
            "bool" => Shape::Bool,
            "String" | "PathBuf" => Shape::Text(ty),
            _ => Shape::Other(ty),
        }
    }

    /// The schema without braces, as expressions of type `&str` to be joined.
    pub(crate) fn body(&self, setting: &Setting) -> syn::Result<Vec<TokenStream>> {
        let kind = |ty: &Type| quote!(<#ty as ::plugin_api::settings::SettingKind>::BODY);
        Ok(match self {
            Shape::Option(inner) => {
                wrapped(r#""anyOf":[{"type":"null"},{"#, inner.body(setting)?, "}]")
            }
            Shape::List(inner) => wrapped(r#""type":"array","items":{"#, inner.body(setting)?, "}"),
            Shape::Map(inner) => wrapped(
                r#""type":"object","additionalProperties":{"#,
                inner.body(setting)?,
                "}",
            ),
            Shape::Whole(_, own) if setting.has_range() => vec![limits("integer", setting, *own)],
            Shape::Float(_) if setting.has_range() => vec![limits("number", setting, (None, None))],
            Shape::Text(_) if setting.one_of.is_some() => {
                let choices: Vec<String> = setting
                    .one_of
                    .iter()
                    .flatten()
                    .map(|choice| quoted(&choice.value()))
                    .collect();
                let text = format!(r#""type":"string","enum":[{}]"#, choices.join(","));
                vec![quote!(#text)]
            }
            Shape::Whole(ty, _) | Shape::Float(ty) | Shape::Text(ty) | Shape::Other(ty) => {
                if setting.has_range() {
                    return Err(syn::Error::new_spanned(
                        ty,
                        "`range` and `above` are for numbers",
                    ));
                }
                if setting.one_of.is_some() {
                    return Err(syn::Error::new_spanned(ty, "`one_of` is for text"));
                }
                vec![kind(ty)]
            }
            Shape::Bool => vec![quote!(r#""type":"boolean""#)],
        })
    }

    /// An expression that reads `value: &Json` into `Option<type>`.
    pub(crate) fn reader(&self) -> TokenStream {
        match self {
            Shape::Option(inner) => {
                let inner = inner.reader();
                quote!(|value: &::plugin_api::settings::Json| ::plugin_api::settings::read_option(value, #inner))
            }
            Shape::List(inner) => {
                let inner = inner.reader();
                quote!(|value: &::plugin_api::settings::Json| ::plugin_api::settings::read_list(value, #inner))
            }
            Shape::Map(inner) => {
                let inner = inner.reader();
                quote!(|value: &::plugin_api::settings::Json| ::plugin_api::settings::read_map(value, #inner))
            }
            Shape::Bool => quote!(<bool as ::plugin_api::settings::SettingKind>::read),
            Shape::Whole(ty, _) | Shape::Float(ty) | Shape::Text(ty) | Shape::Other(ty) => {
                quote!(<#ty as ::plugin_api::settings::SettingKind>::read)
            }
        }
    }
}

fn wrapped(before: &str, inner: Vec<TokenStream>, after: &str) -> Vec<TokenStream> {
    std::iter::once(quote!(#before))
        .chain(inner)
        .chain(std::iter::once(quote!(#after)))
        .collect()
}

/// A number's schema: its type and limits, the type's own where the attribute sets none.
fn limits(kind: &str, setting: &Setting, own: (Option<&str>, Option<&str>)) -> TokenStream {
    let mut text = format!(r#""type":"{kind}""#);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(r#","{name}":{value}"#));
        }
    };
    let json =
        |value: &Option<crate::literal::Value>| value.as_ref().map(crate::literal::Value::json);
    let own_low = || own.0.filter(|_| setting.above.is_none()).map(str::to_owned);
    let own_high = || own.1.filter(|_| setting.below.is_none()).map(str::to_owned);
    add("minimum", json(&setting.low).or_else(own_low));
    add("maximum", json(&setting.high).or_else(own_high));
    add("exclusiveMinimum", json(&setting.above));
    add("exclusiveMaximum", json(&setting.below));
    quote!(#text)
}
