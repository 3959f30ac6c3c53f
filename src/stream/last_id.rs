//! The last event id of a stream, without an allocation for a short one.

/// Bytes of an id that are kept in the record itself: a counter, a time in milliseconds, an id of a Redis stream.
/// As many as fit beside a [`Vec`].
const MAX_INLINE_LEN: usize = 15;
/// The buffer of longer ids grows in steps of this many bytes.
const HEAP_CAPACITY_STEP: usize = 16;

#[derive(Debug)]
pub(super) enum LastId {
    Inline {
        len: u8,
        bytes: [u8; MAX_INLINE_LEN],
    },
    Heap(Vec<u8>),
}

const _: () = assert!(size_of::<LastId>() == size_of::<Vec<u8>>());

impl Default for LastId {
    fn default() -> Self {
        Self::Inline {
            len: 0,
            bytes: [0; MAX_INLINE_LEN],
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
            Self::Inline { len, bytes } if id.len() <= MAX_INLINE_LEN => {
                bytes[..id.len()].copy_from_slice(id);
                *len = u8::try_from(id.len()).unwrap_or_default();
            }
            Self::Inline { .. } => {
                let mut bytes = Vec::with_capacity(id.len().next_multiple_of(HEAP_CAPACITY_STEP));
                bytes.extend_from_slice(id);
                *self = Self::Heap(bytes);
            }
            Self::Heap(bytes) => {
                bytes.clear();
                if bytes.capacity() < id.len() {
                    bytes.reserve_exact(id.len().next_multiple_of(HEAP_CAPACITY_STEP));
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
    fn last_id_keeps_ids_of_any_length() {
        let ids = [
            0,
            1,
            MAX_INLINE_LEN,
            0,
            MAX_INLINE_LEN + 1,
            3,
            100,
            0,
            MAX_INLINE_LEN,
        ];
        let mut last = LastId::default();
        assert_eq!(last.as_bytes(), b"");
        for (round, len) in ids.into_iter().enumerate() {
            let id = vec![b'0' + u8::try_from(round).unwrap(); len];
            last.set(&id);
            assert_eq!(last.as_bytes(), id);
        }
    }
}
