//! The last event id of a stream, without an allocation for a short one.

/// Bytes of an id that are kept in the record itself: a counter, a time in milliseconds, an id of a Redis stream.
/// As many as fit beside a [`Vec`].
const INLINE: usize = 15;
/// The buffer of longer ids grows in steps of this many bytes.
const STEP: usize = 16;

#[derive(Debug)]
pub(super) enum LastId {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Vec<u8>),
}

const _: () = assert!(size_of::<LastId>() == size_of::<Vec<u8>>());

impl Default for LastId {
    fn default() -> Self {
        Self::Inline {
            len: 0,
            bytes: [0; INLINE],
        }
    }
}

impl LastId {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Heap(bytes) => bytes,
        }
    }

    pub(super) fn set(&mut self, id: &[u8]) {
        match self {
            Self::Inline { len, bytes } if id.len() <= INLINE => {
                bytes[..id.len()].copy_from_slice(id);
                *len = u8::try_from(id.len()).unwrap_or_default();
            }
            Self::Inline { .. } => {
                let mut bytes = Vec::with_capacity(id.len().next_multiple_of(STEP));
                bytes.extend_from_slice(id);
                *self = Self::Heap(bytes);
            }
            Self::Heap(bytes) => {
                bytes.clear();
                if bytes.capacity() < id.len() {
                    bytes.reserve_exact(id.len().next_multiple_of(STEP));
                }
                bytes.extend_from_slice(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_kept_whatever_its_length_and_the_one_before() {
        let ids = [0, 1, INLINE, 0, INLINE + 1, 3, 100, 0, INLINE];
        let mut last = LastId::default();
        assert_eq!(last.as_bytes(), b"");
        for (round, len) in ids.into_iter().enumerate() {
            let id = vec![b'0' + u8::try_from(round).unwrap(); len];
            last.set(&id);
            assert_eq!(last.as_bytes(), id);
        }
    }
}
