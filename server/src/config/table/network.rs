//! Sockets, what a client may take, access, TLS.

use super::super::kind::Kind;
use super::super::setting::Setting;
use super::super::special::{read_bind, read_output_limits, read_source};
use super::{INT_MAX, LONG_MAX, int, int_from, long_from};

const ADDRESSES: Kind = Kind::Words { read: read_bind, form: "ADDRESS ..." };
const LIMITS: Kind =
    Kind::Words { read: read_output_limits, form: "(normal|replica|pubsub) HARD SOFT SECONDS ..." };
const LOCAL_CHOICE: Kind = Kind::Enum(&[("no", 0), ("yes", 1), ("local", 2)]);

pub(super) const NETWORK: &[Setting] = &[
    Setting::new(
        "port",
        int(0, 65535),
        "6379",
        "The TCP port to listen on; 0 does not listen on TCP.",
    )
    .start(),
    Setting::new(
        "bind",
        ADDRESSES,
        "* -::*",
        "The addresses to listen on; one with a leading `-` may be missing on this machine.",
    )
    .start(),
    Setting::new("tcp-backlog", int_from(0), "511", "Length of the queue of new connections.")
        .start(),
    Setting::new(
        "tcp-keepalive",
        int_from(0),
        "300",
        "Seconds of silence after which TCP probes a connection; 0 never probes.",
    ),
    Setting::new("unixsocket", Kind::Text, "", "Path of a Unix socket to listen on as well.")
        .start(),
    Setting::new(
        "unixsocketperm",
        Kind::Octal,
        "0",
        "Permissions of the Unix socket; 0 leaves those of the umask.",
    )
    .start(),
    Setting::new(
        "bind-source-addr",
        Kind::Words { read: read_source, form: "ADDRESS" },
        "",
        "Address of this machine from which connections to other servers are made.",
    ),
    Setting::new("socket-mark-id", int(0, 0xffff_ffff), "0", "Mark of the sockets for routing.")
        .start()
        .only_default("sockets can't be marked"),
    Setting::new(
        "max-new-connections-per-cycle",
        int(1, 1000),
        "10",
        "Connections accepted in one round of the event loop.",
    )
    .ignored("every worker accepts as fast as it serves"),
    Setting::new(
        "max-new-tls-connections-per-cycle",
        int(1, 1000),
        "1",
        "TLS connections accepted in one round of the event loop.",
    )
    .ignored("every worker accepts as fast as it serves"),
];

pub(super) const CLIENTS: &[Setting] = &[
    Setting::new(
        "maxclients",
        int(1, 0xffff_ffff),
        "10000",
        "How many clients may be connected at once.",
    ),
    Setting::new(
        "timeout",
        int_from(0),
        "0",
        "Seconds after which a silent client is disconnected; 0 never does.",
    ),
    Setting::new(
        "proto-max-bulk-len",
        Kind::Memory { min: 1 << 20, max: LONG_MAX },
        "536870912",
        "The longest single argument of a command, and so the longest string.",
    ),
    Setting::new(
        "client-query-buffer-limit",
        Kind::Memory { min: 1 << 20, max: LONG_MAX },
        "1073741824",
        "The most unread request bytes of one client.",
    ),
    Setting::new(
        "client-output-buffer-limit",
        LIMITS,
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
        "Reply bytes that may wait for a client of a class before it is disconnected: at once \
         above HARD, or above SOFT for SECONDS.",
    ),
    Setting::new(
        "maxmemory-clients",
        Kind::MemoryOrPercent,
        "0",
        "The memory of all clients' buffers above which the greediest ones are disconnected; \
         0 is no bound.",
    ),
    Setting::new(
        "tracking-table-max-keys",
        long_from(0),
        "1000000",
        "How many keys are remembered for client-side caching; 0 is no bound. Beyond it, readers \
         are told that a key is invalid though it is not.",
    ),
];

