//! A read through the tiers: L1 is this program's memory, L2 a server, L3 whatever the server keeps
//! out of memory.
//!
//! ```text
//! cargo run -p ashlar-client --example near_cache                  # starts a server of its own
//! cargo run -p ashlar-client --example near_cache -- HOST:PORT     # uses one that is there
//! ```
//!
//! The program asks for a key; whether the server has the value in memory or brings it in from its
//! cold store is not visible here, except in the time it takes.

use ashlar_client::{NearCache, Options};
use ashlar_server::Server;
use ashlar_server::config::{Source, load};
use std::error::Error;
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let (_server, address) = match std::env::args().nth(1) {
        Some(address) => (None, address),
        None => {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
            let flags = ["--port", &port, "--bind", "127.0.0.1", "--io-threads", "1"];
            let flags = flags.map(|word| word.as_bytes().to_vec()).to_vec();
            let settings = load(&[Source::Flags(flags)]).map_err(|errors| errors[0].clone())?;
            (Some(Server::start(settings)?), format!("127.0.0.1:{port}"))
        }
    };
    let options = Options { entries_max: 10_000, bytes_max: 16 << 20, ..Options::default() };
    let cache = NearCache::connect(&address, options)?;

    cache.set(b"user:1", b"Ada")?;
    for source in ["the server", "memory"] {
        let since = Instant::now();
        let value = cache.get(b"user:1")?.ok_or("the key is gone")?;
        println!("{} from {source} after {:?}", String::from_utf8_lossy(&value), since.elapsed());
    }

    // Another program changes the key: the copy here goes without being asked for.
    let other = NearCache::connect(&address, Options::default())?;
    other.set(b"user:1", b"Grace")?;
    while cache.stats().invalidated_entries == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let value = cache.get(b"user:1")?.ok_or("the key is gone")?;
    println!("{} after another program changed it", String::from_utf8_lossy(&value));
    println!("{:?}", cache.stats());
    cache.delete(b"user:1")?;
    Ok(())
}
