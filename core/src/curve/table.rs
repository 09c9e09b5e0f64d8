//! Powers of points that are raised again and again, read in constant time.
//!
//! A scalar is written with odd digits alone, so that no digit is 0 and every window costs one addition. The
//! additions of many powers go in step, in affine coordinates: then one field inversion serves a whole step
//! (Montgomery's trick), and an addition costs six multiplications instead of eleven.

use std::sync::LazyLock;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use blst::*;
use zeroize::{Zeroize, Zeroizing};

use super::{G1, G1Affine, G2, G2Affine, Scalar};
use crate::tables::{self, Profile};

/// Bits of a window.
const WIDTH: usize = 5;
/// Windows of a scalar.
const WINDOWS: usize = 51;
/// Odd multiples of one window.
const ENTRIES: usize = 1 << (WIDTH - 1);
/// Bytes of the table of one point of G1.
pub const TABLE_BYTES: usize = WINDOWS * ENTRIES * size_of::<G1Affine>();
/// How often a point is raised before it gets a table: making one costs about ten powers without.
const TABLE_AFTER: u32 = 8;
/// How many powers are added up in step: more no longer fit the cache.
const ROWS_TOGETHER: usize = 16;

/// All ones where `a == b`, else 0, without a branch.
pub(super) fn equal_mask(a: u8, b: u8) -> u64 {
    (u64::from(a ^ b).wrapping_sub(1) >> 63).wrapping_neg()
}

/// The group order, least significant word first.
const ORDER: [u64; 4] =
    [0xffff_ffff_0000_0001, 0x53bd_a402_fffe_5bfe, 0x3339_d808_09a1_d805, 0x73ed_a753_299d_7d48];

/// A scalar as `sum of digits * 2^(WIDTH i)`, each digit odd and below `2^WIDTH`. Wiped when dropped.
///
/// With `k` odd, the bits `b` of `(k >> 1) + 2^(L-1)` give `k = sum (2 b_i - 1) 2^i` over the `L` bits. An even
/// scalar is written as the negative of the order less the scalar, which is odd.
pub(super) struct Digits<const WIDTH: usize, const WINDOWS: usize> {
    chunks: [u8; WINDOWS],
    negative: bool,
}

/// One digit: `2 * index + 1`, or the negative of that.
pub(super) struct Digit {
    pub index: u8,
    pub negative: bool,
}

impl<const WIDTH: usize, const WINDOWS: usize> Drop for Digits<WIDTH, WINDOWS> {
    fn drop(&mut self) {
        self.chunks.zeroize();
    }
}

impl<const WIDTH: usize, const WINDOWS: usize> Digits<WIDTH, WINDOWS> {
    pub(super) fn of(scalar: &Scalar) -> Self {
        const { assert!(WIDTH * WINDOWS >= 255 && WIDTH * WINDOWS <= 256) };
        let bytes = Zeroizing::new(scalar.to_le_bytes());
        let (words, _) = bytes.as_chunks::<8>();
        let mut k = Zeroizing::new([0u64; 4]);
        k.iter_mut().zip(words).for_each(|(k, word)| *k = u64::from_le_bytes(*word));
        let even = std::hint::black_box((k[0] & 1).wrapping_sub(1));
        let mut borrow = 0u64;
        for (k, order) in k.iter_mut().zip(ORDER) {
            let (low, first) = order.overflowing_sub(*k);
            let (low, second) = low.overflowing_sub(borrow);
            borrow = u64::from(first) | u64::from(second);
            *k = (low & even) | (*k & !even);
        }
        for i in 0..4 {
            k[i] = k[i] >> 1 | if i < 3 { k[i + 1] << 63 } else { 0 };
        }
        k[3] |= 1 << (WIDTH * WINDOWS - 1 - 192);
        let mut chunks = [0; WINDOWS];
        for (i, chunk) in chunks.iter_mut().enumerate() {
            let (word, bit) = (i * WIDTH / 64, i * WIDTH % 64);
            let mut bits = k[word] >> bit;
            if bit + WIDTH > 64 && word < 3 {
                bits |= k[word + 1] << (64 - bit);
            }
            *chunk = bits as u8 & ((1 << WIDTH) - 1);
        }
        Self { chunks, negative: even != 0 }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Digit> {
        self.chunks.iter().map(|chunk| {
            // A chunk c stands for 2c - (2^WIDTH - 1): negative where its top bit is not set.
            let positive = chunk >> (WIDTH - 1);
            let low = chunk ^ positive.wrapping_sub(1);
            // Opaque to the compiler, lest it make a branch or an address of it.
            let index = std::hint::black_box(low & ((1 << (WIDTH - 1)) - 1));
            Digit { index, negative: std::hint::black_box((positive == 0) ^ self.negative) }
        })
    }
}

/// The odd multiples of `base` in each window: `(2 i + 1) 2^(WIDTH w) base`.
struct Table(Box<[G1Affine]>);

impl Table {
    fn new(base: &G1Affine) -> Self {
        let mut points = Vec::with_capacity(WINDOWS * ENTRIES);
        let mut at = G1::from(*base);
        for _ in 0..WINDOWS {
            let double = at.double();
            let mut odd = at;
            for _ in 0..ENTRIES {
                points.push(odd);
                odd = odd.add(&double);
            }
            for _ in 0..WIDTH {
                at = at.double();
            }
        }
        Self(all_affine(&points).into_boxed_slice())
    }

