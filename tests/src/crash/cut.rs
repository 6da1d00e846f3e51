//! Power cuts, by what they leave.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// What a power cut leaves of what was not synchronized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// All names, and none of the bytes.
    Names,
    /// All names and lengths, with zeros for bytes.
    Lengths,
    /// All bytes, and none of the names.
    Bytes,
    /// What was renamed or removed, and nothing that was made.
    Renames,
    /// Some of it, by lot. The number chooses which.
    Some(u32),
}

impl Cut {
    /// All of them, with so many that draw lots.
    pub fn all(lots: u32) -> Vec<Self> {
        use Cut::{Bytes, Everything, Lengths, Names, Nothing, Renames};
        let mut cuts = vec![Nothing, Everything, Names, Lengths, Bytes, Renames];
        cuts.extend((0..lots).map(Cut::Some));
        cuts
    }

    /// Whether a change of names is left. Changes have numbers; one removes a name, or does not.
    pub fn leaves_name(self, number: usize, removes: bool) -> bool {
        match self {
            Self::Nothing | Self::Bytes => false,
            Self::Everything | Self::Names | Self::Lengths => true,
            Self::Renames => removes,
            Self::Some(lot) => coin(lot, number),
        }
    }

    /// Whether what was written to a file is left.
    pub fn leaves_bytes(self, number: usize) -> bool {
        match self {
            Self::Nothing | Self::Names | Self::Renames => false,
            Self::Everything | Self::Lengths | Self::Bytes => true,
            Self::Some(lot) => coin(lot, number),
        }
    }
}

fn coin(lot: u32, number: usize) -> bool {
    let mut hasher = DefaultHasher::new();
    (lot, number).hash(&mut hasher);
    hasher.finish() & 1 == 0
}
