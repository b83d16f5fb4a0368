//! A plain blocking client: prepares the data of a test, and asks a server about itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::protocol::{Protocol, Scan, command};
use crate::server::Server;

/// Longest wait for a reply: FLUSHALL of a large data set takes its time.
const REPLY_MAX: Duration = Duration::from_secs(60);
/// Commands on the way at a time while data are loaded.
const BATCH: u64 = 500;

/// A connection.
pub struct Client {
    stream: TcpStream,
    protocol: Protocol,
    input: Vec<u8>,
    at: usize,
}

impl Client {
    /// Connects to `server`.
    pub fn connect(server: &Server) -> Result<Self, String> {
        Client::connect_to(server.address, server.program.protocol())
    }

    /// Connects to an address.
    pub fn connect_to(address: SocketAddr, protocol: Protocol) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        let options = [
            stream.set_nodelay(true),
            stream.set_read_timeout(Some(REPLY_MAX)),
            stream.set_write_timeout(Some(REPLY_MAX)),
        ];
        options.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string())?;
        Ok(Client { stream, protocol, input: Vec::new(), at: 0 })
    }

    /// Sends a RESP command and gives its reply as it came.
    pub fn call(&mut self, args: &[&str]) -> Result<Vec<u8>, String> {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let mut out = Vec::new();
        command(&mut out, &args);
        self.send(&out)?;
        self.reply()
    }

    /// Sends what `write` makes for each of `0..count`, one reply each, many at a time.
    pub fn fill(
        &mut self,
        count: u64,
        mut write: impl FnMut(&mut Vec<u8>, u64),
    ) -> Result<(), String> {
        let mut out = Vec::new();
        let mut next = 0;
        while next < count {
            let end = count.min(next + BATCH);
            out.clear();
            (next..end).for_each(|index| write(&mut out, index));
            self.send(&out)?;
            for _ in next..end {
                self.reply()?;
            }
            next = end;
        }
        Ok(())
    }

    /// A number of INFO's `section`.
    pub fn info_number(&mut self, section: &str, field: &str) -> Result<u64, String> {
        let reply = self.call(&["INFO", section])?;
        let text = String::from_utf8_lossy(&reply);
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok()).ok_or(format!("INFO has no {field}"))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| format!("sending: {error}"))
    }

    fn reply(&mut self) -> Result<Vec<u8>, String> {
        loop {
            let bytes = &self.input[self.at..];
            match self.protocol.scan(bytes) {
                Scan::Whole(len) => {
                    let reply = bytes[..len].to_vec();
                    self.at += len;
                    return Ok(reply);
                }
                Scan::Error(len) => {
                    let text = String::from_utf8_lossy(&bytes[..len]).trim().to_owned();
                    self.at += len;
                    return Err(text);
                }
                Scan::Garbage => return Err("the reply is garbage".to_owned()),
                Scan::Partial => self.read()?,
            }
        }
    }

    fn read(&mut self) -> Result<(), String> {
        self.input.drain(..self.at);
        self.at = 0;
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(len) => {
                self.input.extend_from_slice(&chunk[..len]);
                Ok(())
            }
            Err(error) => Err(format!("waiting for a reply: {error}")),
        }
    }
}
