//! Digests: kept in place of keys, tokens and names that only need to be compared for equality.

use ring::digest::{Context, SHA256};

/// The first half of a SHA-256: 128 bits, which two different texts never share in practice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// The digest of a text.
    pub fn of(text: impl AsRef<[u8]>) -> Digest {
        Digest::of_parts([text])
    }

    /// The digest of several texts: only the same texts in the same order have the same digest.
    pub(super) fn of_parts<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Digest {
        let mut context = Context::new(&SHA256);
        for part in parts {
            let part = part.as_ref();
            // With its length, so that the boundaries between parts count, too.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let whole = context.finish();
        let half = whole.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
        Digest(*half)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("digest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_parts_have_the_same_digest() {
        let different = [&["ab", "c"][..], &["a", "bc"], &["abc"], &["abc", ""], &[]];
        for (index, parts) in different.iter().enumerate() {
            for (other_index, other) in different.iter().enumerate() {
                assert_eq!(Digest::of_parts(*parts) == Digest::of_parts(*other), index == other_index, "{parts:?}");
            }
        }
        assert_eq!(Digest::of("abc"), Digest::of_parts(["abc"]));
        assert_eq!(format!("{:?}", Digest::of("abc")), "digest");
    }
}
