//! redis-benchmark as a child process: one test, its CSV line, and the server's CPU time meanwhile.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::catalogue::{KEYSPACE, Test};
use crate::proc;
use crate::results::Run;
use crate::server::{Server, dies_with_us};

/// One point of the measured grid.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Commands that a connection sends at a time.
    pub pipeline: usize,
    /// Connections.
    pub clients: usize,
    /// Bytes of a value.
    pub size: usize,
}

/// Runs `test` against `server` and measures it.
pub fn run(
    program: &Path,
    server: &Server,
    test: &Test,
    load: Load,
    requests: u64,
    limit: Duration,
) -> Result<Run, String> {
    let mut command = dies_with_us(program);
    command.args(["-h", "127.0.0.1", "--csv"]);
    let numbers = [
        ("-p", server.address.port().into()),
        ("-n", requests),
        ("-r", KEYSPACE),
        ("-P", load.pipeline as u64),
        ("-c", load.clients as u64),
        ("-d", load.size as u64),
    ];
    for (flag, number) in numbers {
        command.arg(flag).arg(number.to_string());
    }
    command.args(test.args(load.size));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cpu_before = server.cpu_seconds()?;
    let client_before = proc::ended_children_cpu_seconds()?;
    let child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
    let output = output(child, limit).map_err(|error| format!("redis-benchmark: {error}"))?;
    let cpu_s = server.cpu_seconds()? - cpu_before;
    let client_cpu_s = proc::ended_children_cpu_seconds()? - client_before;
    parse(&output, requests, cpu_s)
        .map(|run| Run { client_share: client_cpu_s * run.rps / requests as f64, ..run })
        .ok_or_else(|| server.with_log(&format!("redis-benchmark printed {output:?}")))
}

/// What `child` prints, on either stream. A child that takes longer than `limit` is killed.
fn output(mut child: Child, limit: Duration) -> Result<String, String> {
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("its output is not at hand".to_owned());
    };
    let (done, wait) = channel();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // What cannot be read is missing from the text, and so found when it is parsed.
        let _ = stdout.read_to_end(&mut text);
        let _ = stderr.read_to_end(&mut text);
        let _ = done.send(());
        String::from_utf8_lossy(&text).into_owned()
    });
    let in_time = wait.recv_timeout(limit) != Err(RecvTimeoutError::Timeout);
    if !in_time {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let text = reader.join().map_err(|_| "the reader of its output panicked".to_owned())?;
    match (in_time, status.success()) {
        (true, true) => Ok(text),
        (true, false) => Err(format!("ended with {status}: {text}")),
        (false, _) => Err(format!("killed after {limit:?}: {text}")),
    }
}

/// Reads the CSV: a head line, then a line whose first field is the test's name in quotes, followed by
/// requests a second and latencies in milliseconds: average, minimum, p50, p95, p99, maximum.
fn parse(output: &str, requests: u64, cpu_s: f64) -> Option<Run> {
    let line = output.lines().filter(|line| line.starts_with('"')).nth(1)?;
    // The name is the command itself where one was given, and may hold anything: read from the end.
    let mut fields = line.rsplitn(8, ',').map(|field| field.trim_matches('"').parse::<f64>().ok());
    let mut next = || fields.next().flatten();
    let (max_ms, p99_ms, p95_ms, p50_ms) = (next()?, next()?, next()?, next()?);
    let (min_ms, avg_ms, rps) = (next()?, next()?, next()?);
    let cpu_per_million = cpu_s / requests as f64 * 1e6;
    let client_share = 0.0;
    Some(Run {
        rps,
        avg_ms,
        min_ms,
        p50_ms,
        p95_ms,
        p99_ms,
        max_ms,
        cpu_s,
        cpu_per_million,
        client_share,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_csv_is_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
                    \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"set a,b\",\"526315.81\",\"1.321\",\"0.384\",\"1.231\",\"2.255\",\"2.551\",\"2.735\"\n";
        let run = parse(text, 2_000_000, 3.0).unwrap();
        assert_eq!((run.rps, run.avg_ms, run.min_ms), (526_315.81, 1.321, 0.384));
        assert_eq!((run.p50_ms, run.p95_ms, run.p99_ms, run.max_ms), (1.231, 2.255, 2.551, 2.735));
        assert_eq!(run.cpu_per_million, 1.5);
        assert!(parse("Error from server: ERR\n", 1, 0.0).is_none());
    }
}
