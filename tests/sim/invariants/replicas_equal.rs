//! Replicas that applied as much have equal states, sessions included: the calls are deterministic
//! and snapshots are faithful.

/// A replica: its node, how far it applied, and the digest of its state.
pub type Replica = (u64, u64, u64);

/// Compares the replicas of a group that are as far as the furthest.
///
/// # Errors
/// If two of them differ, or if one lags behind although nothing is wrong any more.
pub fn check(group: u32, replicas: &[Replica]) -> Result<(), String> {
    let furthest = replicas.iter().map(|replica| replica.1).max().unwrap_or(0);
    if let Some((node, applied, _)) = replicas.iter().find(|replica| replica.1 < furthest) {
        return Err(format!("node {node} stays at {applied} of {furthest} in group {group}"));
    }
    match replicas.windows(2).find(|pair| pair[0].2 != pair[1].2) {
        None => Ok(()),
        Some(pair) => Err(format!(
            "nodes {} and {} differ in group {group} after {furthest} entries",
            pair[0].0, pair[1].0
        )),
    }
}
