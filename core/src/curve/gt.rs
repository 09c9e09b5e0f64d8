//! The target group and the pairing into it.
//!
//! An element is written as its twelve base-field coordinates of 48 bytes, big-endian, in the order c0.c0.c0,
//! c0.c0.c1, c0.c1.c0, …, c1.c2.c1 of the tower Fp2 = Fp[u], Fp6 = Fp2[v], Fp12 = Fp6[w].

use blst::*;
use zeroize::Zeroize;

use super::table::{AfterAWhile, Digits, equal_mask};
use super::{G1Affine, G2Affine, Scalar};

/// Bytes of an element of GT.
pub const GT_BYTES: usize = 576;

/// An element of the target group.
#[derive(Clone, Copy)]
pub struct Gt(blst_fp12);

impl Gt {
    /// The product of `e(p, q)` over the pairs: one Miller loop for all of them, which shares the squarings, and
    /// one final exponentiation. A pair with the identity in it counts as one.
    ///
    /// This is the cube of the pairing of the textbook (the final exponentiation's hard part is
    /// taken times three, as most libraries do).
    pub fn multi_pairing(pairs: &[(Option<G1Affine>, Second<'_>)]) -> Self {
        let present = || pairs.iter().filter_map(|(p, q)| Some((p.as_ref()?, q)));
        let made: Vec<Option<Lines>> = present()
            .map(|(_, q)| match q {
                Second::Point(point) => Some(Lines::of(point)),
                Second::Lines(_) => None,
            })
            .collect();
        let loops: Vec<(Doubled, &Lines)> = present()
            .zip(&made)
            .map(|((p, q), made)| match (q, made) {
                (Second::Lines(lines), _) => (Doubled::of(p), *lines),
                (Second::Point(_), made) => (Doubled::of(p), made.as_ref().expect("made above")),
            })
            .collect();

        let mut product = Self::one();
        let mut step = 0;
        // The bits of the curve's parameter 0xd201000000010000 from the top: one addition, then doublings. The
        // very first doubling squares 1.
        let mut lines = |product: &mut Self| {
            loops.iter().for_each(|(p, lines)| p.mul_line(product, &lines.0[step]));
            step += 1;
        };
        lines(&mut product);
        for doublings in [2, 3, 9, 32, 16] {
            lines(&mut product);
            for _ in 0..doublings {
                // SAFETY: plain value; the function may write where it reads.
                unsafe { blst_fp12_sqr(&raw mut product.0, &raw const product.0) };
                lines(&mut product);
            }
        }
        let mut out = blst_fp12::default();
        // SAFETY: plain values. The parameter is negative, hence the conjugate.
        unsafe {
            blst_fp12_conjugate(&mut product.0);
            blst_final_exp(&mut out, &product.0);
        }
        Self(out)
    }

    /// `e(g1, g2)`
    pub fn generator() -> Self {
        // SAFETY: the functions return pointers to constants.
        let (p, q) = unsafe { (*blst_p1_affine_generator(), *blst_p2_affine_generator()) };
        Self::multi_pairing(&[(Some(G1Affine(p)), Second::Point(&G2Affine(q)))])
    }

    /// `self ^ scalar`, constant-time in the scalar: four bits at a time, the table read whole.
    pub fn pow(&self, scalar: &Scalar) -> Self {
        let mut table = [Self::one(); 16];
        for i in 1..16 {
            table[i] = table[i - 1].mul(self);
        }
        let mut bytes = scalar.to_bytes();
        let mut out = Self::one();
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                for _ in 0..4 {
                    out = out.square();
                }
                out = out.mul(&Self::select(&table, nibble));
            }
        }
        bytes.zeroize();
        out
    }

    /// 576 bytes.
    pub fn to_bytes(self) -> [u8; GT_BYTES] {
        let mut out = [0; GT_BYTES];
        for (i, chunk) in out.chunks_exact_mut(48).enumerate() {
            let fp = self.coordinate(i);
            // SAFETY: `chunk` has the 48 bytes that the function writes.
            unsafe { blst_bendian_from_fp(chunk.as_mut_ptr(), fp) };
        }
        out
    }

    /// 576 bytes, each coordinate canonical, an element of the group of prime order, not 1.
    pub fn from_bytes(bytes: &[u8; GT_BYTES]) -> Option<Self> {
        let out = Self::from_bytes_unchecked(bytes);
        // SAFETY: plain value.
        let in_group = unsafe { blst_fp12_in_group(&out.0) && !blst_fp12_is_one(&out.0) };
        (in_group && &out.to_bytes() == bytes).then_some(out)
    }

    fn from_bytes_unchecked(bytes: &[u8; GT_BYTES]) -> Self {
        let mut out = blst_fp12::default();
        for (i, chunk) in bytes.chunks_exact(48).enumerate() {
            let fp = &mut out.fp6[i / 6].fp2[i % 6 / 2].fp[i % 2];
            // SAFETY: `chunk` has the 48 bytes that the function reads.
            unsafe { blst_fp_from_bendian(fp, chunk.as_ptr()) };
        }
        Self(out)
    }

