//! The known name that a misspelt one most likely meant.

use super::table::TABLE;

/// Names longer than this are not compared; no setting is near that long.
const NAME_BYTES_MAX: usize = 64;

/// The closest name of a setting, if it is close enough to be a likely slip.
pub(super) fn closest(name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let name = name.to_ascii_lowercase().replace('_', "-");
    let allowed = (name.len() / 4).clamp(1, 3);
    TABLE
        .iter()
        .flat_map(|setting| setting.names())
        .map(|known| (distance(name.as_bytes(), known.as_bytes()), known))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Edit distance in which a swap of neighbours counts once (optimal string alignment).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(from != to)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *to && *from == b[j - 1] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        for (typed, meant) in [
            ("maxmemry", "maxmemory"),
            ("max-memory", "maxmemory"),
            ("prot", "port"),
            ("maxmemory_policy", "maxmemory-policy"),
            ("slowlog-log-slower-then", "slowlog-log-slower-than"),
            ("TIMEOUTS", "timeout"),
        ] {
            assert_eq!(closest(typed), Some(meant), "{typed}");
        }
        assert_eq!(closest("completely-different"), None);
        assert_eq!(closest(&"x".repeat(1000)), None);
    }
}
