//! Enums without data: a choice of names.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataEnum, DeriveInput, Fields};

use crate::{
    attributes::{Setting, docs},
    literal::{quoted, snake_case},
};

pub(crate) fn expand(input: &DeriveInput, data: &DataEnum) -> syn::Result<TokenStream> {
    let name = &input.ident;
    let (mut names, mut descriptions, mut arms) = (Vec::new(), Vec::new(), Vec::new());
    let mut default = None;
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(syn::Error::new_spanned(
                variant,
                "choices are names alone: a variant cannot hold data",
            ));
        }
        let ident = &variant.ident;
        let text = snake_case(&ident.to_string());
        names.push(quoted(&text));
        descriptions.push(quoted(&docs(&variant.attrs)));
        arms.push(quote!(#text => ::core::option::Option::Some(Self::#ident)));
        if Setting::read(&variant.attrs)?.is_default
            && default.replace((ident, quoted(&text))).is_some()
        {
            return Err(syn::Error::new_spanned(
                variant,
                "only one choice can be the default",
            ));
        }
    }
    let body = format!(
        r#""type":"string","enum":[{}],"enumDescriptions":[{}]"#,
        names.join(","),
        descriptions.join(",")
    );
    let (default_text, default_impl) = match default {
        Some((ident, text)) => {
            let build = quote! {
                impl ::core::default::Default for #name {
                    fn default() -> Self {
                        Self::#ident
                    }
                }
            };
            (quote!(::core::option::Option::Some(#text)), build)
        }
        None => (quote!(::core::option::Option::None), TokenStream::new()),
    };
    Ok(quote! {
        impl ::plugin_api::settings::SettingKind for #name {
            const BODY: &'static str = #body;
            const DEFAULT: ::core::option::Option<&'static str> = #default_text;
            fn read(value: &::plugin_api::settings::Json) -> ::core::option::Option<Self> {
                match value.as_str()? {
                    #(#arms,)*
                    _ => ::core::option::Option::None,
                }
            }
        }

        #default_impl
    })
}
