//! What durability costs: SET with each `appendfsync`, and without a log, against both in turn.

use crate::catalogue;
use crate::options::Settings;
use crate::restart::wait_loaded;
use crate::results::{Durability, Results};
use crate::server::Program;
use crate::throughput::measure_point;

/// Without a log, and with one.
const POLICIES: [&str; 4] = ["none", "no", "everysec", "always"];
/// Pipelines and clients that are measured with each.
const POINTS: [(usize, usize); 4] = [(1, 1), (1, 50), (16, 50), (64, 50)];
/// Bytes of a value.
const SIZE: usize = 256;

/// Measures SET at each point with each policy.
pub fn measure(settings: &Settings, results: &mut Results) -> Result<(), String> {
    let set = catalogue::select(&["SET".to_owned()])?;
    let set = set.first().ok_or("the catalogue has no SET")?;
    for policy in POLICIES {
        let mut ashlar = with(&settings.ashlar, policy).start()?;
        let mut redis = with(&settings.redis, policy).start()?;
        for server in [&ashlar, &redis] {
            // With `always` the first segment of the log is filled with zeros.
            wait_loaded(server)?;
        }
        for (pipeline, clients) in POINTS {
            eprint!("{policy:<9}");
            let point = (pipeline, clients, SIZE);
            match measure_point(settings, set, point, (&ashlar, &redis)) {
                Ok(throughput) => {
                    results.durability.push(Durability { policy: policy.into(), throughput });
                }
                Err(error) => results.fail(error),
            }
            ashlar.check()?;
            redis.check()?;
        }
    }
    Ok(())
}

/// The program with a policy; redis-server does not rewrite its log meanwhile.
fn with(program: &Program, policy: &str) -> Program {
    let mut program = program.clone();
    if policy != "none" {
        let args = ["--appendonly", "yes", "--appendfsync", policy];
        program.args.extend(args.map(str::to_owned));
        let rewrite = ["--auto-aof-rewrite-percentage", "0"];
        program.args.extend(rewrite.map(str::to_owned));
    }
    program
}
