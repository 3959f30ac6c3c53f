//! The connection preface by which a client begins HTTP/2, RFC 9113 section 3.4.

/// No method of HTTP/1.1 begins like this.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns true if the input begins with the preface.
pub(in crate::serve) fn has_preface(input: &[u8]) -> bool {
    input.starts_with(PREFACE)
}

/// Returns true if more input decides whether it begins with the preface.
pub(in crate::serve) fn is_preface_incomplete(input: &[u8]) -> bool {
    input.len() < PREFACE.len() && PREFACE.starts_with(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preface_is_complete_only_as_a_whole() {
        for (input, has, is_incomplete) in [
            (&b"P"[..], false, true),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", false, true),
            (PREFACE, true, false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", true, false),
            (b"POST / HTTP/1.1\r\n", false, false),
            (b"PRI * HTTP/1.1\r\n", false, false),
        ] {
            assert_eq!(has_preface(input), has);
            assert_eq!(is_preface_incomplete(input), is_incomplete);
        }
    }
}