    /// The digit's point of each window, every entry touched alike.
    fn look_up(&self, scalar: &Scalar, out: &mut Vec<G1Affine>) {
        let digits = Digits::<WIDTH, WINDOWS>::of(scalar);
        for (window, digit) in self.0.chunks_exact(ENTRIES).zip(digits.iter()) {
            let (mut x, mut y) = ([0u64; 6], [0u64; 6]);
            for (i, entry) in window.iter().enumerate() {
                let mask = equal_mask(i as u8, digit.index);
                x.iter_mut().zip(&entry.0.x.l).for_each(|(to, from)| *to |= *from & mask);
                y.iter_mut().zip(&entry.0.y.l).for_each(|(to, from)| *to |= *from & mask);
            }
            let (x, mut y) = (blst_fp { l: x }, blst_fp { l: y });
            // SAFETY: plain value; the function may write where it reads.
            unsafe { blst_fp_cneg(&raw mut y, &raw const y, digit.negative) };
            out.push(G1Affine(blst_p1_affine { x, y }));
        }
    }
}

/// Points, none of them the identity, in affine coordinates.
fn all_affine(points: &[G1]) -> Vec<G1Affine> {
    let mut out = vec![G1Affine(blst_p1_affine::default()); points.len()];
    let pointers: Vec<*const blst_p1> = points.iter().map(|point| &raw const point.0).collect();
    // SAFETY: as many pointers to points as there is room in `out`, whose items are that of the library.
    unsafe { blst_p1s_to_affine(out.as_mut_ptr().cast(), pointers.as_ptr(), points.len()) };
    out
}

/// A table that is made when its base was used often enough to pay for it.
pub(super) struct AfterAWhile<T> {
    uses: AtomicU32,
    table: OnceLock<T>,
}

impl<T> AfterAWhile<T> {
    pub(super) fn new() -> Self {
        Self { uses: AtomicU32::new(0), table: OnceLock::new() }
    }

    /// The table, if it is time for one.
    pub(super) fn get(&self, make: impl FnOnce() -> T) -> Option<&T> {
        if let Some(table) = self.table.get() {
            return Some(table);
        }
        let often = self.uses.fetch_add(1, Ordering::Relaxed) >= TABLE_AFTER;
        (often && tables::profile() == Profile::Standard).then(|| self.table.get_or_init(make))
    }
}

/// A point of G1 that is raised to secret scalars, perhaps often.
pub struct Base {
    point: G1Affine,
    table: AfterAWhile<Table>,
}

impl Base {
    /// A base that gets a table when it was used often enough.
    pub fn new(point: G1Affine) -> Self {
        Self { point, table: AfterAWhile::new() }
    }

    /// A base that gets a table at its first use.
    pub fn fixed(point: G1Affine) -> Self {
        let base = Self::new(point);
        base.table.uses.store(TABLE_AFTER, Ordering::Relaxed);
        base
    }

