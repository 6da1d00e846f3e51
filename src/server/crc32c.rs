//! CRC-32C (port/pg_crc32c.h) by 256-bit carry-less multiplication, for processors that have it and no AVX-512, and
//! the checksums of pages (storage/checksum_impl.h) in the same loop.
//!
//! The method is that of Gopal and others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
//! Instruction" (Intel, 2009), with the bits reflected: 128 bits are moved over a distance by two products with
//! powers of x. The instruction crc32 uses other units of the processor. So a block is divided: the multiplication
//! has its beginning, and three chains of crc32 have what follows. The four checksums are moved to the end of the chains
//! and added, and the last word comes after that. Of the divisions that were tried on Zen 3, this is one of the fastest.
//!
//! A page's own checksum needs multiplications of another kind, for which the processor has time meanwhile. The
//! order of the statements counts: each unit has a short queue, and has to find work of its own in it.

use core::arch::x86_64::{
    __m128i, __m256i, _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi32_si128,
    _mm_cvtsi128_si64, _mm_extract_epi64, _mm_set_epi64x, _mm_xor_si128, _mm256_and_si256,
    _mm256_castsi256_si128, _mm256_clmulepi64_epi128, _mm256_extracti128_si256, _mm256_loadu_si256,
    _mm256_mullo_epi32, _mm256_set_epi64x, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_srli_epi32, _mm256_xor_si256,
};

use backup_format::page;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The polynomial, its bits reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

type Vector = [u8; 32];
type Word = [u8; 8];

/// Vectors that a step multiplies.
const VECTORS: usize = 4;
/// Words that each chain of crc32 takes in a step.
const WORDS: usize = 5;
const CHAINS: usize = 3;
const STEPS: usize = 33;

/// Bytes that a step multiplies, and those of each chain.
const STRIDE: usize = size_of::<[Vector; VECTORS]>();
const CHAINED: usize = STEPS * size_of::<[Word; WORDS]>();

/// Bytes that are taken at once: a page of the usual size.
pub const BLOCK: usize = size_of::<Block>();
const _: () = assert!(BLOCK == 8192);

/// The division of a block.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Block {
    multiplied: [[Vector; VECTORS]; STEPS],
    chained: [[[Word; WORDS]; STEPS]; CHAINS],
    last: Word,
}

/// The same block as a page, whose checksum has 32 sums. They take a row of it after the other: two in a step.
type Rows = [[[Vector; SUMS]; 2]; BLOCK / size_of::<[[Vector; SUMS]; 2]>()];
/// Vectors that hold the sums.
const SUMS: usize = 4;
// A step mixes two rows, a quarter of them beside each of its vectors. The last step has no rows.
const _: () = assert!(VECTORS == 4 && SUMS == 4 && VECTORS <= WORDS);
const _: () = assert!(BLOCK == (STEPS - 1) * size_of::<[[Vector; SUMS]; 2]>());

/// A checksum that grows.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c {
    /// Not yet inverted.
    crc: u32,
}

impl Crc32c {
    /// The checksum of nothing. `None` where the processor lacks instructions, or has wider ones for which the
    /// crate crc-fast has a faster way.
    #[must_use]
    pub fn new(allow_wider: bool) -> Option<Self> {
        let has_all = is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("sse4.2");
        let has_wider = is_x86_feature_detected!("avx512vl");
        (has_all && !(has_wider && allow_wider)).then_some(Self { crc: !0 })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        // SAFETY: a value exists only where the processor has the instructions.
        self.crc = unsafe { updated(self.crc, bytes) };
    }

    /// Adds a page, and returns the checksum that it should carry as block `number` of its relation's fork.
    ///
    /// # Panics
    /// Where the page has not [`BLOCK`] bytes.
    #[must_use]
    pub fn update_by_page(&mut self, page: &[u8], number: u32) -> u16 {
        let Ok(page) = page.try_into() else {
            panic!("a page of another size cannot be taken at once")
        };
        // SAFETY: as above.
        let (crc, checksum) = unsafe { updated_by_page(self.crc, page, number) };
        self.crc = crc;
        checksum
    }

