//! `fanfare bus`: installs and examines a durable bus in a Redis stream.

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{BusAction, BusArgs};
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::redis_stream::{RedisStream, Status, StreamSettings};

pub(super) fn run(args: &BusArgs) -> anyhow::Result<ExitCode> {
    let mut stream = RedisStream::new(StreamSettings {
        address: super::redis::redis_address(&args.redis_url, args.redis_password_file.as_deref())?,
        name: args.name.clone(),
        // Nothing is appended or read.
        entries_max: 0,
        id_memory: Duration::ZERO,
        limits: PublishLimits { topic_bytes_max: 0, data_bytes_max: 0, batch_max: 0 },
    });
    let text = match args.action {
        BusAction::Install => {
            stream.install()?;
            "the functions of the bus are installed\n".to_owned()
        }
        BusAction::Status => {
            let Status { last, entries } = stream.status()?;
            format!("position  {last}\nentries   {entries}\n")
        }
    };
    stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