    fn table(&self) -> Option<&Table> {
        self.table.get(|| Table::new(&self.point))
    }
}

/// The product of the powers in each row, `None` where it is the identity. Constant-time in the scalars, and
/// which bases have tables is no secret.
pub fn products<const N: usize>(rows: &[[(&Base, &Scalar); N]]) -> Vec<Option<G1Affine>> {
    let mut out = vec![None; rows.len()];
    let mut together: Vec<(usize, [(&Table, &Scalar); N])> = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let tables = row.map(|(base, scalar)| (base.table(), scalar));
        if tables.iter().all(|(table, _)| table.is_some()) {
            together.push((i, tables.map(|(table, scalar)| (table.expect("looked just now"), scalar))));
        } else {
            out[i] = one_by_one(row);
        }
    }
    let mut scratch = Scratch::with_room(together.len().min(ROWS_TOGETHER) * N * WINDOWS);
    for batch in together.chunks(ROWS_TOGETHER) {
        scratch.points.clear();
        for (table, scalar) in batch.iter().flat_map(|(_, row)| row) {
            table.look_up(scalar, &mut scratch.points);
        }
        let met = scratch.add_up(N * WINDOWS).is_none();
        for ((i, _), sum) in batch.iter().zip(scratch.points.iter().step_by(N * WINDOWS)) {
            // Two points that met were equal or opposite: a scalar of 0, or a chance of 2^-250.
            out[*i] = if met { one_by_one(&rows[*i]) } else { Some(*sum) };
        }
    }
    out
}

fn one_by_one<const N: usize>(row: &[(&Base, &Scalar); N]) -> Option<G1Affine> {
    let powers = row.iter().map(|(base, scalar)| G1::from(base.point).mul(scalar));
    powers.fold(G1::identity(), |sum, power| sum.add(&power)).to_affine()
}

/// What many additions in step need; wiped when dropped.
struct Scratch {
    points: Vec<G1Affine>,
    prefixes: Vec<blst_fp>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // All that was ever written, not only what the last batch left.
        self.points.clear();
        self.points.resize(self.points.capacity(), G1Affine(blst_p1_affine::default()));
        self.prefixes.clear();
        self.prefixes.resize(self.prefixes.capacity(), blst_fp::default());
        // Opaque to the compiler, lest it leave out what nobody reads. One pass, where the crate's takes two and
        // costs as much as an eighth of the additions.
        std::hint::black_box((self.points.as_ptr(), self.prefixes.as_ptr()));
    }
}

impl Scratch {
    /// Room for that many points at once: a vector that grows leaves copies behind.
    fn with_room(points: usize) -> Self {
        Self { points: Vec::with_capacity(points), prefixes: Vec::with_capacity(points / 2 + 1) }
    }

    /// Adds up each run of `width` points into its first, pairwise and in step; `None` where two points with the
    /// same x met.
    fn add_up(&mut self, width: usize) -> Option<()> {
        let mut gap = 1;
        while gap < width {
            let lefts = (0..width - gap).step_by(2 * gap);
            let pairs = lefts.len() * (self.points.len() / width);
            // prefixes[i] is the product of the denominators before i.
            self.prefixes.clear();
            self.prefixes.resize(pairs + 1, one());
            let mut denominator = blst_fp::default();
            let mut at = 0;
            for row in self.points.chunks_exact(width) {
                for left in lefts.clone() {
                    sub(&mut denominator, &row[left + gap].0.x, &row[left].0.x);
                    let (before, after) = self.prefixes.split_at_mut(at + 1);
                    mul(&mut after[0], &before[at], &denominator);
                    at += 1;
                }
            }
            let product = &self.prefixes[pairs];
            if product.l.iter().fold(0, |all, word| all | word) == 0 {
                return None;
            }
            let mut inverse = blst_fp::default();
            // SAFETY: plain values.
            unsafe { blst_fp_inverse(&mut inverse, product) };
            let (mut slope, mut x, mut y) = (blst_fp::default(), blst_fp::default(), blst_fp::default());
            let mut prefixes = self.prefixes[..pairs].iter().rev();
            for row in self.points.chunks_exact_mut(width).rev() {
                for (left, prefix) in lefts.clone().rev().zip(&mut prefixes) {
                    let (head, tail) = row.split_at_mut(left + gap);
                    let (a, b) = (&mut head[left].0, &tail[0].0);
                    sub(&mut denominator, &b.x, &a.x);
                    sub(&mut y, &b.y, &a.y);
                    mul(&mut x, &inverse, prefix);
                    mul_by(&mut inverse, &denominator);
                    mul(&mut slope, &y, &x);
                    // SAFETY: plain values.
                    unsafe { blst_fp_sqr(&mut x, &slope) };
                    sub_from(&mut x, &a.x);
                    sub_from(&mut x, &b.x);
                    sub(&mut y, &a.x, &x);
                    mul_by(&mut y, &slope);
                    sub_from(&mut y, &a.y);
                    (a.x, a.y) = (x, y);
                }
            }
            gap *= 2;
        }
        Some(())
    }
}

