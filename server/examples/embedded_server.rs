//! A whole server inside a program: clients reach it through a socket, the program without one.
//!
//! Run it with `cargo run --release -p ashlar-server --example embedded_server`.

use ashlar_server::Server;
use ashlar_server::config::{Source, load};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// A port that is free at the moment.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Sends an inline request and returns the first line of the reply.
fn ask(connection: &mut BufReader<TcpStream>, request: &str) -> std::io::Result<String> {
    write!(connection.get_mut(), "{request}\r\n")?;
    let mut line = String::new();
    connection.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    // Settings as on the command line of `ashlar`; a file works too: `Source::File`.
    let flags = format!("--port {} --bind 127.0.0.1 --io-threads 1 --save", free_port()?);
    let flags = flags.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    let settings = load(&[Source::Flags(flags)]).map_err(|errors| errors[0].clone())?;

    // It accepts connections once this returns.
    let server = Server::start(settings)?;
    println!("listening on port {}", server.port());

    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port()))?;
    let mut connection = BufReader::new(stream);
    println!("SET greeting hello -> {}", ask(&mut connection, "SET greeting hello")?);
    println!("STRLEN greeting    -> {}", ask(&mut connection, "STRLEN greeting")?);
    println!("INCR visits        -> {}", ask(&mut connection, "INCR visits")?);

    // The program itself needs no socket: a client with a session, or the data alone.
    let mut client = server.connect()?;
    println!("GET greeting       -> {:?}", client.call(&[b"GET", b"greeting"])?);
    println!("keys in database 0 -> {}", server.engine().db_stats()[0].keys);

    // Dropping the server does this as well.
    server.stop();
    server.wait()?;
    println!("stopped");
    Ok(())
}
