//! Structs: a table of settings.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataStruct, DeriveInput, Field, Fields, ext::IdentExt};

use crate::{
    attributes::{Setting, docs},
    field::Shape,
    literal::{Value, quoted},
};

/// How a missing setting is treated.
enum Missing {
    /// It is an error.
    Refused,
    /// It takes this value: JSON, and Rust.
    Default(String, TokenStream),
    /// It takes what its type says.
    Kind,
}

pub(crate) fn expand(input: &DeriveInput, data: &DataStruct) -> syn::Result<TokenStream> {
    let name = &input.ident;
    let fields = match &data.fields {
        Fields::Named(fields) => fields.named.iter().collect::<Vec<_>>(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(fields) => {
            return Err(syn::Error::new_spanned(
                fields,
                "settings need names: use a struct with named fields",
            ));
        }
    };
    let mut body: Vec<TokenStream> = vec![quote!(r#""type":"object","properties":{"#)];
    let (mut readers, mut defaults, mut required) = (Vec::new(), Vec::new(), Vec::new());
    for (index, field) in fields.iter().enumerate() {
        let Some(ident) = &field.ident else { continue };
        let ty = &field.ty;
        let key = ident.unraw().to_string();
        let setting = Setting::read(&field.attrs)?;
        let shape = Shape::of(ty);
        let missing = missing(field, &setting, &shape)?;

        let comma = if index > 0 { "," } else { "" };
        let head = format!(
            r#"{comma}{}:{{"description":{},"#,
            quoted(&key),
            quoted(&docs(&field.attrs))
        );
        body.push(quote!(#head));
        body.extend(shape.body(&setting)?);
        match missing {
            Missing::Refused => required.push(quoted(&key)),
            Missing::Default(json, rust) => {
                let text = format!(r#","default":{json}"#);
                body.push(quote!(#text));
                defaults.push(quote!(#ident: #rust));
            }
            Missing::Kind => {
                let default = quote!(<#ty as ::plugin_api::settings::SettingKind>::DEFAULT);
                body.push(quote!(match #default { Some(_) => r#","default":"#, None => "" }));
                body.push(quote!(match #default { Some(default) => default, None => "" }));
                defaults.push(quote!(#ident: <#ty as ::core::default::Default>::default()));
            }
        }
        body.push(quote!("}"));
        let reader = shape.reader();
        readers.push(quote!(#ident: (#reader)(table.get(#key)?)?));
    }
    let tail = if required.is_empty() {
        r#"},"additionalProperties":false"#.to_owned()
    } else {
        format!(
            r#"}},"required":[{}],"additionalProperties":false"#,
            required.join(",")
        )
    };
    body.push(quote!(#tail));

    let head = format!(r#"{{"description":{},"#, quoted(&docs(&input.attrs)));
    let (default_text, default_impl) = if required.is_empty() {
        let build = quote! {
            impl ::core::default::Default for #name {
                fn default() -> Self {
                    Self { #(#defaults),* }
                }
            }
        };
        (quote!(::core::option::Option::Some("{}")), build)
    } else {
        (quote!(::core::option::Option::None), TokenStream::new())
    };
    Ok(quote! {
        impl ::plugin_api::settings::SettingKind for #name {
            const BODY: &'static str = ::plugin_api::__join_texts!(#(#body),*);
            const DEFAULT: ::core::option::Option<&'static str> = #default_text;
            fn read(value: &::plugin_api::settings::Json) -> ::core::option::Option<Self> {
                #[allow(unused_variables, reason = "a struct may have no fields")]
                let table = value.as_object()?;
                ::core::option::Option::Some(Self { #(#readers),* })
            }
        }

        impl ::plugin_api::settings::Settings for #name {
            const SCHEMA: &'static str = ::plugin_api::__join_texts!(
                #head,
                <#name as ::plugin_api::settings::SettingKind>::BODY,
                "}"
            );
        }

        #default_impl
    })
}

fn missing(field: &Field, setting: &Setting, shape: &Shape<'_>) -> syn::Result<Missing> {
    if setting.is_default {
        return Err(syn::Error::new_spanned(field, "write `default = value`"));
    }
    let Some(default) = &setting.default else {
        return Ok(match shape {
            _ if setting.required => Missing::Refused,
            Shape::Option(_) => {
                Missing::Default("null".to_owned(), quote!(::core::option::Option::None))
            }
            Shape::List(_) => Missing::Default("[]".to_owned(), quote!(::std::vec::Vec::new())),
            Shape::Map(_) => {
                Missing::Default("{}".to_owned(), quote!(::std::collections::BTreeMap::new()))
            }
            Shape::Other(_) => Missing::Kind,
            _ => Missing::Refused,
        });
    };
    if setting.required {
        return Err(syn::Error::new_spanned(
            field,
            "a required setting has no default",
        ));
    }
    check_default(field, setting, default)?;
    let rust = default
        .rust(shape)
        .map_err(|error| syn::Error::new_spanned(field, error))?;
    Ok(Missing::Default(default.json(), rust))
}

/// Refuses a default that the setting's own limits refuse.
fn check_default(field: &Field, setting: &Setting, default: &Value) -> syn::Result<()> {
    match default {
        Value::List(items) => items
            .iter()
            .try_for_each(|item| check_default(field, setting, item)),
        Value::Text(text)
            if setting
                .one_of
                .as_ref()
                .is_some_and(|all| all.iter().all(|one| one.value() != *text)) =>
        {
            Err(syn::Error::new_spanned(
                field,
                "the default is none of the choices",
            ))
        }
        value
            if value
                .as_f64()
                .is_some_and(|number| !setting.contains(number)) =>
        {
            Err(syn::Error::new_spanned(
                field,
                "the default is outside the range",
            ))
        }
        _ => Ok(()),
    }
}
