//! `fanfare bus`: installs and examines a durable bus, and holds one in Redis while that restarts.

use std::io::{Write, stdout};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{UsageError, kafka, postgres};
use crate::cli::{BusAction, BusArgs, BusPlace, CheckArgs, HoldArgs};
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::findings::{Finding, Verdict};
use crate::sources::bus::redis_stream::{HOLD_WAIT_MAX, Held, Opened, RedisStream, StreamSettings};
use crate::sources::bus::tools::BusTools;

/// Between two attempts to open a held bus.
const OPEN_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn run(args: &BusArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        BusAction::Install(args) if args.print && args.place.kafka.brokers.is_some() => {
            say(&kafka::installation(&args.place)?)?;
        }
        BusAction::Install(args) if args.print => say(&postgres::installation(&args.place)?)?,
        BusAction::Install(args) => {
            let mut bus = bus_at(&args.place, 0)?;
            bus.install(args.force)?;
            if args.topic_bytes.is_some() || args.event_bytes.is_some() {
                bus.raise_bounds(args.topic_bytes, args.event_bytes)?;
            }
            if let Some(is_on) = args.notify {
                bus.set_notify(is_on)?;
            }
            say(match args.place.kafka.brokers {
                Some(_) => "the topic of the bus is there",
                None => "the functions of the bus are installed",
            })?;
        }
        BusAction::Status(place) => say(&bus_at(place, 0)?.status()?.to_string())?,
        BusAction::Check(args) => return check(args),
        BusAction::Hold(args) => hold(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let findings = bus_at(&args.place, args.entries)?.check()?;
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

/// The bus that is to keep this number of entries.
fn bus_at(place: &BusPlace, entries_max: u64) -> anyhow::Result<Box<dyn BusTools>> {
    match (&place.kafka.brokers, &place.postgres_url) {
        (Some(brokers), _) => kafka::bus_at(place, brokers, entries_max),
        (None, Some(url)) => postgres::bus_at(place, url.as_str(), entries_max),
        (None, None) => Ok(Box::new(stream_at(place, entries_max)?)),
    }
}

fn stream_at(place: &BusPlace, entries_max: u64) -> anyhow::Result<RedisStream> {
    let missing = "give --redis-url, --postgres-url or --kafka-brokers: it names the server that has the bus";
    let missing = || UsageError(missing.to_owned());
    let url = place.redis_url.as_deref().ok_or_else(missing)?;
    Ok(RedisStream::new(StreamSettings {
        address: super::redis::redis_address(url, place.redis_password_file.as_deref())?,
        name: place.name.clone(),
        bounds: Arc::default(),
        entries_max,
        // Nothing is appended or read.
        id_memory: Duration::ZERO,
        limits: PublishLimits::NONE,
    }))
}

/// Holds the bus while the command runs, and until Redis is another process or another server.
fn hold(args: &HoldArgs) -> anyhow::Result<()> {
    let (program, arguments) = args.command.split_first().ok_or(UsageError("no command is given".to_owned()))?;
    if args.place.postgres_url.is_some() || args.place.kafka.brokers.is_some() {
        return Err(UsageError("a bus in PostgreSQL or Kafka needs no hold: a restart is no gap".to_owned()).into());
    }
    let mut stream = stream_at(&args.place, 0)?;
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
