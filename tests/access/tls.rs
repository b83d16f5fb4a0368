//! TLS: who may connect, certificates that change, connections that misbehave.

use ashlar_server::Server;
use ashlar_server::config::{Caller, Source, load};
use ashlar_tests::authority::Authority;
use ashlar_tests::process::workspace;
use ashlar_tests::resp::{self, Value};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server that speaks nothing but TLS, in this process, and its port.
fn serve(authority: &Authority, settings: &[&str]) -> (Server, u16) {
    for _ in 0..5 {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr());
        let port = free.expect("a port").port();
        let (cert, key, ca) =
            (authority.path("cert.pem"), authority.path("key.pem"), authority.path("ca.pem"));
        let number = port.to_string();
        let own = [
            "--port",
            "0",
            "--tls-port",
            &number,
            "--bind",
            "127.0.0.1",
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--io-threads",
            "1",
            "--save",
            "",
        ];
        let flags = own.iter().chain(settings).map(|word| word.as_bytes().to_vec()).collect();
        let settings = load(&[Source::Flags(flags)]).expect("settings");
        if let Ok(server) = Server::start(settings) {
            return (server, port);
        }
    }
    panic!("no server")
}

/// What a client trusts, and shows of itauthority.
fn client(authority: &Authority, with_certificate: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone()).expect("the authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    Arc::new(match with_certificate {
        false => builder.with_no_client_auth(),
        true => {
            let (_, key, certificate) = authority.sign("a client");
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            builder.with_client_auth_cert(vec![certificate], key).expect("a certificate")
        }
    })
}

struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(port: u16, config: &Arc<ClientConfig>) -> Client {
        let tcp = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        tcp.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(config.clone(), name).expect("a session");
        Client { stream: StreamOwned::new(tls, tcp), buffer: Vec::new() }
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        let mut out = Vec::new();
        resp::encode(&resp::words(line), &mut out);
        self.stream.write_all(&out)
    }

    fn reply(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, len)) = resp::parse(&self.buffer)? {
                self.buffer.drain(..len);
                return Ok(value);
            }
            let mut chunk = vec![0; 64 * 1024];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => self.buffer.extend_from_slice(&chunk[..got]),
            }
        }
    }

    fn ask(&mut self, line: &str) -> io::Result<Value> {
        self.send(line)?;
        self.reply()
    }

    fn server_certificate(&self) -> CertificateDer<'static> {
        let chain = self.stream.conn.peer_certificates().expect("a chain");
        chain[0].clone().into_owned()
    }
}

#[test]
fn certificates_of_clients() {
    let authority = Authority::new();
    authority.write("server");
    for (auth, without, with) in
        [("yes", false, true), ("no", true, true), ("optional", true, true)]
    {
        let (_server, port) = serve(&authority, &["--tls-auth-clients", auth]);
        for (shows, expected) in [(false, without), (true, with)] {
            let mut client = Client::connect(port, &client(&authority, shows));
            let reply = client.ask("PING");
            assert_eq!(reply.is_ok(), expected, "{auth}, {shows}: {reply:?}");
        }
        // Somebody else's certificate is never good enough.
        let stranger = Authority::new();
        let mut roots = RootCertStore::empty();
        roots.add(authority.root().clone()).expect("the authority");
        let (_, key, certificate) = stranger.sign("a stranger");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .expect("a certificate");
        let reply = Client::connect(port, &Arc::new(config)).ask("PING");
        assert_eq!(reply.is_ok(), auth == "no", "{auth}: {reply:?}");
    }
}

#[test]
fn large_pipelines_both_ways() {
    let authority = Authority::new();
    authority.write("server");
    let (_server, port) = serve(&authority, &["--tls-auth-clients", "no"]);
    let mut client = Client::connect(port, &client(&authority, false));
    let value = "x".repeat(300_000);
    assert_eq!(client.ask(&format!("SET big {value}")).expect("a reply").text(), "OK");
    // More than sockets and buffers take: the server has to wait for its reader, and go on.
    for _ in 0..100 {
        client.send("GET big").expect("sent");
    }
    for n in 0..100 {
        assert_eq!(client.reply().expect("a reply").text().len(), 300_000, "{n}");
    }
    for n in 0..2_000 {
        client.send(&format!("INCR n{}", n % 7)).expect("sent");
    }
    for _ in 0..2_000 {
        assert!(matches!(client.reply(), Ok(Value::Int(_))));
    }
    // The replies of what was sent before the end still come.
    client.send("GET big").expect("sent");
    assert_eq!(client.ask("QUIT").expect("a reply").text().len(), 300_000);
    assert_eq!(client.reply().expect("a reply").text(), "OK");
    assert!(client.reply().is_err());
}

#[test]
fn certificates_are_replaced_without_a_restart() {
    let authority = Authority::new();
    let first = authority.write("first");
    let (server, port) = serve(&authority, &["--tls-auth-clients", "no"]);
    let config = client(&authority, false);
    let mut old = Client::connect(port, &config);
    old.ask("PING").expect("a reply");
    assert_eq!(old.server_certificate(), first);
    let second = authority.write("second, with another length");
    let since = Instant::now();
    loop {
        let mut client = Client::connect(port, &config);
        client.ask("PING").expect("a reply");
        if client.server_certificate() == second {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "the new certificate is not used");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(old.ask("PING").expect("a reply").text(), "PONG", "connections go on");
    // A setting that cannot be honoured changes nothing.
    let settings = &server.shared().settings;
    let nothing = authority.path("missing.pem");
    let pairs: [(&[u8], &[u8]); 1] = [(b"tls-cert-file", nothing.as_bytes())];
    assert!(settings.set(&pairs, Caller::Local).is_err());
    Client::connect(port, &config).ask("PING").expect("a reply");
    let pairs: [(&[u8], &[u8]); 1] = [(b"tls-auth-clients", b"yes")];
    settings.set(&pairs, Caller::Local).expect("the setting");
    assert!(Client::connect(port, &config).ask("PING").is_err());
}

#[test]
fn what_is_no_tls_is_cut_off() {
    let authority = Authority::new();
    authority.write("server");
    let (_server, port) = serve(&authority, &["--tls-auth-clients", "no"]);
    for bytes in [&b"PING\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 0, 0, 0], &[0; 20_000]] {
        let mut plain = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        plain.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let _ = plain.write_all(bytes);
        let _ = plain.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        // Either an alert and the end, or just the end.
        let _ = plain.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"+PONG"));
    }
    let mut client = Client::connect(port, &client(&authority, false));
    assert_eq!(client.ask("PING").expect("a reply").text(), "PONG");
}

