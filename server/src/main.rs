//! The daemon.

use ashlar_server::alloc::{Counting, GiveBack};
use ashlar_server::cli::{self, Start};
use ashlar_server::config::{Settings, ids};
use ashlar_server::server::Server;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: Counting<tikv_jemallocator::Jemalloc> = Counting(tikv_jemallocator::Jemalloc);

/// How long pages stay with the allocator after they became free. What a burst of large requests
/// leaves is then gone a second later; the allocator's own ten seconds would count it as memory of
/// the data for as long.
const FREE_PAGES_STAY_MS: isize = 1000;

/// Gives the allocator's free pages back to the system.
fn purge() {
    // All arenas: MALLCTL_ARENAS_ALL.
    const NAME: &std::ffi::CStr = c"arena.4096.purge";
    let null = std::ptr::null_mut();
    // SAFETY: the control takes no value and gives none, so both pointers may be null; the name is a
    // C string. An error changes nothing.
    unsafe { tikv_jemalloc_sys::mallctl(NAME.as_ptr(), null, null.cast(), null, 0) };
}

/// Starts or stops the allocator's thread that gives free pages back.
fn purge_in_background(on: bool) {
    // New arenas take the first; the main thread's is there already.
    for name in [c"arenas.dirty_decay_ms", c"arena.0.dirty_decay_ms"] {
        set_control(name, FREE_PAGES_STAY_MS);
    }
    // One will do; the most can only be set while none runs.
    set_control(c"max_background_threads", 1_usize);
    set_control(c"background_thread", on);
}

/// Has the calling thread take memory from an arena.
fn from_arena(number: u32) {
    set_control(c"thread.arena", number);
}

/// Sets a control of the allocator; one that it doesn't know is left alone.
fn set_control<T>(name: &std::ffi::CStr, mut value: T) {
    let null: *mut T = std::ptr::null_mut();
    let (new, len) = ((&raw mut value).cast(), size_of::<T>());
    // SAFETY: the name is a C string; `new` points to `len` bytes of the value, which the call only
    // reads, and a length that is not the control's own is refused. The old value is not asked for.
    unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), null.cast(), null.cast(), new, len) };
}

fn main() -> ExitCode {
    ashlar_server::alloc::set_give_back(GiveBack {
        now: purge,
        in_background: purge_in_background,
        from_arena,
    });
    match cli::start(std::env::args_os().skip(1)) {
        Start::Done(code) => code,
        Start::Run(settings) => match run(*settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&mut std::io::stderr(), &format!("ashlar: {error}\n"));
                ExitCode::FAILURE
            }
        },
    }
}

/// Writes a text where somebody may read it. Whoever did may have gone: that is no reason to stop, as it is for
/// `print!`.
fn say(to: &mut impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

fn run(settings: Settings) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // What cannot be written is lost: the subscriber would complain on standard error, and end the thread that logs
    // where nobody reads that either.
    let log = tracing_subscriber::fmt()
        .with_target(false)
        .with_max_level(level(&settings))
        .with_ansi(std::io::stdout().is_terminal())
        .log_internal_errors(false);
    let file = settings.string(ids::LOGFILE);
    if file.is_empty() {
        log.init();
    } else {
        let opened = std::fs::File::options().create(true).append(true).open(&file);
        let opened = opened.map_err(|error| {
            std::io::Error::new(error.kind(), format!("can't open logfile {file}: {error}"))
        })?;
        log.with_ansi(false).with_writer(std::sync::Mutex::new(opened)).init();
    }
    runtime.block_on(async {
        // Before the first connection, so that no signal is lost.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        ashlar_server::listen::check_reachable(&settings)?;
        let mut hangup = signal(SignalKind::hangup())?;
        let server = Server::start(settings)?;
        let settings = &server.shared().settings;
        say(&mut std::io::stdout(), &cli::banner(settings));
        for result in [cli::write_pid_file(settings), cli::notify_ready(settings)] {
            if let Err(error) = result {
                tracing::warn!("{error}");
            }
        }
        let shared = server.shared().clone();
        let stopped = tokio::task::spawn_blocking(move || server.wait());
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: the server stops"),
                _ = interrupt.recv() => tracing::info!("SIGINT: the server stops"),
            }
            shared.stop();
            std::future::pending::<()>().await;
        };
        // A terminal that goes away is no reason to stop; otherwise it means: read your files again.
        let reload = async {
            while hangup.recv().await.is_some() {
                match shared.tls.load(&shared.settings) {
                    Ok(()) => tracing::info!("SIGHUP: the TLS certificates were read again"),
                    Err(error) => tracing::error!("SIGHUP: the old TLS certificates stay: {error}"),
                }
            }
            std::future::pending::<()>().await;
        };
        let result = tokio::select! {
            stopped = stopped => stopped.map_err(std::io::Error::other)?,
            () = stop => Ok(()),
            () = reload => Ok(()),
        };
        cli::remove_pid_file(&shared.settings);
        result
    })
}

fn level(settings: &Settings) -> tracing::Level {
    match settings.string(ids::LOGLEVEL).as_str() {
        "debug" => tracing::Level::TRACE,
        "verbose" => tracing::Level::DEBUG,
        "warning" | "nothing" => tracing::Level::WARN,
        _ => tracing::Level::INFO,
    }
}
