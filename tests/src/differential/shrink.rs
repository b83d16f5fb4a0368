//! Shrinks a failing sequence: delta debugging (Zeller, Hildebrandt: "Simplifying and isolating
//! failure-inducing input", 2002) over its steps, then over the length of its arguments.

use super::sequence::Step;

/// How many trials a shrink may take.
const TRIALS_MAX: usize = 600;

/// The smallest sequence found that still fails. `fails` runs a sequence from an empty state.
pub fn shrink(mut steps: Vec<Step>, mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut trials = 0;
    let mut fails = |steps: &[Step]| {
        trials += 1;
        trials <= TRIALS_MAX && fails(steps)
    };
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        let before = steps.len();
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            match fails(&fewer) {
                true => steps = fewer,
                false => at += chunk,
            }
        }
        let again = chunk == 1 && steps.len() < before;
        chunk = if again { 1 } else { chunk / 2 };
    }
    shorten(&mut steps, &mut fails);
    steps
}

fn shorten(steps: &mut [Step], fails: &mut impl FnMut(&[Step]) -> bool) {
    for step in 0..steps.len() {
        for command in 0..steps[step].0.len() {
            let mut arg = steps[step].0[command].len();
            while arg > 1 {
                arg -= 1;
                let old = steps[step].0[command].clone();
                // First without the argument, then with a shorter one.
                steps[step].0[command].remove(arg);
                if fails(steps) {
                    continue;
                }
                steps[step].0[command] = old.clone();
                if old[arg].len() > 8 {
                    steps[step].0[command][arg].truncate(1);
                    if !fails(steps) {
                        steps[step].0[command] = old;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::words;

    #[test]
    fn finds_the_commands_that_matter() {
        let step = |n: usize| Step(vec![words(&format!("SET k{n} {}", "x".repeat(100)))]);
        let has = |steps: &[Step], key: &[u8]| {
            steps.iter().any(|step| step.0[0].get(1).is_some_and(|k| k == key))
        };
        let steps = (0..300).map(step).collect();
        let kept = shrink(steps, |steps| has(steps, b"k17") && has(steps, b"k200"));
        assert_eq!(kept, [Step(vec![words("SET k17")]), Step(vec![words("SET k200")])]);
    }
}