    /// The checksum of all bytes.
    #[must_use]
    pub fn finish(self) -> u32 {
        !self.crc
    }
}

/// x to the power of `exponent` modulo the polynomial, with the bits reflected.
const fn power(exponent: usize) -> u32 {
    let mut value = 1 << 31;
    let mut count = 0;
    while count < exponent {
        value = (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 };
        count += 1;
    }
    value
}

/// Factors that move 128 bits over so many bytes: one for the upper half, and one for the lower, which is 64 bits
/// further away. They have the bit that a product of reflected numbers lacks.
const fn factors(bytes: usize) -> (i64, i64) {
    let (upper, lower) = (power(bytes * 8 - 32), power(bytes * 8 + 32));
    ((upper as i64) << 1, (lower as i64) << 1)
}

#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn updated(mut crc: u32, mut bytes: &[u8]) -> u32 {
    let mut no_sums = PageSums::new();
    while let Some((block, rest)) = bytes.split_first_chunk() {
        crc = updated_by_block::<false>(crc, block, &mut no_sums);
        bytes = rest;
    }
    let (words, rest) = bytes.as_chunks();
    let mut chain = u64::from(crc);
    for word in words {
        chain = chained(chain, word);
    }
    crc = chain as u32;
    for byte in rest {
        crc = _mm_crc32_u8(crc, *byte);
    }
    crc
}

#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn updated_by_page(crc: u32, page: &[u8; BLOCK], number: u32) -> (u32, u16) {
    let mut sums = PageSums::new();
    let crc = updated_by_block::<true>(crc, page, &mut sums);
    (crc, sums.finish(number))
}

/// Adds a block to a checksum, and `WITH_SUMS` to the new sums of a page.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn updated_by_block<const WITH_SUMS: bool>(
    crc: u32,
    bytes: &[u8; BLOCK],
    sums: &mut PageSums,
) -> u32 {
    let block: &Block = zerocopy::transmute_ref!(bytes);
    let rows: &Rows = zerocopy::transmute_ref!(bytes);
    let mut chains = [0; CHAINS];
    // The first vectors are multiplied with nothing.
    let mut products = block.multiplied[0].map(|bytes| vector(&bytes));
    products[0] = _mm256_xor_si256(products[0], _mm256_set_epi64x(0, 0, 0, i64::from(crc)));
    for word in 0..WORDS {
        chain(&mut chains, block, 0, word);
    }
    if WITH_SUMS {
        let [first, second] = &rows[0];
        sums.mix_first_row(first);
        sums.mix_row(second);
    }
    let factor = twice(const { factors(STRIDE) });
    #[expect(
        clippy::needless_range_loop,
        reason = "by an iterator it is a quarter slower"
    )]
    for step in 1..rows.len() {
        for part in 0..VECTORS {
            let there = vector(&block.multiplied[step][part]);
            products[part] = moved(products[part], factor, there);
            // A quarter of two rows.
            let (row, half) = (&rows[step][part / 2], part % 2 * 2);
            if WITH_SUMS {
                sums.mix(half, &row[half]);
            }
            chain(&mut chains, block, step, part);
            if WITH_SUMS {
                sums.mix(half + 1, &row[half + 1]);
            }
        }
        for word in VECTORS..WORDS {
            chain(&mut chains, block, step, word);
        }
    }
    let step = STEPS - 1;
    for (product, there) in products.iter_mut().zip(&block.multiplied[step]) {
        *product = moved(*product, factor, vector(there));
    }
    for word in 0..WORDS {
        chain(&mut chains, block, step, word);
    }
    let crc = joined(products, chains);
    chained(u64::from(crc), &block.last) as u32
}

