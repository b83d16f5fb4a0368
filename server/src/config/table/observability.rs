//! Notifications, slow log, latency and logging.

use super::super::kind::Kind;
use super::super::setting::Setting;
use super::super::special::read_percentiles;
use super::long_from;

pub(super) const OBSERVABILITY: &[Setting] = &[
    Setting::new(
        "notify-keyspace-events",
        Kind::KeyspaceEvents,
        "",
        "Which changes of keys are published: `K` and/or `E` for the channel, the rest for the \
         kind of event.",
    ),
    Setting::new(
        "slowlog-log-slower-than",
        long_from(-1),
        "10000",
        "Microseconds from which a command enters the slow log; -1 turns it off.",
    ),
    Setting::new("slowlog-max-len", long_from(0), "128", "How many commands the slow log keeps."),
    Setting::new(
        "latency-monitor-threshold",
        long_from(0),
        "0",
        "Milliseconds from which an event is kept for LATENCY; 0 turns it off.",
    ),
    Setting::new(
        "latency-tracking",
        Kind::Bool,
        "yes",
        "Keep a histogram of each command's run time for INFO and LATENCY HISTOGRAM.",
    ),
    Setting::new(
        "latency-tracking-info-percentiles",
        Kind::Words { read: read_percentiles, form: "PERCENTILE ..." },
        "50 99 99.9",
        "The percentiles that INFO latencystats shows.",
    ),
    Setting::new(
        "loglevel",
        Kind::Enum(&[("debug", 0), ("verbose", 1), ("notice", 2), ("warning", 3), ("nothing", 4)]),
        "notice",
        "How much is logged.",
    ),
    Setting::new("logfile", Kind::Text, "", "File to log to; empty logs to standard output.")
        .start(),
    Setting::new("syslog-enabled", Kind::Bool, "no", "Log to the system's log.")
        .start()
        .only_default("log to a file or to standard output"),
    Setting::new("syslog-ident", Kind::Text, "redis", "Name in the system's log.")
        .start()
        .ignored("used with syslog-enabled only"),
    Setting::new(
        "syslog-facility",
        Kind::Enum(&[
            ("user", 8),
            ("local0", 128),
            ("local1", 136),
            ("local2", 144),
            ("local3", 152),
            ("local4", 160),
            ("local5", 168),
            ("local6", 176),
            ("local7", 184),
        ]),
        "local0",
        "Facility in the system's log.",
    )
    .start()
    .ignored("used with syslog-enabled only"),
    Setting::new("hide-user-data-from-log", Kind::Bool, "no", "Keep data out of the log.")
        .ignored("no keys or values are logged"),
    Setting::new("crash-log-enabled", Kind::Bool, "yes", "Log a report after a crash.")
        .ignored("a panic is always logged"),
    Setting::new("crash-memcheck-enabled", Kind::Bool, "yes", "Test the memory after a crash.")
        .ignored("memory is not tested"),
];
