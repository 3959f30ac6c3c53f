//! From a [`Value`] to a type of the config.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Uri};
use ipnet::IpNet;

use super::super::listen_address::ListenAddress;
use super::super::unix::{FileMode, TrustedProxies};
use super::{Origins, Rate, ReadyWhen, Value};

/// What a [`Value`] of the right kind becomes in the typed config.
pub(in super::super) trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Off | Value::Auto => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// One impl per type that a variant holds as it is.
macro_rules! from_variant {
    ($($variant:ident => $type:ty,)*) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::$variant(inner) => Some(inner.clone()),
                    _ => None,
                }
            }
        })*
    };
}

from_variant! {
    Duration => Duration,
    Count => NonZeroU32,
    Size => u64,
    Rate => Rate,
    Fraction => f64,
    Bool => bool,
    Text => String,
    Address => SocketAddr,
    Listen => ListenAddress,
    ListenAll => Vec<ListenAddress>,
    Mode => FileMode,
    Proxies => TrustedProxies,
    Url => Uri,
    Path => PathAndQuery,
    Networks => Vec<IpNet>,
    Methods => Vec<Method>,
    Origins => Origins,
    ReadyWhen => ReadyWhen,
    Prefix => u8,
    Port => NonZeroU16,
}

/// Either is a list of texts.
impl FromValue for Vec<String> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Words(texts) | Value::Files(texts) => Some(texts.clone()),
            _ => None,
        }
    }
}

/// One impl per type of a size; the kind guarantees that the value fits.
macro_rules! from_size {
    ($($type:ty,)*) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                u64::from_value(value)?.try_into().ok()
            }
        })*
    };
}

from_size! { u32, usize, }

/// A type whose values are words.
pub(in super::super) trait Choice: Sized {
    /// The words, in the order of the help.
    const WORDS: &'static [&'static str];
}

/// Implements [`Choice`] and [`FromValue`] for an enum: a word for each variant.
macro_rules! choice {
    ($type:ident { $($word:literal => $variant:ident,)* }) => {
        impl $crate::config::value::Choice for $type {
            const WORDS: &'static [&'static str] = &[$($word),*];
        }

        impl $crate::config::value::FromValue for $type {
            fn from_value(value: &$crate::config::value::Value) -> Option<Self> {
                match value {
                    $crate::config::value::Value::Text(word) => match word.as_str() {
                        $($word => Some(Self::$variant),)*
                        _ => None,
                    },
                    _ => None,
                }
            }
        }
    };
}

pub(in super::super) use choice;