/// Continues all chains of a block by one word.
#[inline]
#[target_feature(enable = "sse4.2")]
fn chain(chains: &mut [u64; CHAINS], block: &Block, step: usize, word: usize) {
    for (chain, words) in chains.iter_mut().zip(&block.chained) {
        *chain = chained(*chain, &words[step][word]);
    }
}

/// The checksum of the products and the chains that follow them.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn joined(products: [__m256i; VECTORS], chains: [u64; CHAINS]) -> u32 {
    const VECTOR: usize = size_of::<Vector>();
    let half = twice(const { factors(2 * VECTOR) });
    let pair = [
        moved(products[0], half, products[2]),
        moved(products[1], half, products[3]),
    ];
    let last = moved(pair[0], twice(const { factors(VECTOR) }), pair[1]);
    let (upper, lower) = const { factors(VECTOR / 2) };
    let sum = moved_half(
        _mm256_castsi256_si128(last),
        _mm_set_epi64x(upper, lower),
        _mm256_extracti128_si256::<1>(last),
    );
    let beginning = _mm_crc32_u64(0, _mm_extract_epi64::<0>(sum).cast_unsigned());
    let beginning = _mm_crc32_u64(beginning, _mm_extract_epi64::<1>(sum).cast_unsigned());
    let before_last = carried(beginning, const { power_for(3 * CHAINED) })
        ^ carried(chains[0], const { power_for(2 * CHAINED) })
        ^ carried(chains[1], const { power_for(CHAINED) });
    (_mm_crc32_u64(0, before_last) ^ chains[2]) as u32
}

/// The partial checksums of a page, eight in a vector.
struct PageSums([__m256i; SUMS]);

impl PageSums {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        let offsets: &[Vector; SUMS] = zerocopy::transmute_ref!(&page::CHECKSUM_BASE_OFFSETS);
        Self(offsets.map(|offsets| vector(&offsets)))
    }

    /// Mixes a part of a row into the sums of a vector.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn mix(&mut self, sums: usize, words: &Vector) {
        self.mix_vector(sums, vector(words));
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn mix_vector(&mut self, sums: usize, words: __m256i) {
        let prime = _mm256_set1_epi32(page::FNV_PRIME.cast_signed());
        let mixed = _mm256_xor_si256(self.0[sums], words);
        self.0[sums] = _mm256_xor_si256(
            _mm256_mullo_epi32(mixed, prime),
            _mm256_srli_epi32::<17>(mixed),
        );
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn mix_row(&mut self, row: &[Vector; SUMS]) {
        for (sums, words) in row.iter().enumerate() {
            self.mix(sums, words);
        }
    }

    /// The same of a page's first row, whose checksum counts as zero.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn mix_first_row(&mut self, row: &[Vector; SUMS]) {
        let but_checksum = _mm256_set_epi64x(-1, -1, !0xFFFF, -1);
        let first = _mm256_and_si256(vector(&row[0]), but_checksum);
        self.mix_vector(0, first);
        for (sums, words) in row.iter().enumerate().skip(1) {
            self.mix(sums, words);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn finish(mut self, number: u32) -> u16 {
        for sums in 0..SUMS {
            self.mix_vector(sums, _mm256_setzero_si256());
            self.mix_vector(sums, _mm256_setzero_si256());
        }
        let [first, second, third, fourth] = self.0;
        let folded = _mm256_xor_si256(
            _mm256_xor_si256(first, second),
            _mm256_xor_si256(third, fourth),
        );
        let folded = _mm_xor_si128(
            _mm256_castsi256_si128(folded),
            _mm256_extracti128_si256::<1>(folded),
        );
        let folded = _mm_extract_epi64::<0>(folded) ^ _mm_extract_epi64::<1>(folded);
        page::checksum_of_sums((folded ^ folded >> 32) as u32, number)
    }
}

/// Continues a chain of crc32 by a word.
#[inline]
#[target_feature(enable = "sse4.2")]
fn chained(crc: u64, word: &[u8; 8]) -> u64 {
    _mm_crc32_u64(crc, u64::from_le_bytes(*word))
}

/// Factor by which [`carried`] moves a checksum over so many bytes. The reduction of the product moves it over
/// 32 bits, and reflected numbers lack a bit.
const fn power_for(bytes: usize) -> u32 {
    power(bytes * 8 - 33)
}

/// A checksum times a power of x. It has 64 bits, which crc32 reduces.
#[inline]
#[target_feature(enable = "pclmulqdq,sse4.2")]
fn carried(crc: u64, power: u32) -> u64 {
    let power = _mm_cvtsi32_si128(power.cast_signed());
    let product = _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, crc.cast_signed()), power);
    _mm_cvtsi128_si64(product).cast_unsigned()
}

