//! Log lines: `[YYYY-MM-DD HH:MM:SS] message` on standard error, in local time, as SGLang writes them.

use std::{backtrace::Backtrace, backtrace::BacktraceStatus, fmt, io, io::Write, panic, thread, time::Duration};

use quern_api::{
    access_log::ACCESS,
    log_queue::{LOG, LogLine},
};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{ChronoLocal, FormatTime},
    },
    registry::LookupSpan,
};

use crate::config::LogLevel;

/// Time for the last lines to be written before the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Begin to log. `RUST_LOG` goes before the flags. Panics are logged as well: the standard hook writes to standard
/// error itself, and would wait there for a reader that has paused.
///
/// # Errors
/// If the thread that writes cannot be started.
pub fn init(level: LogLevel, level_http: LogLevel) -> io::Result<()> {
    LOG.start()?;
    let filter = std::env::var("RUST_LOG").ok().filter(|rules| !rules.is_empty());
    let filter = filter.unwrap_or_else(|| rules(level, level_http));
    // A second call, from tests in one process, keeps the first's settings.
    let _ = tracing_subscriber::fmt()
        // They would be printed by `eprintln!`, which panics where standard error is what has failed.
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::new(filter))
        .event_format(EventFormat { clock: ChronoLocal::new("%Y-%m-%d %H:%M:%S".into()) })
        .with_writer(|| LogLine)
        .try_init();
    panic::set_hook(Box::new(|info| {
        let backtrace = Backtrace::capture();
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        match backtrace.status() {
            BacktraceStatus::Captured => tracing::error!("thread '{name}' {info}\n{backtrace}"),
            _ => tracing::error!("thread '{name}' {info}"),
        }
    }));
    Ok(())
}

/// A last word that is no line of the log: why the program ends with a failure.
pub fn say(message: fmt::Arguments<'_>) {
    LOG.push(format!("{message}\n").as_bytes());
}

/// Wait for what is logged to be written, within a bound: a reader that has paused does not keep the process.
pub fn flush() {
    LOG.flush(FLUSH_TIMEOUT);
    // The reader, such as `head`, has closed the pipe.
    let _ = io::stdout().flush();
}

/// Our own crates at `level`, the access log at `level_http`, libraries only where they warn.
fn rules(level: LogLevel, level_http: LogLevel) -> String {
    let (others, own) = (name(level.max(LogLevel::Warning)), name(level));
    let crates = ["", "_api", "_engine", "_model", "_text", "_cpu", "_backend"];
    let own: Vec<_> = crates.iter().map(|part| format!("quern{part}={own}")).collect();
    format!("{others},{ACCESS}={},{}", name(level_http), own.join(","))
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warning => "warn",
        LogLevel::Error => "error",
    }
}

struct EventFormat<T> {
    clock: T,
}

impl<S, N, T> FormatEvent<S, N> for EventFormat<T>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    T: FormatTime,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        out.write_char('[')?;
        self.clock.format_time(&mut out)?;
        out.write_str("] ")?;
        match *event.metadata().level() {
            Level::ERROR => out.write_str("ERROR: ")?,
            Level::WARN => out.write_str("WARNING: ")?,
            _ => {}
        }
        // Through a text of our own: no colours, which only disturb those who search a log.
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        writeln!(out, "{fields}")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Noon;

    impl FormatTime for Noon {
        fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
            out.write_str("2026-01-30 12:00:00")
        }
    }

    #[test]
    fn lines_have_sglangs_form_and_the_filter_of_the_flags() {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(rules(LogLevel::Info, LogLevel::Error)))
            .event_format(EventFormat { clock: Noon })
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "quern", "ready");
            tracing::debug!("too much");
            tracing::warn!(target: "hyper", "odd");
            tracing::info!(target: "hyper", "chatter");
            tracing::info!(target: ACCESS, "GET /");
            tracing::error!(code = 7, "failed");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "[2026-01-30 12:00:00] ready\n[2026-01-30 12:00:00] WARNING: odd\n[2026-01-30 12:00:00] ERROR: failed code=7\n"
        );
    }
}
