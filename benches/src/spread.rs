//! Middle and spread of repeated measurements.

use std::fmt;

/// Order statistics of some measurements, in their unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// A quarter of them is at most this.
    pub lower: f64,
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// A quarter of them is at least this.
    pub upper: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The statistics of `values`; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        Some(Self {
            min: first,
            lower: quantile(&sorted, 1),
            median: quantile(&sorted, 2),
            upper: quantile(&sorted, 3),
            max: last,
        })
    }
}

/// The value `quarters` of the way through, between two neighbours in proportion.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let at = (sorted.len() - 1) * quarters;
    let (below, rest) = (at / 4, at % 4);
    let above = sorted.get(below + 1).unwrap_or(&sorted[below]);
    let share = [0.0, 0.25, 0.5, 0.75][rest];
    sorted[below] + (above - sorted[below]) * share
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            min,
            lower,
            median,
            upper,
            max,
        } = self;
        write!(
            f,
            "median {median:.2}, middle half {lower:.2} to {upper:.2}, all {min:.2} to {max:.2}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], expected: [f64; 5]) {
        let Spread {
            min,
            lower,
            median,
            upper,
            max,
        } = Spread::of(values.iter().copied()).expect("values");
        assert_eq!([min, lower, median, upper, max], expected);
    }

    #[test]
    fn quartiles_lie_between_neighbours_in_proportion() {
        check(&[7.0], [7.0; 5]);
        check(&[2.0, 1.0], [1.0, 1.25, 1.5, 1.75, 2.0]);
        check(&[3.0, 1.0, 2.0, 5.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(Spread::of([]), None);
    }
}