/// Moves both lanes of `sum`, and adds what is there.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
fn moved(sum: __m256i, factors: __m256i, there: __m256i) -> __m256i {
    let lower = _mm256_clmulepi64_epi128::<0x00>(sum, factors);
    let upper = _mm256_clmulepi64_epi128::<0x11>(sum, factors);
    _mm256_xor_si256(_mm256_xor_si256(lower, upper), there)
}

/// The same of one lane.
#[inline]
#[target_feature(enable = "pclmulqdq,sse4.2")]
fn moved_half(sum: __m128i, factors: __m128i, there: __m128i) -> __m128i {
    let lower = _mm_clmulepi64_si128::<0x00>(sum, factors);
    let upper = _mm_clmulepi64_si128::<0x11>(sum, factors);
    _mm_xor_si128(_mm_xor_si128(lower, upper), there)
}

/// Factors for both lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn twice((upper, lower): (i64, i64)) -> __m256i {
    _mm256_set_epi64x(upper, lower, upper, lower)
}

#[inline]
#[target_feature(enable = "avx2")]
fn vector(bytes: &Vector) -> __m256i {
    // SAFETY: so many bytes, which need not be aligned.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::pg_test;

    use super::{BLOCK, Crc32c};
    use crate::server::page_checksum;

    fn bit_by_bit(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { super::POLYNOMIAL } else { 0 }
            })
        })
    }

    /// Bytes without a pattern, the same in every run.
    fn noise(length: usize) -> Vec<u8> {
        let numbers = 0..length as u32;
        numbers
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect()
    }

    #[pg_test]
    fn a_page_gets_both_checksums_at_once() {
        let mut bytes = noise(100 + 20 * BLOCK);
        let Some(mut crc) = Crc32c::new(false) else {
            return;
        };
        crc.update(&bytes[..100]);
        let pages = bytes[100..].as_chunks_mut::<BLOCK>().0;
        for (number, page) in (131_070..).zip(pages) {
            assert_eq!(
                crc.update_by_page(page, number),
                page_checksum::by_server(page, number),
                "{number}"
            );
        }
        crc.update(&[1, 2, 3]);
        bytes.extend([1, 2, 3]);
        assert_eq!(crc.finish(), bit_by_bit(&bytes));
    }

    #[pg_test]
    fn products_give_the_checksum_that_bits_give() {
        let bytes = noise(3 * BLOCK + 100);
        let whole = [
            0,
            1,
            7,
            8,
            9,
            63,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            3 * BLOCK + 81,
        ];
        for length in whole {
            for start in [0, 1, 8, 13] {
                let bytes = &bytes[start..start + length];
                let Some(mut crc) = Crc32c::new(false) else {
                    // Other processors have the checksums of the crate.
                    return;
                };
                let (one, two) = bytes.split_at(length / 3);
                crc.update(one);
                crc.update(two);
                assert_eq!(
                    crc.finish(),
                    bit_by_bit(bytes),
                    "{length} bytes from {start}"
                );
            }
        }
    }
}