#[test]
fn what_is_missing_is_named_at_start() {
    for flags in [
        "--port 0 --tls-port 1",
        "--port 0 --tls-port 1 --tls-cert-file /missing --tls-key-file /missing",
    ] {
        let own = flags.split(' ').chain(["--save", ""]);
        let flags = own.map(|word| word.as_bytes().to_vec()).collect();
        let settings = load(&[Source::Flags(flags)]).expect("settings");
        let error = Server::start(settings).expect_err("no certificate").to_string();
        assert!(error.contains("tls-cert-file") || error.contains("/missing"), "{error}");
    }
}

/// What a program that must succeed writes.
fn output(command: &mut Command) -> String {
    let done = command.output().expect("the program is installed by `cargo xtask test`");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}{error}");
    said
}

/// redis-cli's TLS is OpenSSL's: another implementation than the one of the other tests.
#[test]
fn redis_cli_with_and_without_a_certificate() {
    let authority = Authority::new();
    authority.write("server");
    let (_server, port) = authority.daemon(&["--tls-auth-clients", "yes"]);
    let (cert, key) = authority.write_client();
    let cli = |shows: bool, args: &[&str]| {
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", "localhost", "-p", &port.to_string(), "--tls"]);
        cli.args(["--cacert", &authority.path("ca.pem")]);
        if shows {
            cli.args(["--cert", &cert, "--key", &key]);
        }
        cli.args(args);
        cli
    };
    assert_eq!(output(&mut cli(true, &["SET", "k", "v"])).trim(), "OK");
    let large = "x".repeat(200_000);
    assert_eq!(output(&mut cli(true, &["ECHO", &large[..100_000]])).trim().len(), 100_000);
    assert_eq!(output(&mut cli(true, &["-3", "GET", "k"])).trim(), "v");
    let listed = output(&mut cli(true, &["--scan"]));
    assert_eq!(listed.trim(), "k");
    let refused = cli(false, &["PING"]).output().expect("redis-cli");
    assert!(!String::from_utf8_lossy(&refused.stdout).contains("PONG"));
}

/// redis-py's is Python's, with the name of the host verified.
#[test]
fn redis_py_over_tls() {
    const SCRIPT: &str = "
import redis, sys
port, ca, cert, key = sys.argv[1:]
for protocol in (2, 3):
    client = redis.Redis(host='localhost', port=int(port), protocol=protocol, ssl=True,
                         ssl_ca_certs=ca, ssl_certfile=cert, ssl_keyfile=key,
                         ssl_check_hostname=True, decode_responses=True, socket_timeout=20)
    client.flushall()
    pipe = client.pipeline()
    for n in range(2000):
        pipe.set(f'key{n}', 'x' * n)
    assert all(pipe.execute())
    assert client.mget('key1', 'key1999') == ['x', 'x' * 1999]
    listener = client.pubsub()
    listener.subscribe('news')
    assert listener.get_message(timeout=20)['type'] == 'subscribe'
    assert client.publish('news', 'hello') == 1
    assert listener.get_message(timeout=20)['data'] == 'hello'
    assert client.blpop('none', timeout=0.05) is None
    with client.lock('lock', timeout=10):
        pass
    listener.close()
    client.close()
stranger = redis.Redis(host='localhost', port=int(port), ssl=True, ssl_ca_certs=ca,
                       socket_timeout=20, retry=None)
try:
    stranger.ping()
except redis.ConnectionError:
    print('refused')
";
    let authority = Authority::new();
    authority.write("server");
    let (_server, port) = authority.daemon(&["--tls-auth-clients", "yes"]);
    let (cert, key) = authority.write_client();
    let python = workspace().join(".venv/bin/python");
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT, &port.to_string(), &authority.path("ca.pem"), &cert, &key]);
    assert_eq!(output(&mut command).trim(), "refused");
}

/// The files are read again by themselves once a second; a signal does it at once, and finds what
/// looks unchanged from outside.
#[test]
fn a_signal_has_the_certificates_read_again() {
    let authority = Authority::new();
    let first = authority.write("first");
    let (server, port) = authority.daemon(&["--tls-auth-clients", "no"]);
    let config = client(&authority, false);
    let shown = || {
        let mut client = Client::connect(port, &config);
        client.ask("PING").expect("a reply");
        client.server_certificate()
    };
    assert_eq!(shown(), first);
    let second = authority.write("other");
    server.signal("HUP");
    let since = Instant::now();
    while shown() != second {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", server.log());
    }
    // What cannot be read is said, and changes nothing.
    std::fs::write(authority.path("cert.pem"), "no certificate").expect("a file");
    server.signal("HUP");
    let since = Instant::now();
    while !server.log().contains("the old TLS certificates stay") {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", server.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(shown(), second);
}
