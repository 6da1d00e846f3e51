//! Withheld end of an archive, without which it is recognizably incomplete.

use anyhow::Result;
use backup_format::archive::END;

/// Passes bytes on except for the last two blocks.
#[derive(Debug, Default)]
pub struct WithheldEnd(Vec<u8>);

impl WithheldEnd {
    /// Adds bytes; `pass` receives those that cannot belong to the end.
    ///
    /// # Errors
    /// Errors of `pass`.
    pub fn push(&mut self, bytes: &[u8], mut pass: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        // A piece is larger than the end, but for the last one.
        let all = self.0.len() + bytes.len();
        let from_held_back = all.saturating_sub(END.len()).min(self.0.len());
        if from_held_back > 0 {
            pass(&self.0[..from_held_back])?;
            self.0.drain(..from_held_back);
        }
        let kept = (END.len() - self.0.len()).min(bytes.len());
        let (now, later) = bytes.split_at(bytes.len() - kept);
        if !now.is_empty() {
            pass(now)?;
        }
        self.0.extend_from_slice(later);
        Ok(())
    }

    /// The withheld bytes.
    pub fn into_inner(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn all_but_the_end_passes_in_order() {
        let bytes: Vec<_> = (0..10_000).map(|n| n as u8).collect();
        for piece in [1, 100, 1023, 1024, 1025, 3000, 10_000] {
            let mut held_back = WithheldEnd::default();
            let mut passed = Vec::new();
            for bytes in bytes.chunks(piece) {
                let mut pass = |bytes: &[u8]| {
                    passed.extend_from_slice(bytes);
                    Ok(())
                };
                held_back.push(bytes, &mut pass).unwrap();
            }
            assert!(passed == bytes[..10_000 - END.len()], "{piece}");
            assert!(held_back.into_inner() == bytes[10_000 - END.len()..]);
        }
    }
}
