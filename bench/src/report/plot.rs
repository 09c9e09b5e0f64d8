//! Line plots as SVG, small enough for a phone and for print; colours come from the page.

use super::html::escape;
use super::number::significant;
use crate::result::Figure;

/// Most lines of one plot: as many as the page has colours and marks.
pub const LINES_MAX: usize = 10;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// One plot.
pub struct Plot<'a> {
    /// Above it.
    pub title: String,
    /// Under the horizontal axis.
    pub along: String,
    /// Of the vertical axis.
    pub unit: String,
    /// Whether the horizontal axis is logarithmic; the vertical one is where it spans more than a decade.
    pub log_x: bool,
    /// Dashed lines across, with their names; the higher first.
    pub floors: Vec<(String, f64)>,
    /// The lines, each with the index of its colour.
    pub lines: Vec<(usize, &'a str, Vec<&'a Figure>)>,
}

struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// An axis that holds all `values`.
    fn over(values: impl Iterator<Item = f64>, log: bool, from_zero: bool) -> Self {
        let values: Vec<f64> = values.filter(|v| v.is_finite() && (!log || *v > 0.0)).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if values.is_empty() { (1.0, 10.0) } else { (low, high) };
        let low = if from_zero && !log { low.min(0.0) } else { low };
        match (log, high > low) {
            (true, true) => Self { low: low * 0.9, high: high * 1.1, log },
            (true, false) => Self { low: low / 2.0, high: high * 2.0, log },
            (false, true) => Self { low, high: high + (high - low) * 0.03, log },
            (false, false) => Self { low: low - 1.0, high: high + 1.0, log },
        }
    }

    /// Where `value` lies, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self.log {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (from, to) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
            let steps: &[f64] = match to - from {
                ..=2 => &[1.0, 2.0, 5.0],
                _ => &[1.0],
            };
            let all = (from..=to).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
            let all: Vec<f64> = all.filter(|t| (self.low..=self.high).contains(t)).collect();
            // A grid of many decades needs no line for each.
            let every = all.len().div_ceil(8).max(1);
            return all.into_iter().step_by(every).collect();
        }
        let raw = (self.high - self.low) / 5.0;
        let magnitude = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|s| s * magnitude).find(|s| *s >= raw).unwrap_or(raw);
        let first = (self.low / step).ceil();
        (0..12).map(|i| (first + f64::from(i)) * step).filter(|t| *t <= self.high).collect()
    }
}