    fn one() -> Self {
        // SAFETY: the function returns a pointer to a constant.
        Self(unsafe { *blst_fp12_one() })
    }

    fn mul(&self, other: &Self) -> Self {
        let mut out = blst_fp12::default();
        // SAFETY: plain values.
        unsafe { blst_fp12_mul(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// Valid in the cyclotomic subgroup, which every element of GT is in.
    fn square(&self) -> Self {
        let mut out = blst_fp12::default();
        // SAFETY: plain values.
        unsafe { blst_fp12_cyclotomic_sqr(&mut out, &self.0) };
        Self(out)
    }

    fn coordinate(&self, i: usize) -> &blst_fp {
        &self.0.fp6[i / 6].fp2[i % 6 / 2].fp[i % 2]
    }

    /// `table[index]`, touching every entry alike.
    fn select(table: &[Self], index: u8) -> Self {
        // The library's default is one, not zero.
        let mut out = blst_fp12 { fp6: [blst_fp6::default(); 2] };
        for (i, entry) in table.iter().enumerate() {
            let mask = equal_mask(i as u8, index);
            for c in 0..12 {
                let to = &mut out.fp6[c / 6].fp2[c % 6 / 2].fp[c % 2];
                for (to, from) in to.l.iter_mut().zip(&entry.coordinate(c).l) {
                    *to |= *from & mask;
                }
            }
        }
        Self(out)
    }

    /// `1 / self` if `invert`, in the same time as `self`: in GT the inverse is the conjugate.
    fn invert_if(mut self, invert: bool) -> Self {
        for fp in self.0.fp6[1].fp2.iter_mut().flat_map(|fp2| &mut fp2.fp) {
            // SAFETY: plain value; the function may write where it reads.
            unsafe { blst_fp_cneg(&raw mut *fp, &raw const *fp, invert) };
        }
        self
    }
}

/// The second side of a pair.
#[derive(Clone, Copy)]
pub enum Second<'a> {
    /// A point that is paired once.
    Point(&'a G2Affine),
    /// A point that is paired often.
    Lines(&'a Lines),
}

/// What the Miller loop needs of a point of G2: the lines through its multiples. Wiped when dropped.
pub struct Lines(Box<[blst_fp6; LINES]>);

const LINES: usize = 68;
/// Memory of the lines through one point.
pub const LINES_BYTES: usize = LINES * size_of::<blst_fp6>();

impl Drop for Lines {
    fn drop(&mut self) {
        let fps = self.0.iter_mut().flat_map(|line| &mut line.fp2).flat_map(|fp2| &mut fp2.fp);
        fps.for_each(|fp| fp.l.zeroize());
    }
}

impl Lines {
    /// The lines of a point.
    pub fn of(point: &G2Affine) -> Self {
        let mut lines = Box::new([blst_fp6::default(); LINES]);
        // SAFETY: the function writes 68 lines, which is how many there are.
        unsafe { blst_precompute_lines(lines.as_mut_ptr(), &point.0) };
        Self(lines)
    }
}

/// `-2x` and `2y` of a point of G1, by which its lines are scaled.
struct Doubled {
    x: blst_fp,
    y: blst_fp,
}

impl Doubled {
    fn of(point: &G1Affine) -> Self {
        let (mut x, mut y) = (blst_fp::default(), blst_fp::default());
        // SAFETY: plain values; the functions may write where they read.
        unsafe {
            blst_fp_add(&mut x, &point.0.x, &point.0.x);
            blst_fp_cneg(&raw mut x, &raw const x, true);
            blst_fp_add(&mut y, &point.0.y, &point.0.y);
        }
        Self { x, y }
    }

    /// `product *= line(point)`
    fn mul_line(&self, product: &mut Gt, line: &blst_fp6) {
        let mut scaled = *line;
        let scales = [&self.x, &self.x, &self.y, &self.y];
        let coefficients = scaled.fp2[1..].iter_mut().flat_map(|fp2| &mut fp2.fp);
        for (fp, by) in coefficients.zip(scales) {
            // SAFETY: plain values; the function may write where it reads.
            unsafe { blst_fp_mul(&raw mut *fp, &raw const *fp, by) };
        }
        // SAFETY: as above.
        unsafe { blst_fp12_mul_by_xy00z0(&raw mut product.0, &raw const product.0, &scaled) };
    }
}

/// Bits of a window of [`GtTable`].
const WIDTH: usize = 4;
/// Windows of a scalar.
const WINDOWS: usize = 64;
/// Odd powers of one window.
const ENTRIES: usize = 1 << (WIDTH - 1);

/// An element that is raised to secret scalars, perhaps often.
pub struct GtBase {
    element: Gt,
    table: AfterAWhile<GtTable>,
}

impl GtBase {
    /// A base that gets a table when it was used often enough.
    pub fn new(element: Gt) -> Self {
        Self { element, table: AfterAWhile::new() }
    }

    /// `self ^ scalar`, constant-time in the scalar.
    pub fn pow(&self, scalar: &Scalar) -> Gt {
        match self.table.get(|| GtTable::new(&self.element)) {
            Some(table) => table.pow(scalar),
            None => self.element.pow(scalar),
        }
    }

    /// The element's 576 bytes.
    pub fn to_bytes(&self) -> [u8; GT_BYTES] {
        self.element.to_bytes()
    }
}

/// Powers of one element, to raise it to secret scalars. 288 KiB.
struct GtTable(Box<[Gt]>);

impl GtTable {
    /// The table of `base`.
    fn new(base: &Gt) -> Self {
        let mut powers = Vec::with_capacity(WINDOWS * ENTRIES);
        let mut at = *base;
        for _ in 0..WINDOWS {
            let square = at.square();
            let mut odd = at;
            for _ in 0..ENTRIES {
                powers.push(odd);
                odd = odd.mul(&square);
            }
            for _ in 0..WIDTH {
                at = at.square();
            }
        }
        Self(powers.into_boxed_slice())
    }

    /// `base ^ scalar`, constant-time in the scalar.
    fn pow(&self, scalar: &Scalar) -> Gt {
        let digits = Digits::<WIDTH, WINDOWS>::of(scalar);
        let mut out = Gt::one();
        for (window, digit) in self.0.chunks_exact(ENTRIES).zip(digits.iter()) {
            out = out.mul(&Gt::select(window, digit.index).invert_if(digit.negative));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::{G1, G2, SCALAR_WIDE_BYTES};

    fn scalar(n: u8) -> Scalar {
        Scalar::from_wide(&[n; SCALAR_WIDE_BYTES])
    }

    #[test]
    fn pairing_is_bilinear_and_pow_agrees() {
        let (a, b) = (scalar(3), scalar(9));
        let (p, q) = (G1::generator().mul(&a).to_affine(), G2::generator().mul(&b).to_affine());
        let left = Gt::multi_pairing(&[(p, Second::Point(&q.unwrap()))]);
        let right = Gt::generator().pow(&a.mul(&b));
        assert_eq!(left.to_bytes(), right.to_bytes());
    }

    #[test]
    fn inverse_pairs_cancel() {
        let (p, q) = (G1::generator(), G2::generator().to_affine().unwrap());
        let lines = Lines::of(&q);
        let pairs = [(p.to_affine(), Second::Point(&q)), (p.neg().to_affine(), Second::Lines(&lines))];
        let one = Gt::multi_pairing(&pairs);
        assert_eq!(one.to_bytes(), Gt::one().to_bytes());
        assert_eq!(
            Gt::multi_pairing(&[(G1::identity().to_affine(), Second::Point(&q))]).to_bytes(),
            Gt::one().to_bytes()
        );
    }

    #[test]
    fn the_joint_loop_is_the_librarys() {
        let pairs: Vec<_> = (1..4u8)
            .map(|n| (G1::generator().mul(&scalar(n)), G2::generator().mul(&scalar(n + 9))))
            .map(|(p, q)| (p.to_affine().unwrap(), q.to_affine().unwrap()))
            .collect();
        let mut product = Gt::one().0;
        for (p, q) in &pairs {
            let (mut line, so_far) = (blst_fp12::default(), product);
            // SAFETY: plain values.
            unsafe {
                blst_miller_loop(&mut line, &q.0, &p.0);
                blst_fp12_mul(&mut product, &so_far, &line);
            }
        }
        let mut expected = blst_fp12::default();
        // SAFETY: plain values.
        unsafe { blst_final_exp(&mut expected, &product) };
        let ours: Vec<_> = pairs.iter().map(|(p, q)| (Some(*p), Second::Point(q))).collect();
        assert_eq!(Gt::multi_pairing(&ours).to_bytes(), Gt(expected).to_bytes());
    }

    #[test]
    fn tables_agree_with_plain_powers() {
        let base = Gt::generator().pow(&scalar(5));
        let table = GtTable::new(&base);
        let minus_one = Scalar::zero().sub(&Scalar::from_u64(1));
        let edges = [Scalar::zero(), Scalar::from_u64(1), Scalar::from_u64(2), minus_one];
        for scalar in edges.into_iter().chain((1..9).map(scalar)) {
            assert_eq!(table.pow(&scalar).to_bytes(), base.pow(&scalar).to_bytes());
        }
    }

    #[test]
    fn decoders_refuse_what_is_no_element() {
        let one = Gt::one().to_bytes();
        assert!(Gt::from_bytes(&one).is_none(), "one would make every shared element the same");
        assert!(Gt::from_bytes(&[1; GT_BYTES]).is_none());
    }
}
