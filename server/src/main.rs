//! The daemon.

use ashlar_server::alloc::Counting;
use ashlar_server::cli::{self, Start};
use ashlar_server::config::{Settings, ids};
use ashlar_server::server::Server;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: Counting<tikv_jemallocator::Jemalloc> = Counting(tikv_jemallocator::Jemalloc);

/// Gives the allocator's free pages back to the system.
fn purge() {
    // All arenas: MALLCTL_ARENAS_ALL.
    const NAME: &std::ffi::CStr = c"arena.4096.purge";
    let null = std::ptr::null_mut();
    // SAFETY: the control takes no value and gives none, so both pointers may be null; the name is a
    // C string. An error changes nothing.
    unsafe { tikv_jemalloc_sys::mallctl(NAME.as_ptr(), null, null.cast(), null, 0) };
}

fn main() -> ExitCode {
    ashlar_server::alloc::set_purge(purge);
    match cli::start(std::env::args_os().skip(1)) {
        Start::Done(code) => code,
        Start::Run(settings) => match run(*settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("ashlar: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(settings: Settings) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let log = tracing_subscriber::fmt().with_target(false).with_max_level(level(&settings));
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
        print!("{}", cli::banner(settings));
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
