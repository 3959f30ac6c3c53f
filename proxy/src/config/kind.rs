//! The kinds of values.

/// The kind of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A length of time above zero: `15s`.
    Duration,
    /// A length of time, zero included: `0s`.
    DurationOrZero,
    /// A length of time above zero, or `off`.
    DurationOrOff,
    /// A length of time above zero, `auto`, or `off`.
    DurationAutoOrOff,
    /// A whole number above zero.
    Count,
    /// A whole number above zero, or `off`.
    CountOrOff,
    /// A count per second, minute or hour, or `off`: `50/s`.
    RateOrOff,
    /// A number of bytes from the first to the second: `64KiB`.
    Size(u64, u64),
    /// The same, or `off`.
    SizeOrOff(u64, u64),
    /// A number from 0 to 1.
    Fraction,
    /// The same, or `off`.
    FractionOrOff,
    /// `true` or `false`.
    Bool,
    /// The same, or `auto`.
    BoolOrAuto,
    /// One line of text, which may be empty.
    Text,
    /// One line of text that is not empty.
    Filled,
    /// One line of text that is not empty, or `off`.
    FilledOrOff,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path with perhaps a query, as a request has it, or `off`.
    PathOrOff,
    /// The name of a header, or `off`.
    HeaderOrOff,
    /// A secret of 16 visible characters or more, or `off`.
    SecretOrOff,
    /// An IP address and a port: `127.0.0.1:8080`; `:8080` for all addresses, `localhost:8080` for loopback.
    Address,
    /// The same, or `off`.
    AddressOrOff,
    /// An `http://` URL without credentials, query and fragment.
    Url,
    /// A list of networks: `10.0.0.0/8`.
    Networks,
    /// A list of words.
    Words,
    /// A list of HTTP methods, with at least one.
    Methods,
    /// `upstream`, `*`, `off`, or a list of web origins: `https://app.example`.
    Origins,
    /// `any`, `all`, or a list of routes by their paths: `/v1`.
    ReadyWhen,
    /// The length of an IPv6 prefix, 1 to 128.
    Prefix,
}

impl Kind {
    /// Whether `off` is a value of this kind.
    #[must_use]
    pub fn takes_off(self) -> bool {
        matches!(
            self,
            Self::DurationOrOff
                | Self::DurationAutoOrOff
                | Self::CountOrOff
                | Self::RateOrOff
                | Self::SizeOrOff(..)
                | Self::FractionOrOff
                | Self::FilledOrOff
                | Self::PathOrOff
                | Self::HeaderOrOff
                | Self::SecretOrOff
                | Self::AddressOrOff
                | Self::Origins
        )
    }

    /// Whether the value is a list: an array in the file, comma-separated elsewhere.
    #[must_use]
    pub fn is_list(self) -> bool {
        matches!(self, Self::Networks | Self::Words | Self::Methods)
    }
}