impl Plot<'_> {
    /// `<svg>…</svg>`, well-formed by itself.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|(_, _, figures)| figures.iter());
        let floors = self.floors.iter().map(|(_, value)| *value);
        let medians: Vec<f64> = points().map(|f| f.spread.p50).chain(floors).collect();
        let positive = medians.iter().all(|v| *v > 0.0);
        let most = medians.iter().copied().fold(f64::MIN, f64::max);
        let least = medians.iter().copied().fold(f64::MAX, f64::min);
        let y = Axis::over(medians.into_iter(), positive && most > 8.0 * least, true);
        let x = Axis::over(points().map(|f| f.at), self.log_x && points().all(|f| f.at > 0.0), false);
        let px = |v: f64| LEFT + x.share(v) * (WIDTH - LEFT - RIGHT);
        let py = |v: f64| HEIGHT - BOTTOM - y.share(v) * (HEIGHT - TOP - BOTTOM);

        let mut out = format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}, {} along {}">"#,
            escape(&self.title),
            escape(&self.unit),
            escape(&self.along)
        );
        for tick in y.ticks() {
            let (at, text) = (py(tick), significant(tick));
            out += &format!(
                r#"<path class="grid" d="M{LEFT} {at:.1}H{:.1}"/><text class="y" x="{:.1}" y="{:.1}">{text}</text>"#,
                WIDTH - RIGHT,
                LEFT - 5.0,
                at + 3.5
            );
        }
        for tick in x_ticks(&x, points().map(|f| f.at)) {
            let (at, foot) = (px(tick), HEIGHT - BOTTOM);
            out += &format!(
                r#"<path class="tick" d="M{at:.1} {foot}v4"/><text class="x" x="{at:.1}" y="{:.1}">{}</text>"#,
                foot + 16.0,
                significant(tick)
            );
        }
        out += &format!(
            r#"<path class="axis" d="M{LEFT} {TOP}V{0}H{1}"/><text class="x" x="{2}" y="{3}">{4}</text>"#,
            HEIGHT - BOTTOM,
            WIDTH - RIGHT,
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 7.0,
            escape(&self.along)
        );
        for (index, (name, value)) in self.floors.iter().enumerate() {
            let at = py(*value);
            // The names of two that are close keep apart: the higher's is above its line.
            let above = self.floors.len() > 1 && index == 0 || at > HEIGHT - BOTTOM - 14.0;
            out += &format!(
                r#"<path class="floor" d="M{LEFT} {at:.1}H{:.1}"/><text class="floor-name" x="{:.1}" y="{:.1}">{}</text>"#,
                WIDTH - RIGHT,
                WIDTH - RIGHT - 2.0,
                if above { at - 4.0 } else { at + 12.0 },
                escape(name)
            );
        }
        for (colour, name, figures) in &self.lines {
            out += &format!(r#"<g class="s{}"><title>{}</title>"#, colour % LINES_MAX, escape(name));
            let place = |f: &&Figure| format!("{:.1} {:.1}", px(f.at), py(f.spread.p50));
            if figures.len() > 1 {
                out += &format!(
                    r#"<path class="line" d="M{}"/>"#,
                    figures.iter().map(place).collect::<Vec<_>>().join("L")
                );
            }
            for figure in figures {
                let (at, low, high) = (px(figure.at), py(figure.spread.p10), py(figure.spread.p90));
                if low - high > 1.5 {
                    out += &format!(r#"<path class="spread" d="M{at:.1} {low:.1}V{high:.1}"/>"#);
                }
                out += &mark(*colour, at, py(figure.spread.p50));
            }
            out += "</g>";
        }
        out + "</svg>"
    }
}

/// At the places that were measured, as far as their labels do not touch.
fn x_ticks(axis: &Axis, places: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut places: Vec<f64> = places.collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let mut ticks: Vec<f64> = Vec::new();
    for place in places {
        let room = |last: &f64| axis.share(place) - axis.share(*last) > 0.085;
        if ticks.last().is_none_or(room) {
            ticks.push(place);
        }
    }
    ticks
}

/// A mark that tells lines apart without colour.
pub fn mark(index: usize, x: f64, y: f64) -> String {
    let d = match index % 5 {
        0 => format!("M{:.1} {y:.1}a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0Z", x - 3.4),
        1 => format!("M{:.1} {:.1}h6v6h-6Z", x - 3.0, y - 3.0),
        2 => format!("M{x:.1} {:.1}l4 7h-8Z", y - 4.2),
        3 => format!("M{x:.1} {:.1}l4.2 4.2l-4.2 4.2l-4.2 -4.2Z", y - 4.2),
        _ => format!("M{x:.1} {:.1}l4 -7h-8Z", y + 4.2),
    };
    format!(r#"<path class="mark" d="{d}"/>"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values_and_have_few_ticks() {
        for (values, log) in [
            (vec![1.0, 50.0], false),
            (vec![0.001, 90_000.0], true),
            (vec![3.0], true),
            (vec![3.0], false),
            (vec![], false),
            (vec![0.0, 0.0], true),
            (vec![9.7, 11.2], true),
        ] {
            let axis = Axis::over(values.iter().copied(), log, false);
            for value in values.iter().filter(|v| !log || **v > 0.0) {
                assert!((0.0..=1.0).contains(&axis.share(*value)));
            }
            let ticks = axis.ticks();
            assert!(ticks.len() <= 12 && ticks.is_sorted(), "{values:?} {ticks:?}");
        }
        let axis = Axis::over([1.0, 10.0, 100.0].into_iter(), true, false);
        let (a, b, c) = (axis.share(1.0), axis.share(10.0), axis.share(100.0));
        assert!((b - a - (c - b)).abs() < 1e-9, "decades are equally far apart");
    }
}