pub(super) const SECURITY: &[Setting] = &[
    Setting::new(
        "requirepass",
        Kind::Text,
        "",
        "The password that clients must give with AUTH or HELLO.",
    )
    .secret(),
    Setting::new(
        "protected-mode",
        Kind::Bool,
        "yes",
        "Without a password, refuse clients of other machines.",
    ),
    Setting::new(
        "enable-protected-configs",
        LOCAL_CHOICE,
        "no",
        "Whether CONFIG SET may change protected settings; `local`: from this machine only.",
    )
    .start(),
    Setting::new("enable-debug-command", LOCAL_CHOICE, "no", "Whether DEBUG may be used.").start(),
    Setting::new("enable-module-command", LOCAL_CHOICE, "no", "Whether MODULE may be used.")
        .start()
        .ignored("modules can't be loaded"),
    Setting::new("aclfile", Kind::Text, "", "File with the ACL users, read at start and by ACL LOAD; there can be no `user` lines then.")
        .start(),
    Setting::new("acllog-max-len", long_from(0), "128", "Length of the log of refused accesses."),
    Setting::new(
        "acl-pubsub-default",
        Kind::Enum(&[("allchannels", 1), ("resetchannels", 0)]),
        "resetchannels",
        "The channels that a new ACL user may use.",
    ),
];

const fn tls(name: &'static str, doc: &'static str) -> Setting {
    Setting::new(name, Kind::Text, "", doc)
}

const NO_PASSWORDS: &str = "key files with a password can't be read";
const OWN_CIPHERS: &str = "only ciphers that are safe are offered, in the library's order";

pub(super) const TLS: &[Setting] = &[
    Setting::new(
        "tls-port",
        int(0, 65535),
        "0",
        "The port of encrypted connections; 0 listens on none. With `port 0` there are no others.",
    )
    .start(),
    tls(
        "tls-cert-file",
        "The server's certificate, with those it was signed with, as PEM. Like the other files it \
         is read again when it changes.",
    ),
    tls("tls-key-file", "The server's key, as PEM."),
    tls("tls-key-file-pass", "Password of the server's key.").secret().only_default(NO_PASSWORDS),
    tls(
        "tls-client-cert-file",
        "The certificate for connections to other servers; without one it is `tls-cert-file`.",
    ),
    tls("tls-client-key-file", "The key for connections to other servers."),
    tls("tls-client-key-file-pass", "Password of that key.").secret().only_default(NO_PASSWORDS),
    tls("tls-dh-params-file", "Diffie-Hellman parameters.")
        .ignored("keys are agreed on by elliptic curves"),
    tls("tls-ca-cert-file", "The authorities that are trusted to sign clients' certificates."),
    tls("tls-ca-cert-dir", "Directory of files with authorities that are trusted."),
    tls("tls-protocols", "The versions that are allowed, of TLSv1.2 and TLSv1.3; empty for both."),
    tls("tls-ciphers", "The ciphers of TLS 1.2.").ignored(OWN_CIPHERS),
    tls("tls-ciphersuites", "The ciphers of TLS 1.3.").ignored(OWN_CIPHERS),
    Setting::new(
        "tls-auth-clients",
        Kind::Enum(&[("no", 0), ("yes", 1), ("optional", 2)]),
        "yes",
        "Whether clients must show a certificate; `optional`: it must be good if they do.",
    ),
    Setting::new(
        "tls-replication",
        Kind::Bool,
        "no",
        "Encrypt the connection to the primary, and serve no replica that does not show a \
         certificate.",
    ),
    Setting::new(
        "tls-cluster",
        Kind::Bool,
        "no",
        "Encrypt the links between the nodes of a cluster, and those of MIGRATE; nodes without a \
         certificate are refused.",
    ),
    Setting::new("tls-prefer-server-ciphers", Kind::Bool, "no", "The server chooses the cipher.")
        .ignored(OWN_CIPHERS),
    Setting::new("tls-session-caching", Kind::Bool, "yes", "Let clients resume sessions."),
    Setting::new("tls-session-cache-size", int(0, INT_MAX), "20480", "Sessions kept."),
    Setting::new("tls-session-cache-timeout", int(0, INT_MAX), "300", "Seconds a session is kept.")
        .ignored("sessions make room for newer ones only"),
];
