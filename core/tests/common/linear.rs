//! The sharing of a secret as linear algebra, written from PROTOCOL.md and not from `access.rs`.
//!
//! Share of row i = `M_i (s, v_1, v_2, …)`. Rules, a gate drawing all of its values before its first child does:
//! - every child of `or` gets the value;
//! - `and` of n draws `v_1..v_{n-1}`, child i gets `v_i`, the last the value less their sum;
//! - `k of` draws `a_1..a_{k-1}`, child i (from 1) gets `value + sum a_j i^j`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bls12_381::Scalar;
use smqtt_core::Access;
use smqtt_core::formula::Formula;

/// A linear form over `(s, v_1, v_2, …)`; coefficients past the end are 0.
pub type Form = Vec<Scalar>;

/// A row: its label, its share as a linear form, and which occurrence of its label it is.
#[derive(Clone, Debug)]
pub struct Row {
    pub label: Vec<u8>,
    pub form: Form,
    pub occurrence: usize,
}

/// A gate: how many children it needs, the value it shares, and what its children get.
pub struct Gate {
    pub k: usize,
    pub value: Form,
    pub children: Vec<Form>,
}

/// Everything about a formula: its rows in order, its gates, and how many values are drawn.
pub struct Matrix {
    pub rows: Vec<Row>,
    pub gates: Vec<Gate>,
    pub draws: usize,
}

impl Matrix {
    pub fn of(access: &Access) -> Self {
        let mut matrix = Self { rows: vec![], gates: vec![], draws: 0 };
        matrix.walk(access, vec![Scalar::one()]);
        let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
        for row in &mut matrix.rows {
            let count = seen.entry(row.label.clone()).or_default();
            row.occurrence = *count;
            *count += 1;
        }
        matrix
    }

    /// The most occurrences of any label.
    pub fn tau(&self) -> usize {
        self.rows.iter().map(|row| row.occurrence + 1).max().unwrap()
    }

    /// The values of the shares for `(s, v_1, …)`.
    pub fn shares(&self, values: &[Scalar]) -> Vec<Scalar> {
        self.rows.iter().map(|row| row.form.iter().zip(values).map(|(m, v)| m * v).sum()).collect()
    }

    /// Coefficients that turn rows into `(1, 0, .., 0)` while the hashes of labels that are not held
    /// cancel: what any attacker needs, for `t` is known to nobody and `H(u)^{t s'_j}` comes only from
    /// the key's `K_u`. Rows of one label that have one randomness can cancel each other.
    pub fn attack(
        &self,
        held: &BTreeSet<Vec<u8>>,
        randomness: impl Fn(&Row) -> usize,
    ) -> Option<Vec<Scalar>> {
        let n = self.rows.len();
        let mut equations = Vec::new();
        for column in 0..=self.draws {
            let at = |row: &Row| row.form.get(column).copied().unwrap_or_default();
            let mut equation: Vec<Scalar> = self.rows.iter().map(at).collect();
            equation.push(if column == 0 { Scalar::one() } else { Scalar::zero() });
            equations.push(equation);
        }
        let mut foreign: BTreeMap<(&[u8], usize), Vec<Scalar>> = BTreeMap::new();
        for (i, row) in self.rows.iter().enumerate().filter(|(_, row)| !held.contains(&row.label)) {
            let zeros = || vec![Scalar::zero(); n + 1];
            foreign.entry((&row.label, randomness(row))).or_insert_with(zeros)[i] = Scalar::one();
        }
        equations.extend(foreign.into_values());
        solve(equations, n)
    }

    fn draw(&mut self) -> Form {
        self.draws += 1;
        let mut form = vec![Scalar::zero(); self.draws + 1];
        form[self.draws] = Scalar::one();
        form
    }

    fn walk(&mut self, node: &Access, value: Form) {
        let (k, of) = match node {
            Formula::Leaf(label) => {
                self.rows.push(Row { label: label.as_bytes().to_vec(), form: value, occurrence: 0 });
                return;
            }
            Formula::Or(of) => (1, of),
            Formula::And(of) => (of.len(), of),
            Formula::Threshold { k, of } => (*k as usize, of),
        };
        let drawn: Vec<Form> = (1..k).map(|_| self.draw()).collect();
        let children: Vec<Form> = match node {
            Formula::And(_) => {
                let last = drawn.iter().fold(value.clone(), |rest, v| add(&rest, v, -Scalar::one()));
                drawn.into_iter().chain([last]).collect()
            }
            _ => (1..=of.len() as u64)
                .map(|i| {
                    let mut power = Scalar::one();
                    drawn.iter().fold(value.clone(), |sum, a| {
                        power *= Scalar::from(i);
                        add(&sum, a, power)
                    })
                })
                .collect(),
        };
        self.gates.push(Gate { k, value, children: children.clone() });
        for (child, form) in of.iter().zip(children) {
            self.walk(child, form);
        }
    }
}

/// `a + factor b`
pub fn add(a: &Form, b: &Form, factor: Scalar) -> Form {
    let at = |form: &Form, i: usize| form.get(i).copied().unwrap_or_default();
    (0..a.len().max(b.len())).map(|i| at(a, i) + at(b, i) * factor).collect()
}

/// Whether `target` is a linear combination of `forms`.
pub fn spans(forms: &[&Form], target: &Form) -> bool {
    let width = forms.iter().map(|f| f.len()).max().unwrap_or(0).max(target.len());
    let at = |form: &Form, i: usize| form.get(i).copied().unwrap_or_default();
    let equation = |i| forms.iter().map(|f| at(f, i)).chain([at(target, i)]).collect();
    solve((0..width).map(equation).collect(), forms.len()).is_some()
}

/// One solution of the equations `(a_1, .., a_n, b)`: `sum a_i x_i = b`; Gaussian elimination.
pub fn solve(mut equations: Vec<Vec<Scalar>>, n: usize) -> Option<Vec<Scalar>> {
    let mut pivots = Vec::new();
    for column in 0..n {
        let from = pivots.len();
        let Some(at) = (from..equations.len()).find(|i| equations[*i][column] != Scalar::zero()) else {
            continue;
        };
        equations.swap(from, at);
        let inverse = equations[from][column].invert().unwrap();
        equations[from].iter_mut().for_each(|a| *a *= inverse);
        let pivot = equations[from].clone();
        for (_, equation) in equations.iter_mut().enumerate().filter(|(i, _)| *i != from) {
            let factor = equation[column];
            if factor != Scalar::zero() {
                equation.iter_mut().zip(&pivot).for_each(|(a, p)| *a -= factor * p);
            }
        }
        pivots.push(column);
    }
    if equations[pivots.len()..].iter().any(|equation| equation[n] != Scalar::zero()) {
        return None;
    }
    let mut solution = vec![Scalar::zero(); n];
    for (equation, column) in equations.iter().zip(pivots) {
        solution[column] = equation[n];
    }
    Some(solution)
}
