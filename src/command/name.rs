//! A command's name in two machine words.
//!
//! Every hit begins with finding the row of `GET` or `hget`. A name of up to 16 bytes is read as two words whose
//! ASCII letters are lowered eight at a time, so that hashing and comparing it need no loop and no copy: a row is
//! found in some 5 ns. Longer names (GEORADIUSBYMEMBER and a few others) are left to a plain search, which costs
//! them some 20 ns.

/// Bytes that fit.
const LEN_MAX: usize = 16;

/// A name of 1 to 16 bytes, its letters in lower case. Equal if and only if the names are, but for their case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// A short name whole, of a longer one the first bytes. Pieces may overlap: that is why the length belongs to
    /// the name.
    head: u64,
    /// The last bytes of a name of eight bytes and more.
    tail: u64,
    len: u8,
}

impl Name {
    /// No name at all.
    pub(super) const NONE: Self = Self { head: 0, tail: 0, len: 0 };

    /// Packs a name, unless it is empty or too long.
    #[inline]
    pub(super) fn pack(name: &[u8]) -> Option<Self> {
        let len = name.len();
        let word = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
        let (head, tail) = match len {
            1..=3 => (u64::from(name[0]) | u64::from(name[len / 2]) << 8 | u64::from(name[len - 1]) << 16, 0),
            4..=7 => (word(name.first_chunk()?) | word(name.last_chunk()?) << 32, 0),
            8..=LEN_MAX => {
                (u64::from_le_bytes(*name.first_chunk()?), lower(u64::from_le_bytes(*name.last_chunk()?)))
            }
            _ => return None,
        };
        Some(Self { head: lower(head), tail, len: len as u8 })
    }

    /// A number well spread in its lower bits. `salt` tells one container's subcommands from another's.
    #[inline]
    pub(super) fn hash(self, salt: u16) -> u64 {
        let salt = u64::from(salt) << 8 | u64::from(self.len);
        let mixed = self.head ^ self.tail.rotate_left(29) ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32
    }
}

/// Lowers the ASCII letters among eight bytes: 0x20 is set in a byte that is at least `A` (0x41), not above `Z` (0x5a)
/// and below 0x80. The additions carry into a byte's top bit and no further, because that bit was cleared.
#[inline]
fn lower(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    let low_bits = word & !HIGH;
    let from_a = low_bits + (0x80 - 0x41) * EACH;
    let beyond_z = low_bits + (0x7f - 0x5a) * EACH;
    let upper_case = (from_a & !beyond_z) & !word & HIGH;
    word | upper_case >> 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equal_exactly_when_the_names_are_but_for_case(
            a in prop::collection::vec(prop_oneof![Just(b'a'), Just(b'A'), Just(b'@'), Just(b'['), any::<u8>()], 1..=16),
            b in prop::collection::vec(prop_oneof![Just(b'a'), Just(b'A'), Just(b'`'), Just(b'{'), any::<u8>()], 1..=16),
        ) {
            prop_assert_eq!(Name::pack(&a) == Name::pack(&b), a.eq_ignore_ascii_case(&b));
            prop_assert_eq!(Name::pack(&a), Name::pack(&a.to_ascii_uppercase()));
            // One byte changed anywhere must show.
            for at in 0..a.len() {
                let mut other = a.clone();
                other[at] = b[at % b.len()];
                prop_assert_eq!(Name::pack(&a) == Name::pack(&other), a.eq_ignore_ascii_case(&other));
            }
        }
    }

    #[test]
    fn only_ascii_letters_have_two_cases() {
        for a in 0..=u8::MAX {
            for b in 0..=u8::MAX {
                for len in [1, 3, 5, 8, 16] {
                    let same = Name::pack(&[a; 16][..len]) == Name::pack(&[b; 16][..len]);
                    assert_eq!(same, a.eq_ignore_ascii_case(&b), "{len} times {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn neither_nothing_nor_seventeen_bytes_can_be_packed() {
        assert_eq!(Name::pack(b""), None);
        assert!(Name::pack(&[b'x'; 16]).is_some());
        assert_eq!(Name::pack(&[b'x'; 17]), None);
    }

    #[test]
    fn a_prefix_is_another_name() {
        for len in 1..16 {
            assert_ne!(Name::pack(&[b'a'; 16][..len]), Name::pack(&[b'a'; 16][..=len]), "{len}");
        }
    }
}
