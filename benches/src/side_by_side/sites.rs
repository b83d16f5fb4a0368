//! What keys cost that several sites write: CPU and memory of the site that is written to, against
//! keys of the class `local` of the same site, and of a server that is none.
//!
//! Each command writes a key of its own, or an element of one key, and none twice; INCR counts in the
//! keys of its first round again. All servers keep a log, as sites have to.

use crate::client::Client;
use crate::options::Settings;
use crate::protocol::command;
use crate::results::TierFigure;
use crate::server::{Program, Server};

/// Commands of each measurement, of a full run.
const COMMANDS: f64 = 200_000.0;
/// Commands that a client of pipeline 1 sends.
const SINGLE: u64 = 4;

/// A command: its name, and what it writes for a number.
type Write = (&'static str, fn(&str, u64) -> Vec<String>);

const WRITES: [Write; 4] = [
    ("SET", |class, nth| words(&["SET", &key(class, nth), "value"])),
    ("INCR", |class, nth| words(&["INCR", &format!("{class}:n{:09}", nth % 50_000)])),
    ("SADD", |class, nth| words(&["SADD", &format!("{class}:set"), &format!("member:{nth:09}")])),
    ("HSET", |class, nth| words(&["HSET", &format!("{class}:hash"), &format!("f{nth:09}"), "v"])),
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn key(class: &str, nth: u64) -> String {
    format!("{class}:key:{nth:09}")
}

/// Measures all.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let mut figures = Vec::new();
    let count = ((COMMANDS * settings.memory_scale) as u64).max(1_000);
    for write in &WRITES {
        let mut memory = Vec::new();
        for (what, site, class, peer) in [
            ("no site", false, "l", false),
            ("a site, local keys", true, "l", false),
            ("a site, global keys", true, "g", false),
            ("a site with a peer, global keys", true, "g", true),
        ] {
            let (server, _peer) = start(&settings.ashlar, site, peer)?;
            let mut client = Client::connect(&server)?;
            let before = client.info_number("memory", "used_memory")?;
            let mut from = 0;
            for pipeline in &settings.pipelines {
                let pipeline = *pipeline as u64;
                let count = if pipeline == 1 { count / SINGLE } else { count };
                let spent = server.cpu_seconds()?;
                run(&mut client, write, class, from, count, pipeline)?;
                let spent = server.cpu_seconds()? - spent;
                let figure = format!("{}, P{pipeline}: CPU s/M", write.0);
                push(&mut figures, what, figure, spent / count as f64 * 1e6);
                from += count;
            }
            let grown = client.info_number("memory", "used_memory")?.saturating_sub(before);
            let kept = if write.0 == "INCR" { from.min(50_000) } else { from };
            memory.push((what, grown as f64 / kept as f64));
        }
        let base = memory[0].1;
        for (what, bytes) in &memory[..3] {
            let figure = format!("{}: bytes a key or element", write.0);
            push(&mut figures, what, figure, *bytes);
        }
        let figure = format!("{}: bytes beside the key or element", write.0);
        push(&mut figures, memory[2].0, figure, memory[2].1 - base);
    }
    Ok(figures)
}

fn push(figures: &mut Vec<TierFigure>, what: &str, figure: String, value: f64) {
    eprintln!("{what}: {figure}: {value:.2}");
    figures.push(TierFigure { what: what.to_owned(), figure, value });
}

fn run(
    client: &mut Client,
    write: &Write,
    class: &str,
    from: u64,
    count: u64,
    pipeline: u64,
) -> Result<(), String> {
    let mut at = from;
    while at < from + count {
        client.fill(pipeline, |out, nth| {
            let words = write.1(class, at + nth);
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            command(out, &words);
        })?;
        at += pipeline;
    }
    Ok(())
}

/// A server, and its peer if it is to have one.
fn start(program: &Program, site: bool, peer: bool) -> Result<(Server, Option<Server>), String> {
    let site_of = |id: &str| {
        let mut program = program.clone();
        program.args.extend(words(&["--appendonly", "yes"]));
        if site {
            program.args.extend(words(&["--site-id", id]));
        }
        let server = program.start()?;
        if site {
            Client::connect(&server)?.call(&["POLICY", "SET", "g:*", "global"])?;
        }
        Ok::<Server, String>(server)
    };
    let server = site_of("1")?;
    if !peer {
        return Ok((server, None));
    }
    let other = site_of("2")?;
    for (one, two) in [(&server, &other), (&other, &server)] {
        let port = two.address.port().to_string();
        Client::connect(one)?.call(&["SITE", "ADD", "peer", "127.0.0.1", &port])?;
    }
    let mut client = Client::connect(&server)?;
    for _ in 0..500 {
        let status = client.call(&["SITE", "STATUS"])?;
        if String::from_utf8_lossy(&status).contains("state=up") {
            return Ok((server, Some(other)));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Err("the link of the two sites does not come up".to_owned())
}
