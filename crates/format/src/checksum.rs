//! Checksum algorithms of the files in a backup manifest, by name and number.

/// Checksum algorithm of a file, `pg_checksum_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// No checksum.
    None,
    /// CRC-32C.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// All algorithms, each at the index of its [`code`](Self::code).
    const ALL: [Self; 6] = [
        Self::None,
        Self::Crc32c,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
    ];

    /// Finds an algorithm by its name, in upper or lower case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| {
            algorithm
                .name()
                .unwrap_or("NONE")
                .eq_ignore_ascii_case(name)
        })
    }

    /// The name in a manifest; `None` for no checksum.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Crc32c => Some("CRC32C"),
            Self::Sha224 => Some("SHA224"),
            Self::Sha256 => Some("SHA256"),
            Self::Sha384 => Some("SHA384"),
            Self::Sha512 => Some("SHA512"),
        }
    }

    /// The length of a checksum in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32c => 4,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The algorithm's number in `pg_checksum_type`.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The algorithm with this number, if any.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_the_names_lengths_and_codes_of_the_server() {
        for (code, (name, len)) in [
            ("NONE", 0),
            ("CRC32C", 4),
            ("SHA224", 28),
            ("SHA256", 32),
            ("SHA384", 48),
            ("SHA512", 64),
        ]
        .into_iter()
        .enumerate()
        {
            let code = code as u8;
            let algorithm = Algorithm::from_code(code);
            assert_eq!(algorithm.map(Algorithm::code), Some(code));
            assert_eq!(algorithm.map(Algorithm::digest_len), Some(len));
            assert_eq!(algorithm.map(|a| a.name().unwrap_or("NONE")), Some(name));
            assert_eq!(Algorithm::parse(name), algorithm);
            assert_eq!(Algorithm::parse(&name.to_lowercase()), algorithm);
        }
        assert_eq!(Algorithm::from_code(6), None);
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in [
            "", "OFF", "md5", "SHA", "SHA-256", "sha2567", " NONE", "crc32",
        ] {
            assert_eq!(Algorithm::parse(name), None, "{name}");
        }
        assert_eq!(Algorithm::parse("Sha512"), Some(Algorithm::Sha512));
    }
}
