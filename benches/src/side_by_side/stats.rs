//! Medians and means.

/// The middle of `values`; of an even number, the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let high = *values.get(values.len() / 2)?;
    let low = *values.get(values.len().checked_sub(1)? / 2)?;
    Some((low + high) / 2.0)
}

/// The geometric mean of those of `values` that have one.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> =
        values.into_iter().map(f64::ln).filter(|logarithm| logarithm.is_finite()).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// The median of `ours / theirs`, pair by pair: the two of a round ran next to each other.
pub fn median_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, f64::NAN, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
        assert_eq!(median_ratio(&[2.0, 9.0, 6.0], &[1.0, 1.0, 2.0]), Some(3.0));
    }

    #[test]
    fn geometric_means() {
        let mean = geometric_mean([2.0, 8.0, 0.0]).unwrap();
        assert!((mean - 4.0).abs() < 1e-9);
        assert_eq!(geometric_mean([]), None);
    }
}
