//! `fanfare bus`: installs and examines a durable bus in a Redis stream, and holds it while Redis restarts.

use std::io::{Write, stdout};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::UsageError;
use crate::cli::{BusAction, BusArgs, BusPlace, CheckArgs, HoldArgs};
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::redis_stream::{
    Finding, HOLD_WAIT_MAX, Held, Opened, RedisStream, Status, StreamSettings, Verdict,
};

/// Between two attempts to open a held bus.
const OPEN_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn run(args: &BusArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        BusAction::Install(args) => {
            let mut stream = stream_at(&args.place)?;
            stream.install(args.force)?;
            if args.topic_bytes.is_some() || args.event_bytes.is_some() {
                stream.raise_bounds(args.topic_bytes, args.event_bytes)?;
            }
            say("the functions of the bus are installed")?;
        }
        BusAction::Status(place) => say(&shown(&stream_at(place)?.status()?))?,
        BusAction::Check(args) => return check(args),
        BusAction::Hold(args) => hold(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut settings = settings_of(&args.place)?;
    settings.entries_max = args.entries;
    let findings = RedisStream::new(settings).check()?;
    if args.json {
        say(&serde_json::to_string_pretty(&findings)?)?;
    } else {
        for Finding { verdict, subject, text, advice } in &findings {
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Note => "note",
                Verdict::Problem => "PROBLEM",
            };
            say(&format!("{verdict:<8}{subject:<13}{text}"))?;
            if !advice.is_empty() {
                say(&format!("{:21}do: {advice}", ""))?;
            }
        }
    }
    let is_good = findings.iter().all(|finding| finding.verdict != Verdict::Problem);
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shown(status: &Status) -> String {
    let Status { last, first, entries, format, bounds, is_held } = status;
    let first = first.map_or("-".to_owned(), |first| first.to_string());
    let bounds = bounds.map_or("set by the first node".to_owned(), |(topic, event)| {
        format!("topics of {topic} bytes, events of {event} bytes")
    });
    let held = if *is_held { "\nheld      publishing is refused: fanfare bus hold runs" } else { "" };
    format!("position  {last}\nfirst     {first}\nentries   {entries}\nformat    {format}\nbounds    {bounds}{held}")
}

fn stream_at(place: &BusPlace) -> anyhow::Result<RedisStream> {
    Ok(RedisStream::new(settings_of(place)?))
}

fn settings_of(place: &BusPlace) -> anyhow::Result<StreamSettings> {
    Ok(StreamSettings {
        address: super::redis::redis_address(&place.redis_url, place.redis_password_file.as_deref())?,
        name: place.name.clone(),
        bounds: Arc::default(),
        // Nothing is appended or read.
        entries_max: 0,
        id_memory: Duration::ZERO,
        limits: PublishLimits { topic_bytes_max: 0, data_bytes_max: 0, batch_max: 0 },
    })
}

/// Holds the bus while the command runs, and until Redis is another process or another server.
fn hold(args: &HoldArgs) -> anyhow::Result<()> {
    let (program, arguments) = args.command.split_first().ok_or(UsageError("no command is given".to_owned()))?;
    let mut stream = stream_at(&args.place)?;
    let random = || getrandom::u64().context("asking the kernel for random bits");
    let token = format!("{:016x}{:016x}", random()?, random()?);
    let held_at = Instant::now();
    let Held { last, replicas, replicas_reached } = stream.hold(&token)?;
    say(&format!("held at {last}; {replicas_reached} of {replicas} replicas have it"))?;
    let outcome = Command::new(program).args(arguments).status();
    let is_done = outcome.as_ref().is_ok_and(ExitStatus::success);
    loop {
        let is_last = held_at.elapsed() + OPEN_INTERVAL >= HOLD_WAIT_MAX;
        let is_given_up = is_last || !is_done;
        match stream.open(&token, is_given_up) {
            Ok(Opened::Forked(fork)) => {
                say(&format!("open again at {fork}: nothing was lost"))?;
                break;
            }
            Ok(Opened::Unchanged) if !is_done => break,
            Ok(Opened::Unchanged) if is_last => {
                anyhow::bail!("Redis has not restarted and has not failed over; the bus is open again")
            }
            Ok(Opened::Lost) => {
                anyhow::bail!("Redis lacks the end of the bus; it opens by itself, and all subscribers get a gap")
            }
            Err(error) if is_last => {
                anyhow::bail!("{error}; the bus opens by itself within two minutes, and all subscribers may get a gap")
            }
            Ok(Opened::Unchanged) | Err(_) => std::thread::sleep(OPEN_INTERVAL),
        }
    }
    match outcome.with_context(|| format!("can't run {program}"))? {
        status if status.success() => Ok(()),
        status => anyhow::bail!("{program} failed: {status}"),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{text}")?)
}
