//! The questions that `fanfare load` asks when it is started without arguments on a terminal. An answer that can't be right is
//! explained, and the question comes again.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;

use super::args::{LoadArgs, Scenario, parse_clients, parse_duration};
use super::plan::DURATION_DEFAULT;
use super::target::Target;
use crate::client::endpoint::Endpoint;
use crate::redis_address::RedisAddress;

const URL_DEFAULT: &str = "http://127.0.0.1:3001/dashboard/stream";

/// Fills in what `args` leave open; an empty answer selects the default in brackets.
pub fn ask(args: &LoadArgs, input: &mut impl BufRead, output: &mut impl Write) -> anyhow::Result<LoadArgs> {
    let mut args = args.clone();
    let mut questions = Questions { input, output };
    args.urls = vec![questions.ask("Address of the stream", URL_DEFAULT, read_stream)?];
    if args.scenario.is_none() {
        questions.list_scenarios()?;
        args.scenario = Some(questions.ask("Number or name", "multi", read_scenario)?);
    }
    if args.clients.is_none() && args.scenario != Some(Scenario::Single) {
        args.clients = Some(questions.ask("Clients", "1000", parse_clients)?);
    }
    if args.duration.is_none() {
        let default = format!("{}s", DURATION_DEFAULT.as_secs());
        args.duration = Some(questions.ask("How long, once all are connected", &default, read_duration)?);
    }
    if args.publishing.publish_url.is_none() && args.publishing.redis_url.is_none() {
        let question = "Publish to (an http:// or redis:// address, empty for nothing)";
        match questions.ask(question, "", read_outlet)? {
            None => {}
            Some(Outlet::Redis(url)) => args.publishing.redis_url = Some(url),
            Some(Outlet::Http(url)) => args.publishing.publish_url = Some(url),
        }
    }
    Ok(args)
}

struct Questions<'a, R, W> {
    input: &'a mut R,
    output: &'a mut W,
}

impl<R: BufRead, W: Write> Questions<'_, R, W> {
    /// Asks until `read` accepts the answer.
    fn ask<T>(&mut self, question: &str, default: &str, read: impl Fn(&str) -> Result<T, String>) -> anyhow::Result<T> {
        let brackets = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        loop {
            write!(self.output, "{question}{brackets}: ")?;
            self.output.flush()?;
            let mut line = String::new();
            ensure!(self.input.read_line(&mut line)? > 0, "no answer to {question:?}");
            let answer = if line.trim().is_empty() { default } else { line.trim() };
            match read(answer) {
                Ok(value) => return Ok(value),
                Err(error) => writeln!(self.output, "  {error}")?,
            }
        }
    }

    fn list_scenarios(&mut self) -> anyhow::Result<()> {
        writeln!(self.output, "What should the clients do?")?;
        let possible = Scenario::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        for (index, possible) in possible.enumerate() {
            let help = possible.get_help().map(ToString::to_string).unwrap_or_default();
            writeln!(self.output, "  {}  {:10} {help}", index + 1, possible.get_name())?;
        }
        Ok(())
    }
}

/// An address whose host is known here.
fn read_stream(text: &str) -> Result<String, String> {
    Target::new(text, &[]).map(|_| text.to_owned()).map_err(|error| format!("{error:#}"))
}

fn read_scenario(text: &str) -> Result<Scenario, String> {
    let scenarios = Scenario::value_variants();
    let by_number = text.parse::<usize>().ok().and_then(|number| scenarios.get(number.wrapping_sub(1)).copied());
    let by_name = || Scenario::from_str(text, true).ok();
    by_number.or_else(by_name).ok_or_else(|| format!("{text:?} is none of these"))
}

fn read_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|time| if time.is_zero() { Err("more than nothing".to_owned()) } else { Ok(time) })
}

/// Where messages go.
enum Outlet {
    Http(String),
    Redis(String),
}

fn read_outlet(text: &str) -> Result<Option<Outlet>, String> {
    match text {
        "" => Ok(None),
        redis if redis.starts_with("redis") && redis.contains("://") => {
            let address = RedisAddress::new(redis, None).map_err(|error| error.to_string());
            address.map(|_| Some(Outlet::Redis(redis.to_owned())))
        }
        http => Endpoint::read_any_path(http, "/publish").map(|_| Some(Outlet::Http(http.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: LoadArgs,
    }

    /// What was filled in, and what was said.
    fn asked(answers: &str) -> (Option<LoadArgs>, String) {
        let args = Typed::parse_from(["load"]).args;
        let mut output = Vec::new();
        let asked = ask(&args, &mut answers.as_bytes(), &mut output).ok();
        (asked, String::from_utf8(output).unwrap())
    }

    fn check(answers: &str, expected: (&str, Scenario, Option<u32>, u64, Option<&str>)) {
        let (args, said) = asked(answers);
        let args = args.unwrap_or_else(|| panic!("{said}"));
        let publishing = args.publishing.publish_url.as_deref().or(args.publishing.redis_url.as_deref());
        let seconds = args.duration.unwrap().as_secs();
        assert_eq!((&*args.urls[0], args.scenario.unwrap(), args.clients, seconds, publishing), expected, "{said}");
    }

    #[test]
    fn answers_fill_in_the_plan() {
        let default = DURATION_DEFAULT.as_secs();
        check("\n\n\n\n\n", (URL_DEFAULT, Scenario::Multi, Some(1000), default, None));
        let url = "http://127.0.0.1/";
        check(
            &format!("{url}\nstorm\n10k\n2m\nredis://r\n"),
            (url, Scenario::Storm, Some(10_000), 120, Some("redis://r")),
        );
        check("\n1\n5s\nhttp://p\n", (URL_DEFAULT, Scenario::Single, None, 5, Some("http://p")));
        check("\n4\n5\n\nhost:3001\n", (URL_DEFAULT, Scenario::Churn, Some(5), default, Some("host:3001")));
        assert!(asked("").0.is_none() && asked("\nmulti\n").0.is_none(), "the end of the input is no answer");
    }

    #[test]
    fn what_can_not_be_right_is_explained_and_asked_again() {
        let (args, said) = asked("5s\n\n9\nslow\nmany\n20\n30\n0s\n30s\nredis://:\nftp://h\n\n");
        let args = args.unwrap_or_else(|| panic!("{said}"));
        assert_eq!(
            (args.scenario, args.clients, args.duration),
            (Some(Scenario::Slow), Some(20), Some(Duration::from_secs(30)))
        );
        for explanation in [
            "5s",
            "\"9\" is none of these",
            "whole number",
            "\"30\" is not a time",
            "more than nothing",
            "allowed is http://",
        ] {
            assert!(said.contains(explanation), "{explanation}: {said}");
        }
    }
}