// Field arithmetic that writes in place: values that are handed back are copied, which the additions would feel.

fn one() -> blst_fp {
    let mut out = blst_fp::default();
    // SAFETY: the function reads the six words of the number.
    unsafe { blst_fp_from_uint64(&mut out, [1u64, 0, 0, 0, 0, 0].as_ptr()) };
    out
}

fn mul(out: &mut blst_fp, a: &blst_fp, b: &blst_fp) {
    // SAFETY: plain values.
    unsafe { blst_fp_mul(out, a, b) };
}

fn mul_by(a: &mut blst_fp, b: &blst_fp) {
    // SAFETY: plain values; the function may write where it reads.
    unsafe { blst_fp_mul(&raw mut *a, &raw const *a, b) };
}

fn sub(out: &mut blst_fp, a: &blst_fp, b: &blst_fp) {
    // SAFETY: plain values.
    unsafe { blst_fp_sub(out, a, b) };
}

fn sub_from(a: &mut blst_fp, b: &blst_fp) {
    // SAFETY: plain values; the function may write where it reads.
    unsafe { blst_fp_sub(&raw mut *a, &raw const *a, b) };
}

/// The generator of G2 to a secret scalar that is not 0, in constant time; `None` for 0.
pub fn secret_g2(scalar: &Scalar) -> Option<G2Affine> {
    static TABLE: LazyLock<Vec<G2Affine>> = LazyLock::new(|| {
        let mut points = Vec::with_capacity(WINDOWS * ENTRIES);
        let mut at = G2::generator();
        for _ in 0..WINDOWS {
            let double = at.double();
            let mut odd = at;
            for _ in 0..ENTRIES {
                points.push(odd);
                odd = odd.add(&double);
            }
            for _ in 0..WIDTH {
                at = at.double();
            }
        }
        let mut out = vec![G2Affine(blst_p2_affine::default()); points.len()];
        let pointers: Vec<*const blst_p2> = points.iter().map(|point| &raw const point.0).collect();
        // SAFETY: as many pointers to points as there is room in `out`, whose items are that of the library.
        unsafe { blst_p2s_to_affine(out.as_mut_ptr().cast(), pointers.as_ptr(), points.len()) };
        out
    });
    if tables::profile() == Profile::Small {
        return G2::generator().mul(scalar).to_affine();
    }
    let digits = Digits::<WIDTH, WINDOWS>::of(scalar);
    let mut sum: Option<G2> = None;
    for (window, digit) in TABLE.chunks_exact(ENTRIES).zip(digits.iter()) {
        let mut words = [[0u64; 6]; 4];
        for (i, entry) in window.iter().enumerate() {
            let mask = equal_mask(i as u8, digit.index);
            let coordinates = entry.0.x.fp.iter().chain(&entry.0.y.fp);
            for (to, from) in words.iter_mut().zip(coordinates) {
                to.iter_mut().zip(&from.l).for_each(|(to, from)| *to |= *from & mask);
            }
        }
        let [x0, x1, y0, y1] = words.map(|l| blst_fp { l });
        let mut point =
            G2Affine(blst_p2_affine { x: blst_fp2 { fp: [x0, x1] }, y: blst_fp2 { fp: [y0, y1] } });
        // SAFETY: plain value; the function may write where it reads.
        unsafe { blst_fp2_cneg(&raw mut point.0.y, &raw const point.0.y, digit.negative) };
        sum = Some(match sum {
            None => G2::from(point),
            Some(sum) => sum.add_affine(&point),
        });
        point.zeroize();
    }
    sum.and_then(G2::to_affine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::SCALAR_WIDE_BYTES;

    fn scalars() -> impl Iterator<Item = Scalar> {
        let minus = |n| Scalar::zero().sub(&Scalar::from_u64(n));
        let edges = [0, 1, 2, 3, 31, 32, 33].map(Scalar::from_u64);
        let random = (0..12u8).map(|n| Scalar::from_wide(&[n.wrapping_mul(41); SCALAR_WIDE_BYTES]));
        edges.into_iter().chain([minus(1), minus(2), minus(32)]).chain(random)
    }

    #[test]
    fn tables_agree_with_the_librarys_powers() {
        let bases: Vec<G1> = (0..4u8).map(|n| G1::hash(&[n], b"test")).collect();
        let fixed: Vec<Base> = bases.iter().map(|b| Base::fixed(b.to_affine().unwrap())).collect();
        let scalars: Vec<Scalar> = scalars().collect();
        let mut rows = Vec::new();
        let mut expected = Vec::new();
        for (i, a) in scalars.iter().enumerate() {
            let b = &scalars[scalars.len() - 1 - i];
            let (p, q) = (i % 4, (i + 1) % 4);
            rows.push([(&fixed[p], a), (&fixed[q], b)]);
            let sum = bases[p].mul(a).add(&bases[q].mul(b));
            expected.push(sum.to_affine().map(G1Affine::to_bytes));
        }
        let all = |found: Vec<Option<G1Affine>>| -> Vec<_> {
            found.into_iter().map(|point| point.map(G1Affine::to_bytes)).collect()
        };
        assert_eq!(all(products(&rows)), expected, "with a zero in the batch");
        let (regular, wanted): (Vec<_>, Vec<_>) = rows.iter().zip(&expected).skip(1).take(19).unzip();
        assert_eq!(all(products(&regular)), wanted, "in more than one batch");
        for (scalar, _) in scalars.iter().zip(0..4) {
            let single = products(&[[(&fixed[0], scalar)]]);
            assert_eq!(all(single), vec![bases[0].mul(scalar).to_affine().map(G1Affine::to_bytes)]);
        }
    }

    #[test]
    fn a_sum_that_meets_its_own_points_is_still_right() {
        let base = G1::hash(b"x", b"test");
        let fixed = Base::fixed(base.to_affine().unwrap());
        let (one, seven) = (Scalar::from_u64(1), Scalar::from_u64(7));
        let minus = Scalar::zero().sub(&seven);
        let found = products(&[[(&fixed, &seven), (&fixed, &seven)], [(&fixed, &seven), (&fixed, &minus)]]);
        let double = base.mul(&seven).double().to_affine().map(G1Affine::to_bytes);
        assert_eq!(found[0].map(G1Affine::to_bytes), double);
        assert!(found[1].is_none(), "the identity");
        let found = products(&[[(&fixed, &one), (&fixed, &seven)]]);
        let eight = base.mul(&Scalar::from_u64(8)).to_affine().map(G1Affine::to_bytes);
        assert_eq!(found[0].map(G1Affine::to_bytes), eight);
    }

    #[test]
    fn a_base_gets_its_table_after_a_while() {
        let base = Base::new(G1::hash(b"y", b"test").to_affine().unwrap());
        for scalar in scalars() {
            let expected = G1::from(base.point).mul(&scalar).to_affine().map(G1Affine::to_bytes);
            assert_eq!(products(&[[(&base, &scalar)]])[0].map(G1Affine::to_bytes), expected);
        }
        assert!(base.table.table.get().is_some());
    }

    #[test]
    fn the_generator_of_g2_agrees_with_the_librarys_powers() {
        for scalar in scalars() {
            let expected = G2::generator().mul(&scalar).to_affine().map(G2Affine::to_bytes);
            assert_eq!(secret_g2(&scalar).map(G2Affine::to_bytes), expected);
        }
    }
}
