//! Listening sockets, and who may connect.

use crate::clients::IN_PROCESS;
use crate::config::{Settings, ids};
use crate::conn::Stream;
use crate::shared::Shared;
use crate::worker::Listener;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

const PROTECTED: &str = "-DENIED ashlar is running in protected mode because protected mode is \
    enabled and no password is set for the default user. In this mode connections are only \
    accepted from the loopback interface. To connect from elsewhere, set a password with \
    requirepass, or bind to an address that only trusted hosts reach and set protected-mode no.\r\n";
const TOO_MANY: &str = "-ERR max number of clients reached\r\n";

/// A socket that is bound, to be shared by the workers.
pub enum Bound {
    /// TCP
    Tcp(std::net::TcpListener),
    /// TCP, for encrypted connections
    Tls(std::net::TcpListener),
    /// Unix domain
    Unix(std::os::unix::net::UnixListener),
}

impl Bound {
    /// A handle for one more worker.
    ///
    /// # Errors
    /// If the system gives no descriptor.
    pub fn listener(&self) -> io::Result<Listener> {
        Ok(match self {
            Bound::Tcp(tcp) => Listener::Tcp(mio::net::TcpListener::from_std(tcp.try_clone()?)),
            Bound::Tls(tcp) => Listener::Tls(mio::net::TcpListener::from_std(tcp.try_clone()?)),
            Bound::Unix(unix) => {
                Listener::Unix(mio::net::UnixListener::from_std(unix.try_clone()?))
            }
        })
    }
}

/// Binds all addresses of the settings. Returns the sockets and the port.
///
/// # Errors
/// Says which address could not be bound and why.
pub fn bind(settings: &Settings) -> io::Result<(Vec<Bound>, u16)> {
    let mut bound = Vec::new();
    let port = u16::try_from(settings.number(ids::PORT)).unwrap_or(0);
    let tls_port = u16::try_from(settings.number(ids::TLS_PORT)).unwrap_or(0);
    bind_all(settings, port, Bound::Tcp, &mut bound)?;
    bind_all(settings, tls_port, Bound::Tls, &mut bound)?;
    let path = settings.string(ids::UNIXSOCKET);
    if !path.is_empty() {
        bound.push(Bound::Unix(bind_unix(settings, &path)?));
    }
    Ok((bound, port))
}

/// Refuses settings with which nobody could reach a daemon. A server inside a program needs no
/// listening socket.
///
/// # Errors
/// Says which settings they are.
pub fn check_reachable(settings: &Settings) -> io::Result<()> {
    let ports = settings.number(ids::PORT) | settings.number(ids::TLS_PORT);
    if ports == 0 && settings.string(ids::UNIXSOCKET).is_empty() {
        return Err(io::Error::other(
            "nothing to listen on: port and tls-port are 0 and there is no unixsocket",
        ));
    }
    Ok(())
}

/// Binds a port at all addresses of the settings; none for port 0.
fn bind_all(
    settings: &Settings,
    port: u16,
    kind: fn(std::net::TcpListener) -> Bound,
    bound: &mut Vec<Bound>,
) -> io::Result<()> {
    if port == 0 {
        return Ok(());
    }
    let names = settings.string(ids::BIND);
    for name in names.split_ascii_whitespace() {
        // An address with a leading dash may be missing on this machine.
        let (name, optional) = match name.strip_prefix('-') {
            Some(name) => (name, true),
            None => (name, false),
        };
        match bind_tcp(settings, name, port) {
            Ok(listener) => bound.push(kind(listener)),
            Err(error) if optional && error.kind() != io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(explain(error, name, port)),
        }
    }
    Ok(())
}

fn explain(error: io::Error, name: &str, port: u16) -> io::Error {
    io::Error::new(error.kind(), crate::cli::listen_error(&format!("{name}:{port}"), &error))
}

fn bind_tcp(settings: &Settings, name: &str, port: u16) -> io::Result<std::net::TcpListener> {
    let address: SocketAddr = match name {
        "*" => SocketAddr::from(([0, 0, 0, 0], port)),
        "::*" => SocketAddr::from(([0u16; 8], port)),
        name => {
            let mut addresses = (name, port).to_socket_addrs()?;
            addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?
        }
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(settings.number(ids::TCP_BACKLOG)).unwrap_or(511))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(settings: &Settings, path: &str) -> io::Result<std::os::unix::net::UnixListener> {
    // A socket file that a server left behind is in the way; one that answers is not ours.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::other(format!("another server is listening on {path}")));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = u32::try_from(settings.number(ids::UNIXSOCKETPERM)).unwrap_or(0);
    let listener = if mode == 0 {
        std::os::unix::net::UnixListener::bind(path)?
    } else {
        // The file is made with its permissions: were they set afterwards, anybody could connect in
        // between (CVE-2023-45145). The mask is the process's, for this one call.
        let hidden = rustix::fs::Mode::from_raw_mode(!mode & 0o777);
        let before = rustix::process::umask(hidden);
        let bound = std::os::unix::net::UnixListener::bind(path);
        rustix::process::umask(before);
        bound?
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Remote and local address of a connection, as CLIENT LIST shows them.
pub fn addresses(stream: &Stream) -> (String, String) {
    match stream {
        Stream::Tcp(_) | Stream::Tls(_) => {
            let show = |address: Option<io::Result<SocketAddr>>| match address {
                Some(Ok(address)) => address.to_string(),
                _ => "?:0".into(),
            };
            let tcp = stream.tcp();
            (show(tcp.map(|tcp| tcp.peer_addr())), show(tcp.map(|tcp| tcp.local_addr())))
        }
        Stream::Unix(unix) => {
            let local = unix.local_addr().ok();
            let path = local.as_ref().and_then(|local| local.as_pathname());
            let path = path.map_or_else(|| IN_PROCESS.into(), |path| path.display().to_string());
            (format!("{path}:0"), format!("{path}:0"))
        }
    }
}

/// Whether a connection is let in; else the refusal to send.
///
/// # Errors
/// The text for the client.
pub fn admit(shared: &Shared, stream: &Stream) -> Result<(), &'static str> {
    let peer = stream.tcp().map(|tcp| tcp.peer_addr());
    let remote = peer.is_some_and(|peer| peer.map_or(true, |peer| !is_loopback(peer.ip())));
    if remote && shared.settings.flag(ids::PROTECTED_MODE) && !shared.needs_password() {
        return Err(PROTECTED);
    }
    let max = usize::try_from(shared.settings.number(ids::MAXCLIENTS)).unwrap_or(usize::MAX);
    if shared.clients.admit(max) { Ok(()) } else { Err(TOO_MANY) }
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}

/// Sets what a client's socket is to be like.
pub fn tune(shared: &Shared, stream: &Stream) {
    let Some(tcp) = stream.tcp() else { return };
    let keepalive = shared.settings.count(ids::TCP_KEEPALIVE);
    let socket = SockRef::from(tcp);
    let mut tuned = tcp.set_nodelay(true);
    if keepalive != 0 {
        let every = Duration::from_secs(keepalive);
        let settings = TcpKeepalive::new().with_time(every).with_interval(every / 3);
        tuned = tuned.and(socket.set_tcp_keepalive(&settings));
    }
    if let Err(error) = tuned {
        tracing::debug!("a socket could not be tuned: {error}");
    }
}
