//! mio next to tokio: what the path from a socket to a reply costs on each, with nothing behind it.
//!
//! Two servers of one thread, with the server's own parser, answer PING, and GET from a small map. The load is
//! the same for both, in turn: 50 connections, each sending so many requests at a time and waiting for their
//! replies. What counts is the processor time of the server's thread for a million requests.
//!
//! ```sh
//! cargo bench -p ashlar-benches --bench runtimes
//! ```

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use ashlar_server::resp::decode::{Limits, Parsed, parse};

const CLIENTS: usize = 50;
const ROUNDS: usize = 7;
/// Requests of a run at pipeline 1; more at others, which are faster.
const REQUESTS: usize = 60_000;
const READ_BYTES: usize = 64 * 1024;
const LIMITS: Limits = Limits { authenticated: true, bulk_bytes_max: 512 << 20 };

type Map = HashMap<Vec<u8>, Vec<u8>>;

/// Answers the whole requests at the start of `bytes`, and says how many bytes they were.
fn answer(map: &Map, bytes: &[u8], out: &mut Vec<u8>) -> usize {
    let (mut at, mut args) = (0, Vec::new());
    loop {
        args.clear();
        let Ok(Parsed::Request(next)) = parse(bytes, at, LIMITS, &mut args) else { return at };
        at = next;
        match args.as_slice() {
            [name, key] if name.eq_ignore_ascii_case(b"GET") => match map.get(*key) {
                Some(value) => {
                    out.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
                    out.extend_from_slice(value);
                    out.extend_from_slice(b"\r\n");
                }
                None => out.extend_from_slice(b"$-1\r\n"),
            },
            _ => out.extend_from_slice(b"+PONG\r\n"),
        }
    }
}

/// Nanoseconds that this thread has run.
fn thread_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn serve_mio(listener: TcpListener, map: &Map) -> io::Result<()> {
    use mio::{Events, Interest, Poll, Token, net};
    let mut poll = Poll::new()?;
    let mut connections = Vec::new();
    for slot in 0..CLIENTS {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut stream = net::TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(slot), Interest::READABLE)?;
        connections.push((stream, Vec::new()));
    }
    let mut events = Events::with_capacity(1024);
    let (mut buf, mut out, mut open) = (vec![0; READ_BYTES], Vec::new(), CLIENTS);
    while open > 0 {
        poll.poll(&mut events, None)?;
        for event in &events {
            let (stream, rest) = &mut connections[event.token().0];
            loop {
                let len = match stream.read(&mut buf) {
                    Ok(0) => {
                        open -= 1;
                        poll.registry().deregister(stream)?;
                        break;
                    }
                    Ok(len) => len,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                out.clear();
                serve_bytes(map, &buf[..len], rest, &mut out);
                // The client waits for these few bytes: they fit into the socket.
                stream.write_all(&out)?;
                if len < buf.len() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Answers what came, of which an incomplete request stays in `rest`.
fn serve_bytes(map: &Map, bytes: &[u8], rest: &mut Vec<u8>, out: &mut Vec<u8>) {
    if rest.is_empty() {
        let used = answer(map, bytes, out);
        rest.extend_from_slice(&bytes[used..]);
    } else {
        rest.extend_from_slice(bytes);
        let used = answer(map, rest, out);
        rest.drain(..used);
    }
}

fn serve_tokio(listener: TcpListener, map: Arc<Map>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut tasks = Vec::new();
        for _ in 0..CLIENTS {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tasks.push(tokio::spawn(serve_one(stream, map.clone())));
        }
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
}

async fn serve_one(stream: tokio::net::TcpStream, map: Arc<Map>) -> io::Result<()> {
    let (mut buf, mut rest, mut out) = (vec![0; READ_BYTES], Vec::new(), Vec::new());
    loop {
        stream.readable().await?;
        let len = match stream.try_read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        out.clear();
        serve_bytes(&map, &buf[..len], &mut rest, &mut out);
        let mut sent = 0;
        while sent < out.len() {
            match stream.try_write(&out[sent..]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.writable().await?
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Sends batches of `request` over all connections until there were so many requests.
fn load(address: SocketAddr, batch: &[u8], reply_bytes: usize, waves: usize) -> io::Result<()> {
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let mut replies = vec![0; reply_bytes];
    for _ in 0..waves {
        for stream in &mut streams {
            stream.write_all(batch)?;
        }
        for stream in &mut streams {
            stream.read_exact(&mut replies)?;
        }
    }
    Ok(())
}

/// Thousand requests a second, and processor seconds of the server's thread a million requests.
fn run(is_mio: bool, request: &[u8], reply_len: usize, pipeline: usize) -> io::Result<(f64, f64)> {
    let map: Arc<Map> = Arc::new(HashMap::from([(b"key:000000000042".to_vec(), b"xxx".to_vec())]));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let waves = REQUESTS * pipeline.min(8) / pipeline / CLIENTS;
    let server = thread::spawn(move || -> io::Result<u64> {
        let before = thread_ns();
        if is_mio { serve_mio(listener, &map) } else { serve_tokio(listener, map) }?;
        Ok(thread_ns() - before)
    });
    let start = Instant::now();
    load(address, &request.repeat(pipeline), reply_len * pipeline, waves)?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu_ns = server.join().map_err(|_| io::Error::other("the server has failed"))??;
    let requests = (waves * CLIENTS * pipeline) as f64;
    Ok((requests / seconds / 1e3, cpu_ns as f64 / 1e3 / requests))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> io::Result<()> {
    const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000042\r\n";
    println!("| test | mio krps | tokio krps | mio CPU s/M | tokio CPU s/M | tokio / mio CPU |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (name, request, reply_len) in [("PING", PING, 7), ("GET", GET, 9)] {
        for pipeline in [1, 16, 64] {
            let mut figures = [(); 2].map(|()| (Vec::new(), Vec::new()));
            let mut ratios = Vec::new();
            for _ in 0..ROUNDS {
                let mut cpu = [0.0; 2];
                for (nth, is_mio) in [true, false].into_iter().enumerate() {
                    let (krps, seconds) = run(is_mio, request, reply_len, pipeline)?;
                    figures[nth].0.push(krps);
                    figures[nth].1.push(seconds);
                    cpu[nth] = seconds;
                }
                ratios.push(cpu[1] / cpu[0]);
            }
            let [mio, tokio] = figures;
            println!(
                "| {name} P{pipeline} | {:.0} | {:.0} | {:.3} | {:.3} | {:.2}x |",
                median(mio.0),
                median(tokio.0),
                median(mio.1),
                median(tokio.1),
                median(ratios),
            );
        }
    }
    Ok(())
}
