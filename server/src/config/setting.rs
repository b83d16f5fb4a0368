//! The description of one setting.

use super::kind::Kind;

/// The part of the server that a setting belongs to; orders `--help` and the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Files, process and threads.
    General,
    /// Sockets and connections.
    Network,
    /// What one client may take.
    Clients,
    /// Passwords and dangerous commands.
    Security,
    /// The memory bound, eviction and expiry.
    Memory,
    /// When a collection leaves its compact form.
    Encodings,
    /// Notifications, slow log, latency, logging.
    Observability,
    /// Snapshots and the append-only file.
    Persistence,
    /// Primary and replicas.
    Replication,
    /// Cluster mode.
    Cluster,
    /// Scripts and modules.
    Scripting,
    /// Encrypted connections.
    Tls,
    /// Process tuning of redis-server.
    Tuning,
}

impl Group {
    /// The heading of the group.
    pub const fn title(self) -> &'static str {
        match self {
            Self::General => "General",
            Self::Network => "Network",
            Self::Clients => "Clients",
            Self::Security => "Security",
            Self::Memory => "Memory, eviction and expiry",
            Self::Encodings => "Compact encodings",
            Self::Observability => "Logging and observability",
            Self::Persistence => "Persistence",
            Self::Replication => "Replication",
            Self::Cluster => "Cluster",
            Self::Scripting => "Scripting and modules",
            Self::Tls => "TLS",
            Self::Tuning => "Process tuning",
        }
    }
}

/// What the server does with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It has its effect.
    Yes,
    /// Accepted and shown, without an effect, since ignoring it harms nobody; why.
    Ignored(&'static str),
    /// Only its default is accepted, since ignoring another value would break a promise; why.
    OnlyDefault(&'static str),
}

/// Whether CONFIG SET may change a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutability {
    /// At any time.
    RunTime,
    /// Only at start.
    Start,
    /// At run time if `enable-protected-configs` allows it.
    Protected,
}

/// One setting: its names, the form of its values, its default and its meaning.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The current name, in lower case.
    pub name: &'static str,
    /// Older names that mean the same.
    pub aliases: &'static [&'static str],
    /// The form of its values.
    pub kind: Kind,
    /// The default, in the form that CONFIG GET shows.
    pub default: &'static str,
    /// When it may change.
    pub mutability: Mutability,
    /// Whether it has an effect.
    pub support: Support,
    /// A secret never appears in logs, the start-up text or the slow log.
    pub secret: bool,
    /// One sentence on what it does.
    pub doc: &'static str,
}

impl Setting {
    /// A setting that can change at run time and has its effect.
    pub const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Self {
            name,
            aliases: &[],
            kind,
            default,
            mutability: Mutability::RunTime,
            support: Support::Yes,
            secret: false,
            doc,
        }
    }

    /// Further names of the same setting.
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// It is read at start only.
    pub const fn start(mut self) -> Self {
        self.mutability = Mutability::Start;
        self
    }

    /// Changing it at run time needs `enable-protected-configs`.
    pub const fn protected(mut self) -> Self {
        self.mutability = Mutability::Protected;
        self
    }

    /// Its value is never printed.
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// It is accepted without an effect.
    pub const fn ignored(mut self, why: &'static str) -> Self {
        self.support = Support::Ignored(why);
        self
    }

    /// It is refused unless it has its default value.
    pub const fn only_default(mut self, why: &'static str) -> Self {
        self.support = Support::OnlyDefault(why);
        self
    }

    /// Whether `name`, in any case, is one of this setting's names.
    pub fn is_named(&self, name: &[u8]) -> bool {
        self.names().any(|own| own.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The current name and the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}
